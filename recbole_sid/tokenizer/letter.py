"""LETTER: an RQ-VAE drawn to collaborative vectors, with a diverse codebook (arXiv 2405.07314)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_sid.errors import InputError
from recbole_sid.settings import require
from recbole_sid.tokenizer.autoencoder import Autoencoded, Autoencoder
from recbole_sid.tokenizer.base import BaseCodes, Items
from recbole_sid.tokenizer.equal_clusters import Partners, equal_clusters
from recbole_sid.tokenizer.letter_losses import alignment_loss, diversity_loss
from recbole_sid.tokenizer.quantizer import ResidualQuantizer
from recbole_sid.tokenizer.rqvae import RQVAE, Progress
from recbole_sid.tokenizer.rqvae_settings import RQVAESettings


@dataclass(frozen=True)
class LETTERSettings(RQVAESettings):
    """Settings of :class:`LETTER`."""

    alignment_weight: float
    diversity_weight: float
    diversity_clusters: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alignment_weight", "diversity_weight"):
            value = vars(self)[name]
            require(value >= 0, f"tokenizer_{name}", value, "at least 0")
        if self.diversity_weight == 0:
            return
        require(
            1 <= self.diversity_clusters <= min(self.sizes) // 2,
            "tokenizer_diversity_clusters",
            self.diversity_clusters,
            f"1 to {min(self.sizes) // 2}, so that every cluster has two codes or more",
        )
        require(
            self.codebook_update == "gradient",
            "tokenizer_codebook_update",
            self.codebook_update,
            "'gradient' where tokenizer_diversity_weight is above 0",
            "The diversity loss moves code vectors by their gradients.",
        )


class LETTER(RQVAE):
    """An :class:`RQVAE` whose codes also say who likes an item, and are used more evenly.

    The loss is that of the RQ-VAE plus

        alignment_weight · L_CF + diversity_weight · L_Div,

    see :mod:`~recbole_sid.tokenizer.letter_losses`: L_CF between the quantised vectors of a batch
    and the behaviour vectors of the same items, L_Div the mean over the levels. The paper's are the
    losses, the clusters of codes by constrained k-means, and SASRec's item vectors as behaviour, as
    wide as the latents.

    Ours: the clusters are of equal size and made anew in every epoch; items without a behaviour
    vector are left out of L_CF; and where behaviour vectors are not as wide as the latents, a fixed
    linear map makes them so: onto their leading right singular vectors, which keeps their inner
    products as well as so few dimensions can, or zeros at the end. ``loss_unit: length`` holds
    for both losses, since the reconstruction is summed over dimensions.

    The paper's third part is a loss of the generator, cross-entropy of logits over a temperature
    below 1: ``loss_temperature`` of the generator tiger, which ``properties/model/LETTER.yaml``
    sets to 0.7 (ours: the paper's is not known here). Another generator or model goes without.
    """

    Settings: ClassVar[type] = LETTERSettings
    name: ClassVar[str] = "letter"
    needs_behaviour: ClassVar[bool] = True
    settings: LETTERSettings

    _quantizer: ResidualQuantizer
    _partners: list[Partners] | None

    def fit_sorted(self, items: Items) -> BaseCodes:
        if items.behaviour is None:
            raise InputError(
                "tokenizer letter needs what users did with the items (Items.behaviour), but there "
                "is nothing: train vectors with recbole_sid.model.behaviour.behaviour_vectors"
            )
        known = items.behaviour.any(axis=1)  # (n,)
        vectors = as_wide(items.behaviour, self.settings.latent_dim)
        self._known = torch.from_numpy(known).to(self.device)
        self._behaviour = torch.from_numpy(vectors).to(self.device)
        fitted = super().fit_sorted(items)
        fitted.report["without_behaviour"] = len(known) - int(known.sum())
        return fitted

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self._partners = None

    def losses_between(
        self, output: Autoencoded, vectors: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        terms = super().losses_between(output, vectors, rows)
        settings, quantized = self.settings, output.quantized
        if settings.alignment_weight > 0:
            loss = alignment_loss(quantized.quantized, self._behaviour[rows], self._known[rows])
            terms["alignment"] = settings.alignment_weight * loss
        if settings.diversity_weight > 0:
            if self._partners is None:
                self._partners = self._clustered()
            losses = [
                diversity_loss(book.vectors, codes, partners.drawn(codes))
                for book, codes, partners in zip(
                    self._quantizer.levels, quantized.codes.T, self._partners, strict=True
                )
            ]
            terms["diversity"] = settings.diversity_weight * torch.stack(losses).mean()
        return terms

    def _train(
        self,
        model: Autoencoder,
        optimizer: torch.optim.Optimizer,
        vectors: Tensor,
        progress: Progress,
    ) -> None:
        self._quantizer = model.quantizer
        super()._train(model, optimizer, vectors, progress)

    def _clustered(self) -> list[Partners]:
        """The clusters of every level's codes, as the code vectors stand now.

        The same numbers in every epoch, so that a training that was killed goes on alike.
        """
        rng = np.random.RandomState(self.seed)
        clusters = self.settings.diversity_clusters
        books = (book.vectors.detach().cpu().numpy() for book in self._quantizer.levels)
        return [Partners(equal_clusters(book, clusters, rng), self.device) for book in books]


def as_wide(vectors: np.ndarray, width: int) -> np.ndarray:
    """``vectors`` (n, d) mapped linearly to (n, width), float32; as they are where d = width."""
    dim = vectors.shape[1]
    if dim < width:
        return np.pad(vectors, ((0, 0), (0, width - dim)))
    if dim == width:
        return vectors
    # The right singular vectors of v are the eigenvectors of vᵀv; the last have the largest values.
    wide = vectors.astype(np.float64)
    _, directions = np.linalg.eigh(wide.T @ wide)
    return (wide @ directions[:, -width:]).astype(np.float32)
