"""MMQ-v2, whose SIDs are called ADA-SID: a mixture of shared and modality-specific codebooks over
text, image and behaviour vectors (arXiv 2510.25622), after MMQ (arXiv 2508.15281)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_sid.seeds import random_state, set_random_state
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger, seeded
from recbole_sid.tokenizer.blocks import in_blocks
from recbole_sid.tokenizer.code_use import code_use, warn_if_collapsed
from recbole_sid.tokenizer.finite import FiniteWatch
from recbole_sid.tokenizer.largest_groups import largest_groups
from recbole_sid.tokenizer.losses import codebook_loss, commitment_loss
from recbole_sid.tokenizer.mmq_inputs import (
    BEHAVIOUR,
    IMAGE,
    TEXT,
    Modalities,
    fitted_modalities,
    modalities,
)
from recbole_sid.tokenizer.mmq_losses import (
    alignment_loss,
    content_loss,
    current_sparsity,
    next_penalty,
    orthogonality_loss,
    reconstruction_loss,
    sparsity_loss,
    target_sparsity,
)
from recbole_sid.tokenizer.mmq_network import Mixed, MixtureNetwork
from recbole_sid.tokenizer.mmq_settings import MMQSettings
from recbole_sid.tokenizer.mmq_watch import diagnosed
from recbole_sid.tokenizer.rqvae import Progress
from recbole_sid.tokenizer.stored_weights import require_shapes

COLLAPSE_REMEDY = (
    "keep tokenizer_kmeans_init on and tokenizer_restart_after small, or lower "
    "tokenizer_commitment, tokenizer_learning_rate or tokenizer_codebook_size"
)


class MMQ(Tokenizer[MMQSettings]):
    """Trains experts over all modalities of an item, and reads a code off each.

        L = L_recon + commitment · Σ_l ‖z_l - sg[e_l]‖²  (+ Σ_l ‖sg[z_l] - e_l‖²)
          + content_weight · L_content + alignment_weight · w · L_align
          + λ · L_reg + orthogonality_weight · L_orth,

    see :mod:`~recbole_sid.tokenizer.mmq_losses` and :mod:`~recbole_sid.tokenizer.mmq_network`. The
    codes are parallel: shared ones first, then those of text, images and behaviour. A modality is
    the item's text vector, the mean of its image vectors, where the data has some (without any,
    L_content and the experts of images do not exist), or its behaviour vector, SASRec's as
    published.

    MMQ-v2's are all losses but the two of the codebooks, which what we have of the paper does not
    name, and L_orth, which is MMQ's (0 in v2); codebooks are learned as in our RQ-VAE. Open are all
    weights and all sizes of the networks. Ours are the standardised modalities with equal shares in
    the reconstruction (``modality_balance``), though they differ in dimensions, and ``loss_unit``:
    with ``length`` both contrastive losses count in units of the mean squared length of what is
    reconstructed. Sparsity is measured per batch, over the items with behaviour.

    The strength w of an item's alignment is the paper's, with alpha 10 and beta 9; but the norms of
    behaviour vectors that are trained here are so spread that w is then 0.04 in the mean, and the
    alignment all but off. Ours is ``strength_damped``, which takes beta from the norms: it damps
    that share of the items, 40 % by default, which the paper says its constants do.

    Left out is the second stage of MMQ, behaviour-aware fine-tuning, where the loss of the
    recommender moves the codebooks on: codes are final before a generator trains.

    Items without behaviour, new ones among them, count as items of the mean behaviour: all have the
    same behaviour codes, which the router gives weight 0, and the other codes say what they are. So
    that shared experts learn to do without, ``behaviour_dropout`` hides the behaviour of some items
    in every step (ours).
    :meth:`assign` reads ``Items.source`` if the fit had images, and ``Items.behaviour`` where there
    is some; without it, items of the fit that had some may get other codes.
    """

    Settings: ClassVar[type] = MMQSettings
    name: ClassVar[str] = "mmq"
    needs_vectors: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True
    needs_behaviour: ClassVar[bool] = True
    parallel: ClassVar[bool] = True
    can_assign: ClassVar[bool] = True
    collapse_remedy: ClassVar[str] = COLLAPSE_REMEDY

    def fit_sorted(self, items: Items) -> BaseCodes:
        settings = self.settings
        vectors = modalities(items)
        without = {name: int((~rows.any(axis=1)).sum()) for name, rows in vectors.items()}
        logger.info(
            "mmq: %s%s",
            ", ".join(
                f"{name} vectors of {rows.shape[1]} numbers ({without[name]} items without)"
                for name, rows in vectors.items()
            ),
            "" if IMAGE in vectors else "; no images, so no experts of images",
        )
        joined = np.concatenate(list(vectors.values()), axis=1)
        with seeded(self.seed, self.device):
            network = self._network(vectors)
            network.scale_to(vectors)
            progress = self._train(network, torch.from_numpy(joined).to(self.device))
        codes, space = self._read(network, joined)
        sizes = space.sizes
        use = code_use(codes, sizes)
        warn_if_collapsed(use, sizes, len(codes), settings.collapse_below, COLLAPSE_REMEDY)
        report = {
            "levels": network.levels,
            "without": without,
            "epochs": settings.epochs,
            "restarted": progress.restarted,
            "history": progress.history,
            "largest_groups": largest_groups(codes, items),
            **use,
        }
        weights = {name: t.cpu().numpy() for name, t in network.encoding_weights().items()}
        return BaseCodes(codes, sizes, report, space, None, weights)

    def assigned(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        vectors = fitted_modalities(items, weights)
        with seeded(self.seed, self.device):
            network = self._network(vectors)
        state = network.encoding_weights()
        require_shapes(weights, {name: tuple(tensor.shape) for name, tensor in state.items()})
        # Gates and decoder are for training.
        network.load_state_dict(
            {name: torch.from_numpy(weights[name]) for name in state}, strict=False
        )
        codes, space = self._read(network, np.concatenate(list(vectors.values()), axis=1))
        return BaseCodes(codes, space.sizes, dict(code_use(codes, space.sizes)), space)

    def _network(self, vectors: Modalities) -> MixtureNetwork:
        widths = {name: rows.shape[1] for name, rows in vectors.items()}
        return MixtureNetwork(widths, self.settings).to(self.device)

    # -- codes ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _read(self, network: MixtureNetwork, joined: np.ndarray) -> tuple[np.ndarray, CodeSpace]:
        """Codes int32 (n, L) of the raw vectors ``joined`` (n, ΣD_m), and their space: of cosines.

        No item depends on another.
        """
        network.eval()

        def read(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            latents = network.encode(torch.from_numpy(block).to(self.device)).latents
            codes = network.nearest(latents).cpu().numpy().astype(np.int32)
            return codes, torch.nn.functional.normalize(latents, dim=2).cpu().numpy()

        codes, latents = in_blocks(read, joined)
        books = (torch.nn.functional.normalize(book.vectors, dim=1) for book in network.books)
        return codes, CodeSpace(latents, tuple(book.cpu().numpy() for book in books), False)

    # -- training ---------------------------------------------------------------------------------

    def losses(self, network: MixtureNetwork, output: Mixed) -> dict[str, Tensor]:
        """The weighted terms of the loss by name; what is trained is their sum."""
        settings, encoded = self.settings, output.encoded
        names = list(network.widths)
        known = encoded.present[BEHAVIOUR]
        total = sum(network.widths.values())
        equal = settings.modality_balance == "equal"
        terms = {
            "reconstruction": reconstruction_loss(
                [output.decoded[name] for name in names],
                [encoded.originals[name] for name in names],
                [encoded.present[name] for name in names],
                [
                    total / (len(names) * width) if equal else 1.0
                    for width in network.widths.values()
                ],
            )
        }
        seen = output.seen[:, :, None]
        latents, chosen = encoded.latents * seen, output.chosen * seen
        terms["commitment"] = settings.commitment * commitment_loss(latents, chosen)
        if settings.codebook_update == "gradient":
            terms["codebook"] = codebook_loss(latents, chosen)
        # Standardised vectors have this squared length in the mean.
        unit = total if settings.loss_unit == "length" else 1.0
        content = encoded.projected[TEXT]
        if IMAGE in network.widths:
            image = encoded.projected[IMAGE]
            both = encoded.present[TEXT] & encoded.present[IMAGE]
            loss = content_loss(content, image, settings.temperature, both)
            terms["content"] = unit * settings.content_weight * loss
            content = content + image * encoded.present[IMAGE][:, None]
        loss = alignment_loss(
            encoded.projected[BEHAVIOUR], content, output.strength, settings.temperature, known
        )
        terms["alignment"] = unit * settings.alignment_weight * loss
        routed = output.routed[known]
        if routed.numel() > 0:
            target = target_sparsity(output.rich[known], settings.sparsity)
            terms["sparsity"] = network.penalty * sparsity_loss(routed, target)
        if settings.orthogonality_weight > 0:
            loss = orthogonality_loss(network.output_weights())
            terms["orthogonality"] = settings.orthogonality_weight * loss
        return terms

    def _train(self, network: MixtureNetwork, rows: Tensor) -> Progress:
        """Train the network in place up to the last epoch, on items ``rows`` (n, ΣD_m)."""
        settings = self.settings
        optimizer = _optimizer(network, settings)
        progress = self._restored(network, optimizer)
        if progress is None:
            progress = Progress()
            if settings.kmeans_init:
                sample = torch.randperm(len(rows), device=self.device)
                network.eval()
                network.start_codebooks(
                    rows[sample[: settings.kmeans_init_sample]], np.random.RandomState(self.seed)
                )

        def state() -> dict[str, Any]:
            return {
                "progress": asdict(progress),
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(self.device),
            }

        bar = tqdm(
            range(progress.epoch + 1, settings.epochs + 1),
            desc="mmq epochs",
            initial=progress.epoch,
            total=settings.epochs,
            disable=not self.progress,
        )
        remedy = f"Lower tokenizer_learning_rate ({settings.learning_rate})"
        watch = FiniteWatch(self.name, remedy, self.checkpoint, self.device)
        for epoch in bar:
            watch.begin_epoch(epoch)
            means = self._epoch(network, optimizer, rows, progress, watch)
            watch.end_epoch(network)
            loss = sum(means.values())
            bar.set_postfix(loss=f"{loss:.4g}")
            if epoch % settings.log_every == 0 or epoch == settings.epochs:
                progress.history.append(diagnosed(network, rows, settings, epoch, means))
            progress.epoch = epoch
            if self.checkpoint is not None:
                self.checkpoint.save_when_due(state)
        return progress

    def _epoch(
        self,
        network: MixtureNetwork,
        optimizer: torch.optim.Optimizer,
        rows: Tensor,
        progress: Progress,
        watch: FiniteWatch,
    ) -> dict[str, float]:
        """One pass over the items in random order; the mean of every term of the loss."""
        settings = self.settings
        network.train()
        totals: dict[str, Tensor] = {}
        for batch in torch.randperm(len(rows), device=self.device).split(settings.batch_size):
            output = network(self._some_hidden(network, rows[batch]))
            terms = self.losses(network, output)
            loss = torch.stack(list(terms.values())).sum()
            watch.see(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.restarted += network.follow(output, settings.restart_after)
            self._adapt_penalty(network, output)
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + term.detach() * len(batch)
        return {name: float(total) / len(rows) for name, total in totals.items()}

    def _some_hidden(self, network: MixtureNetwork, rows: Tensor) -> Tensor:
        """``rows`` (B, ΣD_m), some of them without their behaviour."""
        share = self.settings.behaviour_dropout
        if share == 0:
            return rows
        kept = torch.rand(len(rows), 1, device=rows.device) >= share
        others, behaviour = rows.tensor_split([-network.widths[BEHAVIOUR]], dim=1)
        return torch.cat([others, behaviour * kept], dim=1)

    @torch.no_grad()
    def _adapt_penalty(self, network: MixtureNetwork, output: Mixed) -> None:
        """λ of the next step: up if the router was not as sparse as it is to be, or down.

        At most the loss of a decoder that gives zero: a λ that nothing holds would overflow.
        """
        known, settings = output.encoded.present[BEHAVIOUR], self.settings
        routed = output.routed[known]
        if routed.numel() > 0:
            target = target_sparsity(output.rich[known], settings.sparsity)
            network.penalty.copy_(
                next_penalty(
                    network.penalty,
                    target,
                    current_sparsity(routed),
                    settings.penalty_step,
                    settings.penalty_start,
                    sum(network.widths.values()),
                )
            )

    def _restored(
        self, network: MixtureNetwork, optimizer: torch.optim.Optimizer
    ) -> Progress | None:
        """What a killed training of the same items and settings had reached, if there was one."""
        state = None if self.checkpoint is None else self.checkpoint.load(self.device)
        if state is None:
            return None
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"], self.device)
        progress = Progress(**state["progress"])
        logger.info("mmq: resuming after epoch %d", progress.epoch)
        return progress


def _optimizer(network: MixtureNetwork, settings: MMQSettings) -> torch.optim.Optimizer:
    """AdamW; code vectors get no weight decay, which would pull them from their items."""
    books = [book.vectors for book in network.books if book.vectors.requires_grad]
    others = [p for name, p in network.named_parameters() if not name.startswith("codebooks.")]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": settings.weight_decay}]
    if books:
        groups.append({"params": books, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate)
