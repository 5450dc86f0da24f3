"""Statistics of a comparison, pure NumPy: significance over users, items that lists reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Draws that are held at once: 32 MiB of them.
_DRAWS = 2**22
GROUPS = ("head", "middle", "tail")


@dataclass(frozen=True)
class Difference:
    """A model against another one: mean over users, its 95 % interval, and how sure its sign is.

    ``p``: two-sided, of this comparison by itself; ``adjusted``: after Holm's correction.
    """

    mean: float
    low: float
    high: float
    p: float
    adjusted: float


def paired_bootstrap(differences: np.ndarray, resamples: int, seed: int) -> list[Difference]:
    """Test the mean of every column against 0 by drawing users with replacement.

    All columns see the same draws. p is twice the smaller share of resampled means on one side of
    0, where the data itself counts as one resample (Davison and Hinkley 1997, 4.2.5), at most 1.

    Args:
        differences: float64 (n users, m comparisons), a model's metric less the other one's.
        resamples: how often n users are drawn.

    Returns:
        m results; ``adjusted`` takes all m for one family.
    """
    n, m = differences.shape
    if m == 0:
        return []
    rng = np.random.default_rng(seed)
    chunk = max(1, _DRAWS // n)
    means = np.empty((resamples, m))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(n, size=(rows, n))
        drawn += np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = counts @ differences / n
    # Sums of the same numbers in another order differ in their last digits: that is no sign.
    means[np.abs(means) < 1e-12] = 0
    below, above = (means <= 0).sum(axis=0), (means >= 0).sum(axis=0)
    p = np.minimum(1, 2 * (1 + np.minimum(below, above)) / (1 + resamples))
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    columns = (differences.mean(axis=0), low, high, p, holm(p))
    return [Difference(*map(float, row)) for row in zip(*columns, strict=True)]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of m p-values (m,): each times the number not yet rejected."""
    order = np.argsort(p, kind="stable")
    raised = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raised))
    return adjusted


def item_groups(counts: np.ndarray) -> np.ndarray:
    """Head 0, middle 1 or tail 2 of every item, int8 (n,), by thirds of all interactions.

    An item is of the head if the items with more interactions than it hold less than a third of
    all, of the middle if less than two thirds; equal counts are never parted.

    Args:
        counts: training interactions of the items, (n,).
    """
    values, inverse, items = np.unique(counts, return_inverse=True, return_counts=True)
    held = values * items  # interactions of all items with this count
    above = held.sum() - np.cumsum(held)
    thirds = np.minimum(3 * above // max(1, held.sum()), 2)
    return thirds.astype(np.int8)[inverse]


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that is in some list; number 0 is an empty place."""
    return float(np.count_nonzero(np.bincount(lists.ravel(), minlength=n_items + 1)[1:]) / n_items)


def mean_popularity(lists: np.ndarray, counts: np.ndarray) -> float | None:
    """Mean training interactions of the recommended items; None if there are none.

    Args:
        counts: (n items + 1,) by the item's number; number 0 is an empty place.
    """
    listed = lists[lists > 0]
    return float(counts[listed].mean()) if len(listed) else None
