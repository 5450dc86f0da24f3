"""The ads of one day, and the process that takes a user to the next ad.

The next ad comes from a mixture. Each component is a range of products, in which the live ads of
the day are drawn by their weights. So the same table that draws an ad gives its probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recbole_sid.ads.catalogue import (
    CATEGORIES,
    CATEGORY_OF_KIND,
    FIRST_KIND,
    INDUSTRY_OF_CATEGORY,
    KINDS,
    Catalogue,
    draw_in_ranges,
)

ANY, AGAIN, COMPANION = 0.08, 0.15, 0.25  # the rest goes by the kind
FAVOURITE = 0.6  # of what goes by the kind: the favourite brand alone
# Inside of a session: the same kind, its neighbour in the category, one elsewhere in the industry.
STAY, NEIGHBOUR, ELSEWHERE = 0.7, 0.2, 0.1
INTERESTS = (0.4, 0.3, 0.2, 0.1)  # of a user, at the beginning of a session
FRESH_DAYS, LASTING = 10.0, 0.3  # weights fall with the age of an ad, to this share


class Routes(NamedTuple):
    """A mixture for each of B users: shares sum to 1, ranges of products [first, last): (B, 11)."""

    shares: np.ndarray
    first: np.ndarray
    last: np.ndarray


class State(NamedTuple):
    """What the next ad depends on, for each of B users.

    ``users``, ``products`` and ``kinds`` of the last ad, -1 for none: (B,). ``opening``: whether a
    session begins, (B,). ``interests``: kinds, (B, 4).
    """

    users: np.ndarray
    products: np.ndarray
    kinds: np.ndarray
    opening: np.ndarray
    interests: np.ndarray


@dataclass(frozen=True)
class Tastes:
    """What does not change: which kinds are related, and everybody's favourite brands.

    ``related``: for each kind, the neighbour in its category and one elsewhere in its industry,
    (n_kinds, 2). ``brand_bounds``, ``brand_sums``: the first brand of each category, and the
    brands' weights summed up.
    """

    catalogue: Catalogue
    related: np.ndarray
    brand_bounds: np.ndarray
    brand_sums: np.ndarray
    seed: int

    def favourites(self, users: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The products [first, last) of the favourite brand; empty if it has none of the kind.

        A user has one favourite brand a category, drawn by the brands' weights. It is a hash, so
        that no table of users and categories is needed.
        """
        world = self.catalogue
        categories = CATEGORY_OF_KIND[kinds]
        first, last = self.brand_bounds[categories], self.brand_bounds[categories + 1]
        luck = _hashed(users * len(CATEGORIES) + categories, self.seed)
        brands = draw_in_ranges(self.brand_sums, first, last, luck)
        keys = kinds * world.n_brands + brands
        found = np.minimum(np.searchsorted(world.pair_keys, keys), len(world.pair_keys) - 1)
        there = world.pair_keys[found] == keys
        first = world.pair_products[found]
        return first, np.where(there, world.pair_products[found + 1], first)


def make_tastes(catalogue: Catalogue, seed: int, rng: np.random.Generator) -> Tastes:
    kinds = np.arange(len(KINDS))
    first, last = FIRST_KIND[CATEGORY_OF_KIND], FIRST_KIND[CATEGORY_OF_KIND + 1]
    neighbour = first + (kinds - first + 1) % (last - first)
    industries = INDUSTRY_OF_CATEGORY[CATEGORY_OF_KIND]
    same = industries[:, None] == industries[None, :]
    elsewhere = np.argmax(rng.random(same.shape) * same, axis=1)
    return Tastes(
        catalogue,
        related=np.stack([neighbour, elsewhere], axis=1),
        brand_bounds=np.searchsorted(catalogue.brand_category, np.arange(len(CATEGORIES) + 1)),
        brand_sums=np.concatenate([[0.0], np.cumsum(catalogue.brand_weights)]),
        seed=seed,
    )


class Live:
    """The ads that are shown on one day.

    Attributes:
        ads: their numbers, by rising product, (n,).
        weights: of each, by popularity and age, (n,).
    """

    def __init__(self, tastes: Tastes, by_product: np.ndarray, day: int) -> None:
        """``by_product``: all ads by rising product."""
        world = self.catalogue = tastes.catalogue
        self.tastes = tastes
        shown = (world.ad_start <= day) & (day < world.ad_end)
        self.ads = by_product[shown[by_product]]
        age = day - world.ad_start[self.ads]
        freshness = LASTING + (1 - LASTING) * np.exp(-age / FRESH_DAYS)
        self.weights = world.ad_weights[self.ads] * freshness
        self._sums = np.concatenate([[0.0], np.cumsum(self.weights)])
        # Place of the first live ad of each product.
        self._starts = np.searchsorted(
            world.ad_product[self.ads], np.arange(world.n_products + 1), side="left"
        )

    def routes(self, state: State) -> Routes:
        """The mixture of each user's next ad; a component without a live ad gives up its share.

        The favourite brand's share goes to the kind, that of another ad of the product and of its
        companion to what goes by the kind, and that of a kind to all ads.
        """
        world, n_users = self.catalogue, len(state.users)
        shares, first, last = np.zeros((n_users, 11)), *np.zeros((2, n_users, 11), np.int64)
        last[:, 0] = world.n_products
        known = state.products >= 0
        seen = np.maximum(state.products, 0)
        for place, product in ((1, seen), (2, world.product_companions[seen])):
            first[:, place] = product
            last[:, place] = product + known
        kinds, by_kind = self._kinds(state)  # (B, 4)
        first[:, 7:], last[:, 7:] = world.kind_products[kinds], world.kind_products[kinds + 1]
        first[:, 3:7], last[:, 3:7] = self.tastes.favourites(state.users[:, None], kinds)

        there = self._starts[last] > self._starts[first]  # (B, 11)
        shares[:, 1] = AGAIN * there[:, 1]
        shares[:, 2] = COMPANION * there[:, 2]
        rest = (1 - ANY - shares[:, 1:3].sum(axis=1))[:, None] * by_kind
        shares[:, 3:7] = rest * FAVOURITE * there[:, 3:7]
        shares[:, 7:] = (rest - shares[:, 3:7]) * there[:, 7:]
        shares[:, 0] = 1 - shares[:, 1:].sum(axis=1)
        return Routes(shares, first, last)

    def _kinds(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Kinds that may come next and their shares, (B, 4) each."""
        opening = (state.opening | (state.kinds < 0))[:, None]
        current = np.maximum(state.kinds, 0)
        related = self.tastes.related[current]
        inside = np.column_stack([current, related, current])
        shares = np.where(opening, INTERESTS, (STAY, NEIGHBOUR, ELSEWHERE, 0.0))
        return np.where(opening, state.interests, inside), shares

    def draw(self, routes: Routes, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One ad for each user, and whether it was drawn from all ads: (B,) each."""
        passed = np.cumsum(routes.shares, axis=1)[:, :-1] <= rng.random(len(routes.shares))[:, None]
        # A component without a share is never chosen, by rounding either.
        chosen = np.where(routes.shares > 0, np.arange(11), -1)
        chosen = np.maximum.accumulate(chosen, axis=1)[np.arange(len(passed)), passed.sum(axis=1)]
        rows = np.arange(len(chosen))
        ads = self.draw_in(routes.first[rows, chosen], routes.last[rows, chosen], rng)
        return ads, chosen == 0

    def draw_in(self, first: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A live ad of the products [first, last), each range with one at least: (B,)."""
        places = draw_in_ranges(
            self._sums, self._starts[first], self._starts[last], rng.random(len(first))
        )
        return self.ads[places]

    def probabilities(self, routes: Routes) -> np.ndarray:
        """Of each live ad to be the next one: float64 (B, n)."""
        first, last = self._starts[routes.first], self._starts[routes.last]
        mass = self._sums[last] - self._sums[first]
        height = np.divide(routes.shares, mass, out=np.zeros_like(mass), where=mass > 0)
        # Each component is a step up where its range begins and one down where it ends.
        steps = np.zeros((len(first), len(self.ads) + 1))
        rows = np.arange(len(first))[:, None]
        np.add.at(steps, (rows, first), height)
        np.add.at(steps, (rows, last), -height)
        return np.maximum(np.cumsum(steps[:, :-1], axis=1), 0) * self.weights


def _hashed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Numbers in [0, 1) that look random and are always the same (the mixer of SplitMix64)."""
    mixed = numbers.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 1) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
