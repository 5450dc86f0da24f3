"""For every item, the other items that its users have, and which of its users have each.

For item i, one sort of (i, other item, user) makes a stretch of each group of users who have both.
Items are worked on in blocks, so that memory is bounded whatever the number of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse
from tqdm import tqdm

from recbole_sid.errors import InputError
from recbole_sid.items.ragged import blocks, places_in_row, ranges, starts_of

# A block has at most so many basket entries and pairs of users together, unless one item alone has
# more. It takes less than 100 MB with all that Swing does; an item with k users about 30 k² bytes.
BLOCK = 1 << 19


class Interactions(NamedTuple):
    """Training interactions, in any order; repeats count once.

    Attributes:
        users: integers (m,), 0 or more; they need not be without gaps.
        items: integers (m,), 0 … n_items - 1.
    """

    users: np.ndarray
    items: np.ndarray


class Baskets(NamedTuple):
    """User u has the distinct items ``items[starts[u] : starts[u + 1]]``, by rising row."""

    starts: np.ndarray  # int64 (n_users + 1,)
    items: np.ndarray  # int32 (m,)


class Block(NamedTuple):
    """Groups of users: those who have one item of the block, and another item besides.

    A viewer is a user of one item of the block; viewers are numbered item after item, each item's
    by rising user.

    Attributes:
        first: row of the first item of the block.
        users: the user of each viewer, int64 (v,).
        n_viewers: viewers of each of the items ``first``, ``first`` + 1, …: int64 (b,).
        item: the item of each group, counted from ``first``, rising: int64 (g,).
        other: row of the other item of each group, rising for each item: int64 (g,).
        sizes: viewers in each group, int64 (g,).
        viewers: group after group, by rising number: int64 (sum of sizes,).
    """

    first: int
    users: np.ndarray
    n_viewers: np.ndarray
    item: np.ndarray
    other: np.ndarray
    sizes: np.ndarray
    viewers: np.ndarray


def make_baskets(interactions: Interactions, n_items: int, max_items: int | None) -> Baskets:
    """The baskets of the users with 2 to ``max_items`` distinct items, users by rising number."""
    users, items = (np.asarray(column) for column in interactions)
    if not (users.ndim == items.ndim == 1 and len(users) == len(items)):
        raise InputError(
            f"users of shape {users.shape} and items of shape {items.shape} are given, but must be "
            "two columns of one length"
        )
    if n_items < 1:
        raise InputError(f"there are {n_items} items, but there must be at least 1")
    highest = {"users": 2**62 // n_items, "items": n_items - 1}
    for name, column in (("users", users), ("items", items)):
        if column.dtype.kind not in "iu":
            raise InputError(f"{name} are of type {column.dtype}, but must be whole numbers")
        if len(column) and not (column.min() >= 0 and column.max() <= highest[name]):
            raise InputError(
                f"{name} are {column.min()} … {column.max()}, but must be 0 … {highest[name]}: "
                "number them from 0"
            )
    key = users.astype(np.int64)
    key *= n_items
    key += items
    key.sort()
    key = key[np.diff(key, prepend=-1) > 0]  # repeats count once
    users = key // n_items
    lengths = np.diff(np.append(np.flatnonzero(np.diff(users, prepend=-1)), len(users)))
    kept = lengths >= 2
    if max_items is not None:
        kept &= lengths <= max_items
    items = (key - users * n_items)[np.repeat(kept, lengths)].astype(np.int32)
    return Baskets(starts_of(lengths[kept]), items)


def _viewers(
    baskets: Baskets, n_items: int, max_users: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``max_users`` users of each item, rising: where each item's begin, and the users."""
    by_user = sparse.csr_matrix(
        (np.ones(len(baskets.items), np.int8), baskets.items, baskets.starts),
        (len(baskets.starts) - 1, n_items),
    )
    by_item = by_user.tocsc()
    users, counts = by_item.indices, np.diff(by_item.indptr)
    crowded = np.flatnonzero(counts > max_users)
    if len(crowded):
        places = ranges(by_item.indptr[crowded], counts[crowded])
        item = np.repeat(crowded, counts[crowded])
        drawn = np.lexsort((np.random.default_rng(seed).random(len(places)), item))
        left_out = places_in_row(counts[crowded]) >= max_users
        kept = np.ones(len(users), bool)
        kept[places[drawn[left_out]]] = False
        users, counts = users[kept], np.minimum(counts, max_users)
    return starts_of(counts), users


def group_blocks(
    baskets: Baskets, n_items: int, min_users: int, max_users: int, seed: int, title: str | None
) -> Iterator[Block]:
    """Groups of at least ``min_users`` users, block by block; a bar shows if it has a ``title``."""
    item_starts, all_users = _viewers(baskets, n_items, max_users, seed)
    lengths = np.diff(baskets.starts)  # (n_users,)
    counts = np.diff(item_starts)  # (n,)
    entries = np.diff(starts_of(lengths[all_users])[item_starts])  # (n,)
    costs = 1 + entries + counts * (counts - 1) // 2
    with tqdm(total=n_items, desc=title, unit="items", disable=title is None) as bar:
        for first, last in blocks(costs, BLOCK):
            users = all_users[item_starts[first] : item_starts[last]]  # (v,)
            yield _grouped(baskets, n_items, first, counts[first:last], users, min_users)
            bar.update(last - first)


def _grouped(
    baskets: Baskets,
    n_items: int,
    first: int,
    n_viewers: np.ndarray,
    users: np.ndarray,
    min_users: int,
) -> Block:
    """The block of the items ``first``, ``first`` + 1, …, with ``n_viewers`` (b,) users each."""
    # One number an entry of a viewer's basket: item of the block, other item, place of the viewer
    # among those of the item. They take 19 + 31 + 11 bits at most while BLOCK is 2^19, since k
    # viewers cost k(k - 1)/2, and 31 + 32 bits where one item is the whole block.
    other_bits, place_bits = int(n_items).bit_length(), int(n_viewers.max()).bit_length()
    item = np.repeat(np.arange(len(n_viewers)), n_viewers)  # (v,)
    viewer_key = item << (other_bits + place_bits) | places_in_row(n_viewers)
    starts, in_basket = baskets.starts[users], baskets.starts[users + 1] - baskets.starts[users]
    other = baskets.items[ranges(starts, in_basket)].astype(np.int64)  # (sum of baskets,)
    key = np.repeat(viewer_key, in_basket) | other << place_bits
    key = key[other != np.repeat(item + first, in_basket)]
    key.sort()

    group = key >> place_bits
    sizes = np.diff(np.append(np.flatnonzero(np.diff(group, prepend=-1)), len(group)))
    key, sizes = key[np.repeat(sizes >= min_users, sizes)], sizes[sizes >= min_users]
    group = key[starts_of(sizes)[:-1]] >> place_bits  # (g,)
    item, other = group >> other_bits, group & ((1 << other_bits) - 1)
    place = key & ((1 << place_bits) - 1)
    viewers = np.repeat(starts_of(n_viewers)[item], sizes) + place
    return Block(first, users, n_viewers, item, other, sizes, viewers)
