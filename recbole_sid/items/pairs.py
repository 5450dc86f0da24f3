"""Which items go together: by Swing, by co-occurrence, or by their texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.items.neighbours import ItemPairs, text_neighbours
from recbole_sid.items.shared_users import Interactions
from recbole_sid.items.swing import cooccurrence, swing
from recbole_sid.settings import require

__all__ = [
    "Interactions",
    "ItemPairs",
    "PairSettings",
    "cooccurrence",
    "item_pairs",
    "swing",
    "text_neighbours",
]


@dataclass(frozen=True)
class PairSettings:
    """How pairs of items are found. Defaults and meanings: ``properties/pairs.yaml``.

    ``pair_max_items`` is there for robots: a basket of k items makes k² entries to sort, while its
    owner's weight in Swing falls as 1 / √k. The longest of Amazon Beauty (5-core) has 204 items.
    """

    pair_source: Literal["swing", "cooccurrence", "text"]
    pair_neighbours: int
    pair_swing_alpha: float
    pair_max_users: int
    pair_max_items: int | None
    pair_min_cosine: float

    def __post_init__(self) -> None:
        alpha, longest, cosine = self.pair_swing_alpha, self.pair_max_items, self.pair_min_cosine
        require(self.pair_neighbours >= 1, "pair_neighbours", self.pair_neighbours, "at least 1")
        require(0 < alpha < math.inf, "pair_swing_alpha", alpha, "above 0, and finite")
        require(
            self.pair_max_users >= 2,
            "pair_max_users",
            self.pair_max_users,
            "at least 2: Swing compares users",
        )
        require(longest is None or longest >= 2, "pair_max_items", longest, "at least 2 or ~")
        require(0 <= cosine <= 1, "pair_min_cosine", cosine, "0 to 1")


def item_pairs(
    settings: PairSettings,
    interactions: Interactions,
    n_items: int,
    vectors: np.ndarray | None,
    *,
    seed: int,
    progress: bool,
) -> ItemPairs:
    """The pairs that the settings ask for.

    Args:
        settings: the source, and its limits.
        interactions: of the training split only; not looked at for the source ``text``.
        n_items: n, the number of rows of the item table.
        vectors: float32 (n, d), needed for the source ``text`` alone.
        seed: of the sample of users of an item with many; ``text`` draws nothing.
        progress: whether to show a bar.

    Raises:
        InputError: vectors are needed and missing or of another number of items; a user or item
            number is out of range.
    """
    if settings.pair_source == "text":
        if vectors is None or len(vectors) != n_items:
            given = "no" if vectors is None else f"{len(vectors)}"
            raise InputError(
                f"setting 'pair_source' is 'text', which needs a vector for each of {n_items} "
                f"items, but {given} vectors are given. Set pair_source to swing or cooccurrence, "
                "or choose a tokenizer that makes vectors"
            )
        return text_neighbours(
            vectors, settings.pair_neighbours, settings.pair_min_cosine, progress=progress
        )
    build: Callable[..., ItemPairs] = cooccurrence
    if settings.pair_source == "swing":
        build = partial(swing, alpha=settings.pair_swing_alpha)
    return build(
        interactions,
        n_items,
        max_users=settings.pair_max_users,
        max_items=settings.pair_max_items,
        neighbours=settings.pair_neighbours,
        seed=seed,
        progress=progress,
    )
