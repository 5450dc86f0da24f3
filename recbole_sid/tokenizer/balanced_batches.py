"""Batches in which items find their positives: random anchors, and positives for those without.

In a random batch most items meet another of their broad category, and hardly any their nearest
neighbour. UniSID (arXiv 2602.10445) needs positives on every level and leaves open how; this is
our way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_sid.settings import require
from recbole_sid.tokenizer.base import LevelSettings


@dataclass(frozen=True)
class BatchSettings(LevelSettings):
    """Settings of :class:`BalancedBatches`."""

    batch_size: int
    batch_positives: float

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.batch_positives
        require(self.batch_size >= 2, "tokenizer_batch_size", self.batch_size, "at least 2")
        require(0 <= share < 1, "tokenizer_batch_positives", share, "at least 0 and below 1")
        require(
            share == 0 or self.room_for_positives >= self.levels,
            "tokenizer_batch_positives",
            share,
            f"0, or room for a positive of each level: {self.levels} of tokenizer_batch_size = "
            f"{self.batch_size} rows",
        )

    @property
    def room_for_positives(self) -> int:
        """The rows of a batch that are kept for positives; the others are anchors."""
        return int(self.batch_positives * self.batch_size)


class Batch(NamedTuple):
    """One batch.

    Attributes:
        rows: int64 (N,), N <= ``batch_size``: the anchors, then the positives added for them. No
            row is there twice.
        n_anchors: how many of them are anchors.
    """

    rows: Tensor
    n_anchors: int


class BalancedBatches:
    """The batches of one epoch after the other.

    In an epoch every item is an anchor once, in random order. A share ``batch_positives`` of each
    batch is kept for positives: anchors that have one at a level, but not in the batch, get one,
    drawn uniformly. Room that one level does not need goes to the next, narrower one, and where
    there is too little, the later anchors get none. Whenever an anchor has a positive at a level,
    the batch holds some anchor with one there, unless ``batch_positives`` is 0. Where no item
    has a positive, all rows are anchors.

    Randomness comes from torch's global generator, all of an epoch's when it begins.
    """

    def __init__(self, labels: np.ndarray, settings: BatchSettings) -> None:
        """
        Args:
            labels: int64 (n, L), -1 without a positive (``granularity.Granularity``).
            settings: rows of a batch, and the share kept for positives.
        """
        self._labels = labels
        self._groups = [_Groups(level) for level in labels.T]
        self._room = settings.room_for_positives if (labels >= 0).any() else 0
        self._n_anchors = settings.batch_size - self._room
        self._with_positive = np.zeros(labels.shape[1], np.int64)
        self._n_met = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._labels) // self._n_anchors)

    def epoch(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        n_items, n_levels = self._labels.shape
        self._with_positive[:] = 0
        self._n_met = 0
        order = torch.randperm(n_items).numpy()
        uniform = torch.rand(n_items, n_levels, dtype=torch.float64).numpy()
        return self._batches(order, uniform)

    def _batches(self, order: np.ndarray, uniform: np.ndarray) -> Iterator[Batch]:
        for start in range(0, len(order), self._n_anchors):
            anchors = order[start : start + self._n_anchors]
            rows = self._with_positives(anchors, uniform[start : start + self._n_anchors])
            yield Batch(torch.from_numpy(rows), len(anchors))

    def _with_positives(self, anchors: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """The anchors (A,) and the positives added for them: (N,)."""
        rows, room = anchors, self._room
        n_levels = len(self._groups)
        for level, groups in enumerate(self._groups):
            alone = self._alone(rows, len(anchors), level)
            given = alone[: room // (n_levels - level)]
            # No row comes twice: of each of these groups the batch holds one row, the anchor.
            positives = groups.another(anchors[given], uniform[given, level])
            rows = np.concatenate([rows, positives])
            room -= len(positives)
        for level in range(n_levels):
            has_positive = self._labels[anchors, level] >= 0
            n_alone = len(self._alone(rows, len(anchors), level))
            self._with_positive[level] += np.count_nonzero(has_positive) - n_alone
        self._n_met += len(anchors)
        return rows

    def _alone(self, rows: np.ndarray, n_anchors: int, level: int) -> np.ndarray:
        """Places of the anchors that have a positive at the level, but none among ``rows``."""
        labels = self._labels[rows, level]
        _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
        alone = (labels >= 0) & (count[place] == 1)
        return np.flatnonzero(alone[:n_anchors])

    def figures(self) -> dict[str, list[float]]:
        """Of the anchors since the epoch began, per level.

        ``anchors_with_positive``: the share that had a positive in its batch.
        """
        met = max(self._n_met, 1)
        return {"anchors_with_positive": (self._with_positive / met).tolist()}


class _Groups:
    """The items of each label of one level, (n,)."""

    def __init__(self, labels: np.ndarray) -> None:
        self._members = np.argsort(labels, kind="stable")
        _, self._group, self._sizes = np.unique(labels, return_inverse=True, return_counts=True)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._places = np.empty(len(labels), np.int64)
        self._places[self._members] = np.arange(len(labels))

    def another(self, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Another item of the group of each of ``rows`` (B,), which has at least two items.

        Args:
            uniform: float64 (B,) in [0, 1).
        """
        group = self._group[rows]
        start, size = self._starts[group], self._sizes[group]
        # Rounding may carry a number just below 1 over the end.
        step = 1 + np.minimum((uniform * (size - 1)).astype(np.int64), size - 2)
        return self._members[start + (self._places[rows] - start + step) % size]
