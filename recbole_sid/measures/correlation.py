"""Do figures of SID sets order them as a recommender's scores do? Rank correlations, and chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from recbole_sid.comparison.statistics import holm

MIN_SETS = 4  # of three sets any order comes by chance once in six times
_ALL_ORDERS = 8  # up to so many sets all orders are gone through
_DRAWS = 40_000


class Correlation(NamedTuple):
    """How one figure goes with the scores.

    Attributes:
        figure: its name.
        rho: Spearman's rank correlation, -1 to 1; ties have their mean rank.
        p: share of the orders of the scores whose correlation is as far from 0, two-sided.
        adjusted: ``p`` after Holm's correction for all figures that were looked at.
        sets: how many sets have the figure.
    """

    figure: str
    rho: float
    p: float
    adjusted: float
    sets: int


def rank_correlations(
    figures: Mapping[str, Sequence[float | None]], scores: Sequence[float], seed: int
) -> list[Correlation]:
    """Spearman's correlation of each figure with ``scores``, the strongest first.

    p is exact for up to eight sets; for more it is taken from 40,000 random orders, where the
    order that was found counts as one of them.

    Args:
        figures: a number a set, or None where a set lacks it.
        scores: a number a set.
        seed: of the random orders.

    Returns:
        Figures that fewer than four sets have, or that are the same for all of them, are left out;
        so is everything where the scores are.
    """
    found = []
    for name, values in figures.items():
        has = [place for place, value in enumerate(values) if value is not None]
        ours = np.array([values[place] for place in has], dtype=np.float64)
        theirs = np.array([scores[place] for place in has], dtype=np.float64)
        if len(has) < MIN_SETS or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
            continue
        first, second = _unit(rankdata(ours)), _unit(rankdata(theirs))
        rho = float(first @ second)
        chance = second[_orders(len(has), seed)] @ first
        # Sums of the same ranks in another order differ in their last digits.
        p = float((np.abs(chance) >= abs(rho) - 1e-9).mean())
        found.append((name, rho, p, len(has)))
    adjusted = holm(np.array([p for _, _, p, _ in found]))
    rows = [
        Correlation(name, rho, p, float(raised), sets)
        for (name, rho, p, sets), raised in zip(found, adjusted, strict=True)
    ]
    return sorted(rows, key=lambda row: (row.p, -abs(row.rho), row.figure))


def _unit(ranks: np.ndarray) -> np.ndarray:
    centred = ranks - ranks.mean()
    return centred / np.linalg.norm(centred)


def _orders(n: int, seed: int) -> np.ndarray:
    """All orders of n things, or 40,000 of which the first is the one that is: (orders, n)."""
    if n <= _ALL_ORDERS:
        orders = np.fromiter(
            itertools.chain.from_iterable(itertools.permutations(range(n))), dtype=np.int64
        )
        return orders.reshape(math.factorial(n), n)
    drawn = np.random.default_rng(seed).random((_DRAWS - 1, n)).argsort(axis=1)
    return np.concatenate([np.arange(n)[None], drawn])
