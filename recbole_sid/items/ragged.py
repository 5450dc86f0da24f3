"""Rows of unequal length in flat arrays: addressing them, and cutting them into bounded blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where each row begins, and where the last one ends: int64 (n + 1,)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``starts[0]``, ``starts[0] + 1``, … (``lengths[0]`` of them), ``starts[1]``, …: int64."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def places_in_row(lengths: np.ndarray) -> np.ndarray:
    """0 … lengths[0] - 1, 0 … lengths[1] - 1, …: int64 (sum of lengths,)."""
    return ranges(np.zeros(len(lengths), np.int64), lengths)


def blocks(costs: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut 0 … n - 1 into stretches (start, end) whose costs sum to at most ``limit``.

    One whose own cost is higher makes a stretch of its own.
    """
    ends = np.cumsum(costs, dtype=np.int64)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield start, end
        start = end
