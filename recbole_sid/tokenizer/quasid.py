"""QuaSID: an RQ-VAE on pairs of items, repelled and contrasted (arXiv 2603.00632)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from recbole_sid.errors import InputError
from recbole_sid.settings import require
from recbole_sid.tokenizer.autoencoder import Autoencoded
from recbole_sid.tokenizer.base import BaseCodes, Items
from recbole_sid.tokenizer.contrastive import contrastive_loss
from recbole_sid.tokenizer.repulsion import require_schedule, share
from recbole_sid.tokenizer.rqvae import RQVAE
from recbole_sid.tokenizer.rqvae_settings import RQVAESettings


@dataclass(frozen=True)
class QuaSIDSettings(RQVAESettings):
    """Settings of :class:`QuaSID`."""

    contrastive_weight: float
    contrastive_temperature: float
    contrastive_schedule: list[float]
    pair_sampling: Literal["nearest", "proportional", "uniform"]
    pair_probability: float
    lonely_items: Literal["self", "drop"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.contrastive_weight >= 0,
            "tokenizer_contrastive_weight",
            self.contrastive_weight,
            "at least 0",
        )
        require(
            self.contrastive_temperature > 0,
            "tokenizer_contrastive_temperature",
            self.contrastive_temperature,
            "above 0",
        )
        require_schedule("tokenizer_contrastive_schedule", self.contrastive_schedule)
        require(
            0 <= self.pair_probability <= 1,
            "tokenizer_pair_probability",
            self.pair_probability,
            "0 to 1",
        )


class QuaSID(RQVAE):
    """An :class:`RQVAE` that trains on pairs of items that go together.

    A batch is ``batch_size`` triggers followed by their targets; in an epoch each item is a trigger
    once. All of these rows are reconstructed and quantised. Items of the batch with nearly the same
    codes repel each other, except where that is no conflict, and each trigger is drawn to its
    target: the loss is that of the RQ-VAE plus repulsion plus

        contrastive_weight · InfoNCE(triggers, targets)

    The paper leaves open how a target is drawn (``pair_sampling``, and ``pair_probability``, below
    1 in a re-implementation: otherwise the item is its own target), and what becomes of items
    without a neighbour (``lonely_items``): ``self``: each is its own target; ``drop``: it is also
    left out of the contrastive mean. AdaSID (arXiv 2604.23522) lets the weight of the contrastive
    loss grow linearly from 0 (``contrastive_schedule``).
    """

    Settings: ClassVar[type] = QuaSIDSettings
    name: ClassVar[str] = "quasid"
    needs_pairs: ClassVar[bool] = True
    settings: QuaSIDSettings

    def fit_sorted(self, items: Items) -> BaseCodes:
        if items.pairs is None:
            raise InputError(
                "tokenizer quasid needs the neighbours of every item (Items.pairs), but there are "
                "none: choose how pairs are found (pair_source)"
            )
        self._pairs = items.pairs
        self._has_neighbour = torch.tensor(items.pairs.counts > 0, device=self.device)  # (n,)
        return super().fit_sorted(items)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        schedule = self.settings.contrastive_schedule
        self._contrastive_share = share(schedule, epoch, self.settings.epochs)

    def batches(self, n_items: int) -> Iterator[Tensor]:
        """Rows (2B,) of the batches of one epoch: triggers in random order, then their targets."""
        triggers = torch.cat(list(super().batches(n_items)))  # (n,)
        targets = self._targets(triggers)
        size = self.settings.batch_size
        return map(torch.cat, zip(triggers.split(size), targets.split(size), strict=True))

    def _targets(self, triggers: Tensor) -> Tensor:
        """A target for each of ``triggers`` (n,); the trigger itself where it gets no other."""
        rows = triggers.cpu().numpy()
        which, whether = torch.rand(2, len(rows), dtype=torch.float64).numpy()
        if self.settings.pair_sampling == "nearest":
            found = self._pairs.nearest()[rows]
        else:
            by_score = self.settings.pair_sampling == "proportional"
            found = self._pairs.chosen(rows, which, by_score=by_score)
        alone = (found < 0) | (whether >= self.settings.pair_probability)
        return torch.from_numpy(np.where(alone, rows, found)).to(self.device)

    def pairs_in(self, rows: Tensor) -> int:
        return len(rows) // 2

    def losses_between(
        self, output: Autoencoded, vectors: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        terms = super().losses_between(output, vectors, rows)
        settings = self.settings
        if settings.contrastive_weight == 0:
            return terms
        triggers, targets = output.latents.chunk(2)  # (B, d) each
        items = rows[: len(triggers)]
        paired = torch.ones_like(items, dtype=torch.bool)
        if settings.lonely_items == "drop":
            paired = self._has_neighbour[items]
        same_trigger = items.unsqueeze(1) == items  # (B, B)
        loss = contrastive_loss(
            triggers, targets, same_trigger, settings.contrastive_temperature, paired
        )
        terms["contrastive"] = self._contrastive_share * settings.contrastive_weight * loss
        return terms
