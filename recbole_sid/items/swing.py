"""Swing similarity and co-occurrence of items, from who interacted with what.

For item i, every other item j has a group: the users who have both. Swing sums over the pairs of
users in a group, and needs their overlap |I_u ∩ I_v|. That is one (for i itself) more than the
number of groups of i that hold both. So one table with a cell for each pair of users of i is
enough: all groups are counted into it, weights follow, and each group sums those of its pairs.

Small groups list their pairs, one step for each (i, j, u, v). Groups that hold a good share of the
users of a popular item are columns of 0 and 1 instead; counting and summing are matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recbole_sid.items.neighbours import Candidates, ItemPairs
from recbole_sid.items.ragged import blocks, places_in_row, ranges, starts_of
from recbole_sid.items.shared_users import Block, Interactions, group_blocks, make_baskets

# Pairs of users listed at once; a larger group is listed alone.
PAIRS_AT_ONCE = 1 << 19
# A group becomes a column if it has at least this share of the item's users …
COLUMN_SHARE = 1 / 8
# … and all such groups of the item have at least so many pairs of users, worth a call.
COLUMN_PAIRS = 1 << 14
# Columns in one matrix product. Fixed, since the last bit of a sum may depend on it.
COLUMNS = 1024


def swing(
    interactions: Interactions,
    n_items: int,
    *,
    alpha: float,
    max_users: int,
    max_items: int | None,
    neighbours: int,
    seed: int,
    progress: bool,
) -> ItemPairs:
    """Swing: pairs of users who share two items vouch for them, the more the less else they share.

    s(i, j) = Σ over unordered pairs {u, v} of users who both have i and j of
    w_u · w_v / (alpha + |I_u ∩ I_v|), with w_u = 1 / √|I_u| (Yang et al., arXiv 2010.05525; the
    weights as QuaSID, arXiv 2603.00632, has them). I_u is the set of all items of u.

    Exact for items with at most ``max_users`` users. For item i with more, u and v run over
    ``max_users`` of its users, drawn evenly without replacement by ``seed``; I_u and I_v stay
    whole. The neighbours of i then rest on a sample, those of j on another one, so that s(i, j) and
    s(j, i) differ; without any sampling they are equal. Samples depend on the numbers of users and
    items, but not on the order of interactions.

    Sums are in float64, in an order that the size of blocks does not change, and are rounded to
    float32 before they are compared: scores that differ by the order of their sum alone are then
    equal, but for the rare one next to a rounding boundary. Equal scores are listed by row.

    Args:
        interactions: of the training split only.
        n_items: n.
        alpha: above 0; the smaller, the less two users count who share much else.
        max_users: users looked at for one item, at least 2.
        max_items: users with more distinct items are left out; None keeps all. Users with a single
            item are always left out: they tell of no pair.
        neighbours: at most so many an item, at least 1.
        seed: of the samples.
        progress: whether to show a bar.

    Raises:
        InputError: a user or item number out of range.
    """
    baskets = make_baskets(interactions, n_items, max_items)
    weights = 1 / np.sqrt(np.diff(baskets.starts))  # (n_users,)
    candidates = Candidates(n_items, neighbours)
    title = "Swing" if progress else None
    for block in group_blocks(baskets, n_items, 2, max_users, seed, title):
        scores = _swing_scores(block, weights[block.users], alpha)
        candidates.add(block.first + block.item, block.other, scores)
    return candidates.pairs()


def cooccurrence(
    interactions: Interactions,
    n_items: int,
    *,
    max_users: int,
    max_items: int | None,
    neighbours: int,
    seed: int,
    progress: bool,
) -> ItemPairs:
    """How many users have both items; arguments, samples and order are those of :func:`swing`."""
    baskets = make_baskets(interactions, n_items, max_items)
    candidates = Candidates(n_items, neighbours)
    title = "co-occurrence" if progress else None
    for block in group_blocks(baskets, n_items, 1, max_users, seed, title):
        candidates.add(block.first + block.item, block.other, block.sizes)
    return candidates.pairs()


class _Columns(NamedTuple):
    """Some large groups of one item, as columns."""

    cells: slice  # of the pairs of the item's k users, in the table of the block
    groups: slice  # among the large groups of the block
    members: np.ndarray  # 1 where a user is in a group, else 0: float32 (k, c)


def _swing_scores(block: Block, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s(i, j) of each group: float64 (g,). ``weights`` (v,) are those of the viewers."""
    # Viewers x < y of one item have the cell first_cell[x] + y - x - 1.
    first_cell = starts_of(_later(block.n_viewers))
    n_cells = int(first_cell[-1])
    large = _large(block)
    sizes, viewers = block.sizes[~large], block.viewers[np.repeat(~large, block.sizes)]
    group_starts = starts_of(sizes)
    n_pairs = sizes * (sizes - 1) // 2
    base = (first_cell[:-1] - np.arange(1, len(block.users) + 1))[viewers]

    def cells(first: int, last: int) -> np.ndarray:
        """The cells of all pairs of viewers in the small groups first … last - 1."""
        stretch = slice(group_starts[first], group_starts[last])
        left, right = _all_pairs(sizes[first:last])
        return base[stretch][left] + viewers[stretch][right]

    overlap = np.ones(n_cells, np.int64)  # the item itself
    for first, last in blocks(n_pairs, PAIRS_AT_ONCE):
        overlap += np.bincount(cells(first, last), minlength=n_cells)
    for columns in _columns(block, large, first_cell):
        # Whole numbers below 2^24 are exact in float32.
        shared = columns.members @ columns.members.T  # (k, k)
        overlap[columns.cells] += shared[_above_diagonal(len(shared))].astype(np.int64)

    left, right = _all_pairs(block.n_viewers)
    strength = weights[left] * weights[right] / (alpha + overlap)  # (n_cells,)

    of_small, of_large = np.empty(len(sizes)), np.empty(int(large.sum()))
    for first, last in blocks(n_pairs, PAIRS_AT_ONCE):
        begins = starts_of(n_pairs[first:last])[:-1]
        of_small[first:last] = np.add.reduceat(strength[cells(first, last)], begins)
    for columns in _columns(block, large, first_cell):
        k = len(columns.members)
        upper = np.zeros((k, k))
        upper[_above_diagonal(k)] = strength[columns.cells]
        of_large[columns.groups] = (upper @ columns.members * columns.members).sum(axis=0)
    scores = np.empty(len(large))
    scores[~large], scores[large] = of_small, of_large
    return scores


def _large(block: Block) -> np.ndarray:
    """Which groups are worth to be columns: bool (g,). That depends on their item alone."""
    large = block.sizes >= COLUMN_SHARE * block.n_viewers[block.item]
    n_pairs = np.where(large, block.sizes * (block.sizes - 1) // 2, 0)
    of_item = np.bincount(block.item, n_pairs, len(block.n_viewers))
    return large & (of_item >= COLUMN_PAIRS)[block.item]


def _columns(block: Block, large: np.ndarray, first_cell: np.ndarray) -> Iterator[_Columns]:
    """The large groups, item by item, at most ``COLUMNS`` at once."""
    sizes, viewers = block.sizes[large], block.viewers[np.repeat(large, block.sizes)]
    member_starts, viewer_starts = starts_of(sizes), starts_of(block.n_viewers)
    group_starts = starts_of(np.bincount(block.item[large], minlength=len(block.n_viewers)))
    for item in np.flatnonzero(np.diff(group_starts)):
        x, y = viewer_starts[item : item + 2]
        for first in range(group_starts[item], group_starts[item + 1], COLUMNS):
            last = min(first + COLUMNS, int(group_starts[item + 1]))
            members = np.zeros((y - x, last - first), np.float32)
            column = np.repeat(np.arange(last - first), sizes[first:last])
            members[viewers[member_starts[first] : member_starts[last]] - x, column] = 1
            yield _Columns(slice(first_cell[x], first_cell[y]), slice(first, last), members)


def _above_diagonal(k: int) -> np.ndarray:
    """bool (k, k): the pairs of k users, row by row as their cells are."""
    return ~np.tri(k, dtype=bool)


def _later(sizes: np.ndarray) -> np.ndarray:
    """For each member of each group, how many members of its group come after it."""
    return np.repeat(sizes, sizes) - places_in_row(sizes) - 1


def _all_pairs(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of members of one group, by rising left, then right; members are numbered through.

    Returns:
        left, right: int64 (p,), left < right.
    """
    later = _later(sizes)
    members = np.arange(len(later))
    return np.repeat(members, later), ranges(members + 1, later)
