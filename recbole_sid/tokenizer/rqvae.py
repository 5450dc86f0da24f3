"""RQ-VAE: an autoencoder whose bottleneck is a residual quantiser (TIGER, arXiv 2305.05065)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_sid.seeds import random_state, set_random_state
from recbole_sid.sid.groups import group
from recbole_sid.sid.quality import entropy
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.autoencoder import Autoencoded, Autoencoder, encode, read
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger, seeded
from recbole_sid.tokenizer.blocks import in_blocks
from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed
from recbole_sid.tokenizer.finite import FiniteWatch
from recbole_sid.tokenizer.largest_groups import largest_groups
from recbole_sid.tokenizer.losses import (
    codebook_loss,
    commitment_loss,
    mean_squared_length,
    reconstruction_loss,
)
from recbole_sid.tokenizer.repulsion import Repulsion, describe_figures
from recbole_sid.tokenizer.rqvae_settings import RQVAESettings
from recbole_sid.tokenizer.stored_weights import require_input_dim, require_shapes
from recbole_sid.tokenizer.vectors import (
    preparation_shapes,
    prepared,
    reduction,
    standardization,
)

COLLAPSE_REMEDY = (
    "keep tokenizer_kmeans_init on and tokenizer_restart_after small, lower tokenizer_commitment "
    "or tokenizer_learning_rate, or use tokenizer rqkmeans, which cannot collapse this way"
)


@dataclass
class Progress:
    """How far the training is.

    Attributes:
        epoch: epochs done.
        restarted: codes that were idle and moved.
        history: an entry every ``log_every`` epochs.
    """

    epoch: int = 0
    restarted: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class RQVAE(Tokenizer[RQVAESettings]):
    """Trains an autoencoder on the item vectors and reads the codes off its bottleneck.

    The loss is ||x - x'||² + Σ_l (||sg[r_l] - e_l||² + commitment · ||r_l - sg[e_l]||²); with
    ``codebook_update: ema`` moving averages take the place of the middle term. The codes are those
    of the last epoch, in evaluation mode. With ``repulsion: hamr`` the items of a batch whose codes
    are too alike repel each other, see :func:`~recbole_sid.tokenizer.repulsion.hamming_repulsion`.

    Losses between items are in cosines, and the reconstruction is a squared length. The weights of
    the papers balance them where vectors have length 1. Standardised ones of d dimensions have √d,
    and the same weights would do nothing; with ``loss_unit: length`` all losses between items are
    multiplied by the mean squared length of the batch's vectors.

    A tokenizer that samples its batches in another way or has more terms in its loss overrides
    :meth:`batches` (and :meth:`pairs_in`), :meth:`losses` or :meth:`losses_between`; what depends
    on the epoch it sets in :meth:`begin_epoch`. They draw from torch's global random numbers and
    keep nothing from one epoch to the next, so that a killed training goes on with the epoch it had
    reached.
    """

    Settings: ClassVar[type] = RQVAESettings
    name: ClassVar[str] = "rqvae"
    needs_vectors: ClassVar[bool] = True
    can_assign: ClassVar[bool] = True
    collapse_remedy: ClassVar[str] = COLLAPSE_REMEDY

    def __init__(
        self, settings: RQVAESettings, *, seed: int, device: torch.device, progress: bool
    ) -> None:
        super().__init__(settings, seed=seed, device=device, progress=progress)
        self.repulsion = Repulsion(settings)
        self.begin_epoch(1)

    def fit_sorted(self, items: Items) -> BaseCodes:
        assert items.vectors is not None
        sizes = self.settings.sizes
        preparation = reduction(items.vectors, self.settings.reduce_dim)
        inputs = _prepared(items.vectors, preparation)
        if self.settings.standardize:
            scale = standardization(inputs)
            inputs, preparation = prepared(inputs, scale), preparation | scale
        vectors = torch.from_numpy(inputs).to(self.device)  # (n, D)
        with seeded(self.seed, self.device):
            model = Autoencoder(vectors.shape[1], self.settings).to(self.device)
            optimizer = _optimizer(model, self.settings)
            progress = self._restored(model, optimizer)
            if progress is None:
                progress = Progress()
                if self.settings.kmeans_init:
                    self._start_codebooks(model, vectors)
            self._train(model, optimizer, vectors, progress)
        trained = {name: t.cpu().numpy() for name, t in model.encoding_weights().items()}
        weights = preparation | trained
        codes, space = self._read(model, items.vectors, weights)
        use = code_use(codes, sizes)
        warn_if_collapsed(use, sizes, len(codes), self.settings.collapse_below, COLLAPSE_REMEDY)
        report = {
            "epochs": self.settings.epochs,
            "restarted": progress.restarted,
            "history": progress.history,
            "largest_groups": largest_groups(codes, items),
            **use,
        }
        return BaseCodes(codes, sizes, report, space, None, weights)

    def assigned(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        assert items.vectors is not None
        model = self._rebuilt(items.vectors, weights)
        codes, space = self._read(model, items.vectors, weights)
        sizes = self.settings.sizes
        return BaseCodes(codes, sizes, dict(code_use(codes, sizes)), space)

    def _rebuilt(self, vectors: np.ndarray, weights: Mapping[str, np.ndarray]) -> Autoencoder:
        """The trained model, of ``weights`` that fit ``vectors`` (n, D) and the settings."""
        settings = self.settings
        require_input_dim(vectors, weights, "encoder.0.weight")
        shapes, dim = preparation_shapes(
            vectors.shape[1], weights, settings.reduce_dim is not None, settings.standardize
        )
        with seeded(self.seed, self.device):
            model = Autoencoder(dim, settings).to(self.device)
        state = model.encoding_weights()
        shapes |= {name: tuple(tensor.shape) for name, tensor in state.items()}
        require_shapes(weights, shapes)
        # The decoder, the moving averages of codes and their idle steps are for training.
        model.load_state_dict(
            {name: torch.from_numpy(weights[name]) for name in state}, strict=False
        )
        return model

    def _read(
        self, model: Autoencoder, vectors: np.ndarray, weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, CodeSpace]:
        """Codes int32 (n, L) of raw ``vectors`` (n, D), and their space."""
        codes, latents = in_blocks(lambda block: read(model, prepared(block, weights)), vectors)
        return codes, CodeSpace(latents, model.code_vectors(), residual=True)

    def begin_epoch(self, epoch: int) -> None:
        """Called before the batches of ``epoch``, from 1 to ``epochs``."""
        self.repulsion.begin_epoch(epoch, self.settings.epochs)

    def batches(self, n_items: int) -> Iterator[Tensor]:
        """Rows (B,) of the batches of one epoch: every item once, in random order."""
        order = torch.randperm(n_items, device=self.device)
        return iter(order.split(self.settings.batch_size))

    def pairs_in(self, rows: Tensor) -> int:
        """B when the batch ``rows`` is B triggers followed by their B targets; 0 without pairs."""
        return 0

    def losses(self, output: Autoencoded, vectors: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the loss by name; what is trained is their sum.

        Args:
            output: what the model made of the batch.
            vectors: (B, D), its input.
            rows: (B,), the items of the batch.
        """
        residuals, chosen = output.quantized.residuals, output.quantized.chosen
        terms = {
            "reconstruction": reconstruction_loss(output.decoded, vectors),
            "commitment": self.settings.commitment * commitment_loss(residuals, chosen),
        }
        if self.settings.codebook_update == "gradient":
            terms["codebook"] = codebook_loss(residuals, chosen)
        between = self.losses_between(output, vectors, rows)
        if self.settings.loss_unit == "length":
            unit = mean_squared_length(vectors)
            between = {name: unit * term for name, term in between.items()}
        return terms | between

    def losses_between(
        self, output: Autoencoded, vectors: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        """The terms of :meth:`losses` that compare items with each other; arguments as there."""
        n_pairs = self.pairs_in(rows)
        return self.repulsion(
            output.latents, output.quantized.codes, rows, n_pairs, content=vectors
        )

    def _start_codebooks(self, model: Autoencoder, vectors: Tensor) -> None:
        sample = self.settings.kmeans_init_sample
        rows = torch.randperm(len(vectors), device=self.device)[:sample]
        model.eval()
        with torch.no_grad():
            latents = model.encoder(vectors[rows])
        model.quantizer.start_from(latents, np.random.RandomState(self.seed))

    def _restored(self, model: Autoencoder, optimizer: torch.optim.Optimizer) -> Progress | None:
        """What a killed training of the same items and settings had reached, if there was one."""
        state = None if self.checkpoint is None else self.checkpoint.load(self.device)
        if state is None:
            return None
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"], self.device)
        progress = Progress(**state["progress"])
        logger.info("%s: resuming after epoch %d", self.name, progress.epoch)
        return progress

    def _train(
        self,
        model: Autoencoder,
        optimizer: torch.optim.Optimizer,
        vectors: Tensor,
        progress: Progress,
    ) -> None:
        """Train all of the arguments in place up to the last epoch."""
        settings = self.settings

        def state() -> dict[str, Any]:
            return {
                "progress": asdict(progress),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(self.device),
            }

        bar = tqdm(
            range(progress.epoch + 1, settings.epochs + 1),
            desc=f"{self.name} epochs",
            initial=progress.epoch,
            total=settings.epochs,
            disable=not self.progress,
        )
        remedy = f"Lower tokenizer_learning_rate ({settings.learning_rate})"
        watch = FiniteWatch(self.name, remedy, self.checkpoint, self.device)
        for epoch in bar:
            model.train()
            self.begin_epoch(epoch)
            watch.begin_epoch(epoch)
            totals: dict[str, Tensor] = {}
            seen = 0
            for rows in self.batches(len(vectors)):
                batch = vectors[rows]
                output = model(batch)
                terms = self.losses(output, batch, rows)
                loss = torch.stack(list(terms.values())).sum()
                watch.see(loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                progress.restarted += model.quantizer.follow(
                    output.quantized, settings.restart_after
                )
                seen += len(rows)
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach() * len(rows)
            watch.end_epoch(model)
            means = {name: float(total) / seen for name, total in totals.items()}
            mean = sum(means.values())
            bar.set_postfix(loss=f"{mean:.4g}")
            if epoch % settings.log_every == 0 or epoch == settings.epochs:
                entry = self._diagnosed(encode(model, vectors), epoch, mean, means)
                progress.history.append(entry)
            progress.epoch = epoch
            if self.checkpoint is not None:
                self.checkpoint.save_when_due(state)

    def _diagnosed(
        self, codes: np.ndarray, epoch: int, loss: float, means: dict[str, float]
    ) -> dict[str, Any]:
        """The entry of the history for an epoch that ended with ``codes``; also logged."""
        use = code_use(codes, self.settings.sizes)
        sid_entropy = entropy(group(codes).sizes(codes.shape[1]))
        ceiling = float(np.log(len(codes)))
        figures = self.repulsion.figures()
        parts = [f"loss {loss:.4g} ({', '.join(f'{k} {mean:.4g}' for k, mean in means.items())})"]
        parts += [describe(use), f"SID entropy {sid_entropy:.3f} of {ceiling:.3f}"]
        parts += [describe_figures(figures)] if figures else []
        logger.info("%s epoch %d: %s", self.name, epoch, "; ".join(parts))
        return {
            "epoch": epoch,
            "loss": loss,
            **means,
            **use,
            "entropy": sid_entropy,
            "entropy_ceiling": ceiling,
            **figures,
        }


def _prepared(vectors: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    (found,) = in_blocks(lambda block: (prepared(block, weights),), vectors)
    return found


def _optimizer(model: Autoencoder, settings: RQVAESettings) -> torch.optim.Optimizer:
    """The optimizer; code vectors get no weight decay, which would pull them from their items."""
    codebooks = [p for p in model.quantizer.parameters() if p.requires_grad]
    weights = [*model.encoder.parameters(), *model.decoder.parameters()]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": settings.weight_decay}]
    if codebooks:
        groups.append({"params": codebooks, "weight_decay": 0.0})
    classes: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
    }
    optimizer: torch.optim.Optimizer = classes[settings.optimizer](
        groups, lr=settings.learning_rate
    )
    return optimizer
