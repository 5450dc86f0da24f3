"""Embedding hit rate (FORGE, arXiv 2509.20904): do codes keep together what users take together?

An item's co-occurring neighbours are looked for among its k nearest items. Near in SID space are
items with a long common prefix, then with many equal codes; the paper measures the quantised
embedding, which a file of SIDs does not hold. By item vectors, near is a high cosine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.items.neighbours import ItemPairs, directions_of
from recbole_sid.items.ragged import ranges
from recbole_sid.measures import NothingToMeasure

# Pairs of items that are looked at together; each costs about 30 bytes.
BLOCK = 1 << 21


class Block(NamedTuple):
    """How near all items are to those from row ``first`` on: the higher, the nearer.

    ``nearness``: (b, n); an item itself is below all others.
    """

    first: int
    nearness: np.ndarray


def by_codes(codes: np.ndarray) -> Iterator[Block]:
    """Nearness in SID space: by the length of the common prefix, then by Hamming distance.

    Args:
        codes: integers (n, L), without a dedup digit.
    """
    n, n_levels = codes.shape
    kind = np.min_scalar_type(-((n_levels + 1) ** 2))  # int8 up to 10 levels
    for start, end in _stretches(n):
        prefix, equal = np.zeros((2, end - start, n), kind)
        agree = np.ones((end - start, n), bool)
        for level in range(n_levels):
            same = codes[start:end, level, None] == codes[None, :, level]  # (b, n)
            agree &= same
            equal += same
            prefix += agree
        yield _without_itself(start, prefix * kind.type(n_levels + 1) + equal, -1)


def by_vectors(vectors: np.ndarray) -> Iterator[Block]:
    """Cosines, computed in float64 and rounded to float32, so that copies are equally near.

    Args:
        vectors: float (n, d). One of zeros has the cosine 0 to all.

    Raises:
        InputError: a wrong shape, NaN or infinity.
    """
    directions = directions_of(vectors)
    for start, end in _stretches(len(vectors)):
        cosines = (directions[start:end] @ directions.T).astype(np.float32)
        yield _without_itself(start, cosines, -2)


def bounds(nearness: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Who is among the k nearest of each row when ties are in random order.

    Args:
        nearness: (b, n), as of :class:`Block`; k < n.

    Returns:
        The nearness of the k-th, (b, 1): those above it are in for sure, those below it are out.
        The chance of those at it, float64 (b, 1).
    """
    place = nearness.shape[1] - k
    kth = np.partition(nearness, place, axis=1)[:, place, None]
    above = (nearness > kth).sum(axis=1, keepdims=True)
    ties = (nearness == kth).sum(axis=1, keepdims=True)
    return kth, (k - above) / ties


def check_k(k: int, n_items: int) -> None:
    """InputError unless there are more than ``k`` items besides an item itself."""
    if not 1 <= k < n_items - 1:
        raise InputError(
            f"setting 'report_neighbours' is {k}, but must be from 1 to {n_items - 2}: with "
            f"{n_items} items, nothing is left to miss above that"
        )


def hit_rate(blocks: Iterator[Block], pairs: ItemPairs, k: int) -> dict[str, float]:
    """Share of an item's co-occurring neighbours among its k nearest items, the mean over items.

    Items that are equally near count by their chance under random order.

    Args:
        blocks: of :func:`by_codes` or :func:`by_vectors`, of the items of ``pairs``.
        pairs: the co-occurring neighbours; items without any are left out.
        k: from 1 to n - 2.

    Returns:
        ``hit_rate``; ``chance``, that of a random order, k / (n - 1); ``ceiling``, the highest
        possible, below 1 if an item has more than k neighbours; ``items``, how many have any.

    Raises:
        InputError: k out of bounds.
        NothingToMeasure: no item has a neighbour.
    """
    n_items = len(pairs)
    check_k(k, n_items)
    counted = pairs.counts > 0
    if not counted.any():
        raise NothingToMeasure(
            f"none of the {n_items} items has a neighbour by the training interactions: there is "
            "nothing to measure the hit rate on. Use a data set with longer histories, or another "
            "pair_source"
        )
    hits = np.zeros(n_items)
    for first, nearness in blocks:
        end = first + len(nearness)
        counts = pairs.counts[first:end]
        rows = np.repeat(np.arange(len(counts)), counts)
        others = pairs.items[ranges(pairs.offsets[first:end], counts)]
        kth, chance = (column[rows, 0] for column in bounds(nearness, k))
        near = nearness[rows, others]
        found = (near > kth) + (near == kth) * chance
        hits[first:end] = np.bincount(rows, weights=found, minlength=len(counts))
    counts = pairs.counts[counted]
    return {
        "hit_rate": float((hits[counted] / counts).mean()),
        "chance": k / (n_items - 1),
        "ceiling": float(np.minimum(k / counts, 1).mean()),
        "items": int(counted.sum()),
    }


def _stretches(n: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK // n)
    for start in range(0, n, step):
        yield start, min(start + step, n)


def _without_itself(first: int, nearness: np.ndarray, lowest: int) -> Block:
    own = np.arange(len(nearness))
    nearness[own, first + own] = lowest
    return Block(first, nearness)
