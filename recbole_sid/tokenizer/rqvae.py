"""RQ-VAE: an autoencoder whose bottleneck is a residual quantiser (TIGER, arXiv 2305.05065)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_sid.errors import InputError
from recbole_sid.seeds import random_state, set_random_state
from recbole_sid.settings import require
from recbole_sid.sid.groups import group
from recbole_sid.sid.quality import entropy
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger, seeded
from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed
from recbole_sid.tokenizer.largest_groups import largest_groups
from recbole_sid.tokenizer.losses import (
    codebook_loss,
    commitment_loss,
    mean_squared_length,
    reconstruction_loss,
)
from recbole_sid.tokenizer.quantizer import Quantized, ResidualQuantizer
from recbole_sid.tokenizer.repulsion import Repulsion, RepulsionSettings, describe_figures
from recbole_sid.tokenizer.vectors import VectorSettings, reduced, standardized

ENCODE_ROWS = 16_384
COLLAPSE_REMEDY = (
    "keep tokenizer_kmeans_init on and tokenizer_restart_after small, lower tokenizer_commitment "
    "or tokenizer_learning_rate, or use tokenizer rqkmeans, which cannot collapse this way"
)


@dataclass(frozen=True)
class RQVAESettings(VectorSettings, RepulsionSettings):
    """Settings of :class:`RQVAE`."""

    standardize: bool
    hidden_sizes: list[int]
    latent_dim: int
    dropout: float
    loss_unit: Literal["length", "one"]
    commitment: float
    codebook_update: Literal["ema", "gradient"]
    ema_decay: float
    kmeans_init: bool
    kmeans_init_sample: int | None
    restart_after: int | None
    optimizer: Literal["adam", "adamw", "adagrad"]
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    log_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latent_dim", "epochs", "batch_size", "log_every"):
            value = vars(self)[name]
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")
        for name in ("kmeans_init_sample", "restart_after"):
            value = vars(self)[name]
            ok = value is None or value >= 1
            require(ok, f"tokenizer_{name}", value, "at least 1, or empty (~)")
        for name in ("commitment", "weight_decay"):
            value = vars(self)[name]
            require(value >= 0, f"tokenizer_{name}", value, "at least 0")
        for name in ("dropout", "ema_decay"):
            value = vars(self)[name]
            require(0 <= value < 1, f"tokenizer_{name}", value, "at least 0 and below 1")
        require(self.learning_rate > 0, "tokenizer_learning_rate", self.learning_rate, "above 0")
        require(
            all(size >= 1 for size in self.hidden_sizes),
            "tokenizer_hidden_sizes",
            self.hidden_sizes,
            "at least 1 in every layer",
        )


class Autoencoded(NamedTuple):
    """What :class:`Autoencoder` makes of a batch.

    Attributes:
        latents: (B, d), encoder outputs before quantisation.
        quantized: see :class:`~recbole_sid.tokenizer.quantizer.Quantized`.
        decoded: (B, D), the vectors as reconstructed.
    """

    latents: Tensor
    quantized: Quantized
    decoded: Tensor


class Autoencoder(nn.Module):
    """Encoder, residual quantiser, and a decoder with the encoder's layers mirrored."""

    def __init__(self, input_dim: int, settings: RQVAESettings) -> None:
        super().__init__()
        widths = [input_dim, *settings.hidden_sizes, settings.latent_dim]
        self.encoder = _mlp(widths, settings.dropout)
        self.quantizer = ResidualQuantizer(
            settings.sizes, settings.latent_dim, settings.codebook_update, settings.ema_decay
        )
        self.decoder = _mlp(widths[::-1], settings.dropout)

    def forward(self, vectors: Tensor) -> Autoencoded:
        """Encode, quantise and decode ``vectors`` (B, D)."""
        latents = self.encoder(vectors)  # (B, d)
        quantized = self.quantizer(latents)
        return Autoencoded(latents, quantized, self.decoder(quantized.quantized))


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

    Attributes:
        name: what logs call it.
    """

    Settings: ClassVar[type] = RQVAESettings
    needs_vectors: ClassVar[bool] = True
    name: ClassVar[str] = "rqvae"

    def __init__(
        self, settings: RQVAESettings, *, seed: int, device: torch.device, progress: bool
    ) -> None:
        super().__init__(settings, seed=seed, device=device, progress=progress)
        self.repulsion = Repulsion(settings)
        self.begin_epoch(1)

    def fit_sorted(self, items: Items) -> BaseCodes:
        assert items.vectors is not None
        sizes = self.settings.sizes
        prepared = reduced(items.vectors, self.settings.reduce_dim)
        if self.settings.standardize:
            prepared = standardized(prepared)
        vectors = torch.from_numpy(prepared).to(self.device)  # (n, D)
        with seeded(self.seed, self.device):
            model = Autoencoder(vectors.shape[1], self.settings).to(self.device)
            optimizer = _optimizer(model, self.settings)
            progress = self._restored(model, optimizer)
            if progress is None:
                progress = Progress()
                if self.settings.kmeans_init:
                    self._start_codebooks(model, vectors)
            self._train(model, optimizer, vectors, progress)
        codes = encode(model, vectors)
        use = code_use(codes, sizes)
        warn_if_collapsed(use, sizes, len(codes), self.settings.collapse_below, COLLAPSE_REMEDY)
        report = {
            "epochs": self.settings.epochs,
            "restarted": progress.restarted,
            "history": progress.history,
            "largest_groups": largest_groups(codes, items),
            **use,
        }
        return BaseCodes(codes, sizes, report, code_space(model, vectors))

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
        for epoch in bar:
            model.train()
            self.begin_epoch(epoch)
            totals: dict[str, Tensor] = {}
            seen = 0
            for rows in self.batches(len(vectors)):
                batch = vectors[rows]
                output = model(batch)
                terms = self.losses(output, batch, rows)
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                optimizer.step()
                progress.restarted += model.quantizer.follow(
                    output.quantized, settings.restart_after
                )
                seen += len(rows)
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach() * len(rows)
            means = {name: float(total) / seen for name, total in totals.items()}
            loss = sum(means.values())
            if not np.isfinite(loss):
                raise InputError(
                    f"the loss of the tokenizer is {loss} in epoch {epoch}: lower "
                    f"tokenizer_learning_rate, which is {settings.learning_rate}"
                )
            bar.set_postfix(loss=f"{loss:.4g}")
            if epoch % settings.log_every == 0 or epoch == settings.epochs:
                entry = self._diagnosed(encode(model, vectors), epoch, loss, means)
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


@torch.no_grad()
def encode(model: Autoencoder, vectors: Tensor) -> np.ndarray:
    """Codes int32 (n, L) of ``vectors`` (n, D), without dropout."""
    model.eval()
    parts = [model.quantizer(model.encoder(part)).codes for part in vectors.split(ENCODE_ROWS)]
    return torch.cat(parts).cpu().numpy().astype(np.int32)


@torch.no_grad()
def code_space(model: Autoencoder, vectors: Tensor) -> CodeSpace:
    """The latents of ``vectors`` (n, D), without dropout, and the code vectors."""
    model.eval()
    latents = torch.cat([model.encoder(part) for part in vectors.split(ENCODE_ROWS)])  # (n, d)
    books = tuple(book.vectors.detach().cpu().numpy() for book in model.quantizer.levels)
    return CodeSpace(latents.cpu().numpy(), books, residual=True)


def _mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them; none after the last."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


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
