"""UniSID: SIDs end to end from an item's raw text, attributes and images (arXiv 2602.10445).

One backbone reads the item with L learned SID tokens and an EMB token behind it; linear heads give
the codes and a dense vector. All losses look at continuous quantities, and a code is the largest
logit of its level: there is no codebook of vectors and no residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_sid.errors import InputError
from recbole_sid.items.schema import ItemInputs
from recbole_sid.seeds import random_state, set_random_state
from recbole_sid.tokenizer.backbone import Backbone
from recbole_sid.tokenizer.balanced_batches import BalancedBatches
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger, seeded
from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed
from recbole_sid.tokenizer.finite import FiniteWatch
from recbole_sid.tokenizer.granularity import granularity
from recbole_sid.tokenizer.largest_groups import largest_groups
from recbole_sid.tokenizer.reconstruction import Summaries, summary_decoder
from recbole_sid.tokenizer.repulsion import Repulsion
from recbole_sid.tokenizer.sid_reader import SidReader
from recbole_sid.tokenizer.unisid_losses import (
    balance_loss,
    embedding_loss,
    level_directions,
    multi_granularity_loss,
)
from recbole_sid.tokenizer.unisid_network import Encoded, UniSIDNetwork, image_dim_of
from recbole_sid.tokenizer.unisid_reading import (
    KEPT,
    Catalogue,
    CodesRead,
    autocast,
    image_tensors,
    read_batch,
    read_codes,
)
from recbole_sid.tokenizer.unisid_settings import UniSIDSettings
from recbole_sid.tokenizer.unisid_watch import EpochWatch, describe_epoch

COLLAPSE_REMEDY = (
    "set tokenizer_balance_weight above 0, tokenizer_similarity to probabilities, or lower "
    "tokenizer_learning_rate and tokenizer_head_learning_rate"
)


@dataclass
class Progress:
    """How far the training is: epochs done, and an entry of diagnostics for each."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class _Step(NamedTuple):
    """The samples of a step: A anchors, positives of the levels, then A targets (and A views).

    Attributes:
        rows: int64 (N,), their items.
        n_anchors: A.
        target: slice of the targets among the samples.
    """

    rows: Tensor
    n_anchors: int
    target: slice


class UniSID(Tokenizer[UniSIDSettings]):
    """Trains backbone, heads and summary decoder together, and reads codes and vectors off them.

        L = sid_weight · mean over levels of the multi-granularity contrastive loss
          + embedding_weight · InfoNCE of the EMB vectors
          + reconstruction_weight · next-token cross-entropy of the item's summary
          + balance_weight · balance of the codes (ours, 0 in the paper)

    plus repulsion, if it is on, between items of nearly equal codes (QuaSID's): the distance is
    that of the concatenated logits, or of the EMB vectors (``repulsion_on``).

    A batch is :class:`BalancedBatches`' anchors and positives, and for every anchor a target: an
    item that goes together with it (``pair_source``; training interactions only), or itself, a
    second view under dropout, where there is none. ``second_view`` brings every anchor a second
    time. All samples are positives and negatives of the first loss; targets are the positives of
    the second, and with ``pair_levels`` (ours; the paper: 0) of the first one too, at so many of
    the last levels, so that these codes say what goes together, not only what is alike. With
    ``apart_weight`` below 1 (ours) a level spends itself on what the levels before have not told
    apart, and fewer items share all codes. The third is over anchors. Temperatures, epochs, the
    optimizer and the make-up of batches are open in the paper.

    With ``rotate`` every level's logits are turned at random before the codes are read off: the
    control that shows what the faithful ``similarity: logits`` does not determine.

    Other items get their codes from what was trained, over the backbone's own weights, loaded again
    by its name. ``precision: auto`` may take another type on another processor than the fit did,
    and an item between two codes the other one.
    """

    Settings: ClassVar[type] = UniSIDSettings
    name: ClassVar[str] = "unisid"
    needs_vectors: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True
    parallel: ClassVar[bool] = True
    can_assign: ClassVar[bool] = True
    collapse_remedy: ClassVar[str] = COLLAPSE_REMEDY
    assigns_by: ClassVar[Literal["vectors", "source"]] = "source"

    def fit_sorted(self, items: Items) -> BaseCodes:
        if items.source is None or items.pairs is None or items.vectors is None:
            raise InputError(
                "tokenizer unisid needs the items' columns, vectors and pairs (Items.source, "
                "Items.vectors, Items.pairs), but one of them is missing"
            )
        settings = self.settings
        granular = granularity(
            items.source.categories(),
            items.vectors,
            settings,
            seed=self.seed,
            progress=self.progress,
        )
        for line in granular.description:
            logger.info("unisid %s", line)
        with seeded(self.seed, self.device):
            backbone = Backbone(settings)
            decoder, summaries = None, None
            if settings.reconstruction_weight:
                texts = items.source.summaries()
                decoder, summaries = summary_decoder(settings, backbone, settings.levels, texts)
                decoder = decoder.to(self.device)
            inputs = items.source.inputs(backbone.tokenizer)
            image_dim = None if inputs.images is None else inputs.images.shape[2]
            network = self._network(backbone, image_dim)
            with self._autocast():
                content = network.reader.content(
                    inputs.token_ids, inputs.offsets, KEPT, settings.batch_size, self.progress
                )
            catalogue = Catalogue(
                content,
                image_tensors(inputs),
                np.diff(inputs.offsets),
                torch.from_numpy(granular.labels),
            )
            self._pairs = items.pairs
            self._vectors = torch.from_numpy(items.vectors)
            history = self._train(network, decoder, summaries, catalogue)
            if settings.rotate:
                network.rotate(torch.Generator().manual_seed(self.seed))
            codes, space, embeddings = self._read_codes(network, inputs)
        use = code_use(codes, settings.sizes)
        logger.info("unisid: %s", describe(use))
        warn_if_collapsed(use, settings.sizes, len(codes), settings.collapse_below, COLLAPSE_REMEDY)
        report = {
            "epochs": settings.epochs,
            "granularity": granular.description,
            "history": history,
            "largest_groups": largest_groups(codes, items),
            **use,
        }
        weights = network.trained_weights()
        return BaseCodes(codes, settings.sizes, report, space, embeddings, weights)

    # -- training ---------------------------------------------------------------------------------

    def _train(
        self,
        network: UniSIDNetwork,
        decoder: nn.Module | None,
        summaries: Summaries | None,
        catalogue: Catalogue,
    ) -> list[dict[str, Any]]:
        """Train the networks in place up to the last epoch; the diagnostics of every epoch."""
        settings = self.settings
        batches = BalancedBatches(catalogue.labels.numpy(), settings)
        repulsion = Repulsion(settings)
        others = [] if decoder is None else [decoder]
        groups = network.parameter_groups(
            others, settings.learning_rate, settings.head_learning_rate
        )
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, _warm_then_linear(settings.warmup_share, len(batches) * settings.epochs)
        )
        modules = nn.ModuleList([network, *others])
        trained = [p for group in groups for p in group["params"]]
        progress = Progress()
        state = None if self.checkpoint is None else self.checkpoint.load(self.device)
        if state is not None:
            modules.load_state_dict(state["modules"], strict=False)
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            set_random_state(state["random"], self.device)
            progress = Progress(**state["progress"])
            logger.info("unisid: resuming after epoch %d", progress.epoch)

        def state_now() -> dict[str, Any]:
            names = {name for name, p in modules.named_parameters() if p.requires_grad}
            weights = modules.state_dict()
            return {
                "progress": asdict(progress),
                "modules": {name: weights[name] for name in names},
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "random": random_state(self.device),
            }

        remedy = (
            f"Lower tokenizer_learning_rate ({settings.learning_rate}) or "
            f"tokenizer_head_learning_rate ({settings.head_learning_rate})"
        )
        finite = FiniteWatch(self.name, remedy, self.checkpoint, self.device)
        for epoch in range(progress.epoch + 1, settings.epochs + 1):
            modules.train()
            finite.begin_epoch(epoch)
            repulsion.begin_epoch(epoch, settings.epochs)
            watch = EpochWatch(settings.levels, settings.sizes[0])
            bar = tqdm(
                batches.epoch(),
                desc=f"unisid epoch {epoch}/{settings.epochs}",
                total=len(batches),
                disable=not self.progress,
            )
            for batch in bar:
                step = self._step(batch.rows, batch.n_anchors)
                encoded = read_batch(
                    network, catalogue, step.rows.numpy(), settings.precision, self.device
                )
                terms = self._losses(encoded, step, catalogue, decoder, summaries, repulsion, watch)
                loss = torch.stack(list(terms.values())).sum()
                finite.see(loss)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained, settings.clip_norm)
                optimizer.step()
                schedule.step()
                watch.see(terms, encoded.codes.detach(), step.n_anchors)
            finite.end_epoch(modules)
            entry = {"epoch": epoch, **watch.means(), **batches.figures(), **repulsion.figures()}
            progress.history.append(entry)
            logger.info("unisid epoch %d: %s", epoch, describe_epoch(entry, repulsion))
            progress.epoch = epoch
            if self.checkpoint is not None:
                self.checkpoint.save_when_due(state_now)
        return progress.history

    def _step(self, rows: Tensor, n_anchors: int) -> _Step:
        """Add a target for every anchor, and its second view."""
        anchors = rows[:n_anchors]
        uniform = torch.rand(n_anchors, dtype=torch.float64).numpy()
        found = self._pairs.chosen(anchors.numpy(), uniform, by_score=True)
        targets = torch.from_numpy(np.where(found < 0, anchors.numpy(), found))
        views = [anchors] if self.settings.second_view else []
        target = slice(len(rows), len(rows) + n_anchors)
        return _Step(torch.cat([rows, targets, *views]), n_anchors, target)

    def _autocast(self) -> torch.autocast:
        return autocast(self.settings.precision, self.device)

    def _losses(
        self,
        encoded: Encoded,
        step: _Step,
        catalogue: Catalogue,
        decoder: nn.Module | None,
        summaries: Summaries | None,
        repulsion: Repulsion,
        watch: EpochWatch,
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss by name."""
        settings, n_anchors = self.settings, step.n_anchors
        rows = step.rows.to(self.device)
        terms: dict[str, Tensor] = {}
        if settings.sid_weight:
            directions = level_directions(
                encoded.logits, settings.similarity, settings.similarity_temperature
            )
            labels = catalogue.labels[step.rows].to(self.device)
            found = multi_granularity_loss(
                directions,
                labels,
                rows,
                settings.sid_temperature,
                n_anchors,
                step.target,
                settings.levels if settings.pair_levels is None else settings.pair_levels,
                encoded.codes,
                settings.apart_weight,
            )
            terms["sid"] = settings.sid_weight * found.losses.mean()
            watch.levels(found.losses.detach())
        if settings.balance_weight:
            balance = balance_loss(encoded.logits, settings.balance_temperature)
            terms["balance"] = settings.balance_weight * balance.mean()
        if settings.embedding_weight:
            paired = torch.ones(n_anchors, dtype=torch.bool, device=self.device)
            loss = embedding_loss(
                encoded.embedding[:n_anchors],
                encoded.embedding[step.target],
                rows[:n_anchors],
                rows[step.target],
                settings.embedding_temperature,
                paired,
            )
            terms["embedding"] = settings.embedding_weight * loss
        if decoder is not None and summaries is not None:
            targets, present = summaries.batch(step.rows[:n_anchors].numpy(), self.device)
            with self._autocast():
                loss = decoder(encoded.states[:n_anchors], targets, present)
            terms["reconstruction"] = settings.reconstruction_weight * loss
        on_logits = settings.repulsion_on == "logits"
        latents = encoded.logits.flatten(1) if on_logits else encoded.embedding
        content = self._vectors[step.rows].to(self.device)
        return terms | repulsion(latents, encoded.codes, rows, content=content)

    # -- codes ------------------------------------------------------------------------------------

    def assigned(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        assert items.source is not None
        settings = self.settings
        image_dim = image_dim_of(weights)
        with seeded(self.seed, self.device):
            backbone = Backbone(settings)
            network = self._network(backbone, image_dim)
        network.load_trained(weights)
        inputs = items.source.inputs(backbone.tokenizer)
        if inputs.images is not None and inputs.images.shape[2] != image_dim:
            fitted = "without images" if image_dim is None else f"with images of {image_dim}"
            raise InputError(
                f"the items have image vectors of {inputs.images.shape[2]} dimensions, but the "
                f"tokenizer was fitted {fitted}: give the items what those of the fit had"
            )
        read = self._read_codes(network, inputs)
        report = dict(code_use(read.codes, settings.sizes))
        return BaseCodes(read.codes, settings.sizes, report, read.space, read.embeddings)

    def _network(self, backbone: Backbone, image_dim: int | None) -> UniSIDNetwork:
        settings = self.settings
        reader = SidReader(backbone, settings.levels, image_dim)
        network = UniSIDNetwork(reader, settings.sizes[0], settings.embedding_dim)
        return network.to(self.device)

    def _read_codes(self, network: UniSIDNetwork, inputs: ItemInputs) -> CodesRead:
        return read_codes(network, inputs, self.settings.precision, self.device, self.progress)


def _warm_then_linear(warmup_share: float, steps: int) -> Any:
    """A factor that rises to 1 over a share of the steps, then falls to 0 in the last one."""
    warm = max(1, round(warmup_share * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return max(0.0, (steps - step) / max(1, steps - warm))

    return factor
