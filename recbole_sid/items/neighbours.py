"""The neighbours of every item as flat arrays, and how candidates become neighbours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tqdm import tqdm

from recbole_sid.errors import InputError
from recbole_sid.items.ragged import places_in_row, ranges, starts_of

# Cosines that text_neighbours holds at once; each costs about 25 bytes: 100 MB.
COSINES_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class ItemPairs:
    """Items that go together: the neighbours of each of n items (compressed sparse rows).

    Attributes:
        offsets: int64 (n + 1,); item i has the neighbours ``items[offsets[i] : offsets[i + 1]]``.
        items: int32 (m,), rows by falling score, equal scores by lower row. No item is its own
            neighbour, and some have none.
        scores: float32 (m,), above 0. They compare neighbours of one item; being a neighbour is
            not symmetric.
    """

    offsets: np.ndarray
    items: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """The number of items, with and without neighbours."""
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> np.ndarray:
        """How many neighbours each item has: int64 (n,)."""
        return np.diff(self.offsets)

    @cached_property
    def _running_scores(self) -> np.ndarray:
        """Sum of all scores before each neighbour, and of all: float64 (m + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.scores, dtype=np.float64)])

    def nearest(self) -> np.ndarray:
        """The first neighbour of each item, -1 where there is none: int64 (n,)."""
        return self._at(self.offsets[:-1], self.counts)

    def chosen(self, rows: np.ndarray, uniform: np.ndarray, *, by_score: bool) -> np.ndarray:
        """A neighbour of each of ``rows``, -1 where there is none.

        Args:
            rows: integers (B,).
            uniform: float64 (B,) in [0, 1), drawn by the caller from any source of randomness.
            by_score: whether a neighbour is as likely as its score is high, or all are alike.

        Returns:
            int64 (B,).
        """
        start, counts = self.offsets[rows], self.counts[rows]
        if by_score:
            running = self._running_scores
            low, high = running[start], running[start + counts]
            found = np.searchsorted(running, low + uniform * (high - low), side="right") - 1
            place = found - start
        else:
            place = (uniform * counts).astype(np.int64)
        # Rounding may carry a number just below 1 over the end.
        return self._at(start + np.clip(place, 0, np.maximum(counts - 1, 0)), counts)

    def _at(self, places: np.ndarray, counts: np.ndarray) -> np.ndarray:
        found = np.full(len(places), -1, np.int64)
        some = counts > 0
        found[some] = self.items[places[some]]
        return found

    def taken(self, order: np.ndarray) -> ItemPairs:
        """The pairs of the items ``order``: new row r is old row ``order[r]``.

        Neighbours are renumbered, so equal scores may come in another order of rows; those that
        ``order`` leaves out are dropped.

        Raises:
            InputError: a row twice, or out of range.
        """
        order = np.asarray(order, np.int64)
        if len(order) and not (order.min() >= 0 and order.max() < len(self)):
            raise InputError(
                f"rows {order.min()} … {order.max()} are asked for, but must be 0 … {len(self) - 1}"
            )
        new_row = np.full(len(self), -1, np.int64)
        new_row[order] = np.arange(len(order))
        if np.count_nonzero(new_row >= 0) != len(order):
            raise InputError(f"{len(order)} rows are asked for, but some of them twice")
        counts = self.counts[order]
        places = ranges(self.offsets[order], counts)
        rows, others = np.repeat(np.arange(len(order)), counts), new_row[self.items[places]]
        kept = others >= 0
        rows, others, scores = rows[kept], others[kept], self.scores[places][kept]
        by_row = np.lexsort((others, -scores, rows))
        return _in_rows(rows[by_row], others[by_row], scores[by_row], len(order))

    def fingerprint(self) -> str:
        """sha256 of all arrays, in hex: equal pairs have equal fingerprints."""
        digest = hashlib.sha256()
        for array, kind in ((self.offsets, "<i8"), (self.items, "<i4"), (self.scores, "<f4")):
            digest.update(np.ascontiguousarray(array, kind).data)
        return digest.hexdigest()


class Candidates:
    """Collects candidate pairs block by block, and keeps the best of each row.

    Blocks come in the order of their rows, and a row is in one block only.
    """

    def __init__(self, n_items: int, neighbours: int):
        self.n_items = n_items
        self.neighbours = neighbours
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, others: np.ndarray, scores: np.ndarray) -> None:
        """Candidates sorted by row, then by the other item; integers (c,), float (c,)."""
        scores = scores.astype(np.float32)
        order = np.lexsort((-scores, rows))  # stable: equal scores stay in the order of the rows
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        counts = np.diff(np.append(begins, len(rows)))
        best = order[places_in_row(counts) < self.neighbours]
        self._kept.append(
            (rows[best].astype(np.int32), others[best].astype(np.int32), scores[best])
        )

    def pairs(self) -> ItemPairs:
        """All that was kept."""
        empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
        rows, others, scores = (
            np.concatenate(parts) for parts in zip(empty, *self._kept, strict=True)
        )
        return _in_rows(rows, others, scores, self.n_items)


def text_neighbours(
    vectors: np.ndarray, neighbours: int, min_cosine: float, *, progress: bool
) -> ItemPairs:
    """The items whose vectors point most nearly the same way, by exact search.

    Every item is compared with every other: 2 n² d operations in double precision (12,101 vectors
    of 384 numbers: seconds; a million: hours). Cosines are computed in float64 and rounded to
    float32 before they are compared, so that copies of a vector are equally near.

    Args:
        vectors: float (n, d), finite. A vector of zeros is near to nothing.
        neighbours: at most so many an item.
        min_cosine: least cosine, 0 to 1; neighbours with cosine 0 are left out in any case.
        progress: whether to show a bar.

    Raises:
        InputError: a wrong shape, NaN or infinity.
    """
    n = len(vectors)
    directions = directions_of(vectors)
    candidates = Candidates(n, neighbours)
    step = max(1, COSINES_AT_ONCE // n)
    with tqdm(total=n, desc="text neighbours", unit="items", disable=not progress) as bar:
        for start in range(0, n, step):
            block = directions[start : start + step]
            cosines = (block @ directions.T).astype(np.float32)  # (b, n)
            own = np.arange(len(block))
            cosines[own, start + own] = -1  # below every bound
            candidates.add(*_near(cosines, neighbours, min_cosine, start))
            bar.update(len(block))
    return candidates.pairs()


def _near(
    cosines: np.ndarray, neighbours: int, min_cosine: float, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values no lower than the bound and the row's k-th highest, ties kept."""
    place = max(0, cosines.shape[1] - neighbours)
    kth = np.partition(cosines, place, axis=1)[:, place, None]  # (b, 1)
    near = (cosines >= np.maximum(kth, np.float32(min_cosine))) & (cosines > 0)
    rows, others = np.nonzero(near)
    return rows + start, others, cosines[rows, others]


def _in_rows(rows: np.ndarray, others: np.ndarray, scores: np.ndarray, n_items: int) -> ItemPairs:
    counts = np.bincount(rows, minlength=n_items)
    return ItemPairs(starts_of(counts), others.astype(np.int32), scores)


def directions_of(vectors: np.ndarray) -> np.ndarray:
    """``vectors`` (n, d) at length 1, float64; one of zeros stays.

    Raises:
        InputError: a wrong shape, NaN or infinity.
    """
    if vectors.ndim != 2 or 0 in vectors.shape or not np.isfinite(vectors).all():
        raise InputError(
            f"vectors of shape {vectors.shape} are given, but must be finite and of shape "
            "(items, dimensions), both at least 1"
        )
    directions = vectors.astype(np.float64)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    np.divide(directions, lengths, out=directions, where=lengths > 0)
    return directions
