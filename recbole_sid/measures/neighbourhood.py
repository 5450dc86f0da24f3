"""Neighbourhood preservation: do items that are near by their vectors share their first codes?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.measures.hit_rate import bounds, by_vectors, check_k
from recbole_sid.sid.groups import group


def neighbourhood(
    vectors: np.ndarray, tables: Sequence[np.ndarray], k: int
) -> list[dict[str, float]]:
    """Share of an item's k nearest items by cosine that have its first 1, 2 … L codes.

    Items that are equally near count by their chance under random order. All tables are measured
    in one pass over the cosines.

    Args:
        vectors: float (n, d).
        tables: codes, integers (n, L) each, without a dedup digit; L may differ.
        k: from 1 to n - 2.

    Returns:
        For each table, of every length d of the prefix: ``near_d``, the mean over items, and
        ``random_d``, the same share among all pairs of different items.

    Raises:
        InputError: vectors or tables of a wrong shape, k out of bounds.
    """
    n_items = len(vectors)
    for codes in tables:
        if codes.ndim != 2 or len(codes) != n_items:
            raise InputError(
                f"codes of shape {codes.shape} are given, but must be of shape ({n_items}, "
                "levels), like the vectors"
            )
    check_k(k, n_items)
    groups = [group(codes) for codes in tables]
    prefixes = [
        [found.of_item(length) for length in range(1, found.n_levels + 1)] for found in groups
    ]
    shared = [np.zeros(found.n_levels) for found in groups]
    for first, cosines in by_vectors(vectors):
        kth, chance = bounds(cosines, k)
        rows, others = np.nonzero(cosines >= kth)
        weights = np.where(cosines[rows, others] > kth[rows, 0], 1.0, chance[rows, 0])
        for sums, of_item in zip(shared, prefixes, strict=True):
            for place, numbers in enumerate(of_item):
                sums[place] += weights[numbers[first + rows] == numbers[others]].sum()
    measured = []
    for sums, found in zip(shared, groups, strict=True):
        values: dict[str, float] = {}
        for length in range(1, found.n_levels + 1):
            sizes = found.sizes(length).astype(np.int64)
            together = int((sizes * (sizes - 1)).sum())
            values[f"near_{length}"] = float(sums[length - 1]) / (n_items * k)
            values[f"random_{length}"] = together / (n_items * (n_items - 1))
        measured.append(values)
    return measured
