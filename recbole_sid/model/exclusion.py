"""Leaving out of a user's list what the user had before: which items, and the filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.sequences import Sequences, chain

# Users, histories, lengths and targets of a split's rows: (N,), (N, W), (N,), (N,).
Rows = tuple[np.ndarray, ...]


class Spans(NamedTuple):
    """Ragged rows: row ``i`` is ``values[starts[i]:ends[i]]``."""

    values: np.ndarray
    starts: np.ndarray  # (n,)
    ends: np.ndarray  # (n,)

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """The given rows as (len(rows), longest), left aligned, 0 on the right."""
        starts = self.starts[rows]
        lengths = self.ends[rows] - starts
        position = np.arange(lengths.max(initial=0))
        held = position < lengths[:, None]
        padded = np.zeros(held.shape, dtype=np.int64)
        padded[held] = self.values[(starts[:, None] + position)[held]]
        return padded


def before_targets(rows: Rows) -> Spans:
    """All items before each row's target, as far back as the rows continue each other.

    RecBole cuts a row's history; where the row before is of the same user and goes on in this one,
    its items are known too (see :func:`recbole_sid.generator.sequences.chain`).
    """
    sequences = chain(*rows)
    of_item = np.repeat(np.arange(len(sequences.users)), np.diff(sequences.offsets))
    position = np.arange(len(sequences.items)) - sequences.offsets[of_item]
    targets = np.flatnonzero(position >= sequences.first_target[of_item])
    # The chains hold the targets in this order of the rows.
    order = np.argsort(rows[0], kind="stable")
    starts = np.empty(len(order), dtype=np.int64)
    ends = np.empty(len(order), dtype=np.int64)
    starts[order] = sequences.offsets[of_item[targets]]
    ends[order] = targets
    return Spans(sequences.items, starts, ends)


class EarlierItems:
    """What the user of each row of a split had before the row's target."""

    def __init__(self, split: Rows, earlier: Sequence[Sequences], n_users: int):
        """
        Args:
            split: the rows that are ranked, in their order.
            earlier: the splits before it; all that their users had counts.
            n_users: the number of user ids.
        """
        self.users = split[0]
        self._own = before_targets(split)
        none = np.empty(0, dtype=np.int64)
        users = np.concatenate(
            [none, *(np.repeat(part.users, np.diff(part.offsets)) for part in earlier)]
        )
        items = np.concatenate([none, *(part.items for part in earlier)])
        first = np.searchsorted(np.sort(users), np.arange(n_users + 1))
        self._earlier = Spans(items[np.argsort(users, kind="stable")], first[:-1], first[1:])

    def of(self, rows: np.ndarray) -> Tensor:
        """(len(rows), E) item ids as :func:`distinct_items` gives them."""
        own = self._own.padded(rows)
        earlier = self._earlier.padded(self.users[rows])
        return distinct_items(torch.from_numpy(np.concatenate([own, earlier], axis=1)))


def distinct_items(items: Tensor) -> Tensor:
    """Each row's items once, ascending, behind as many 0 as are needed: (B, E) from (B, T).

    E is the largest number of distinct items in a row, at least 1.
    """
    if not items.shape[1]:
        return items.new_zeros(len(items), 1)
    items = items.sort(dim=1).values
    repeated = items[:, 1:] == items[:, :-1]
    items[:, 1:] = items[:, 1:].masked_fill(repeated, 0)
    items = items.sort(dim=1).values
    widest = int((items > 0).sum(dim=1).max()) if len(items) else 0
    return items[:, -max(widest, 1) :].contiguous()


def contains(excluded: Tensor, items: Tensor) -> Tensor:
    """Which of ``items`` (B, K) are among each row's ``excluded`` (B, E); never item 0."""
    place = torch.searchsorted(excluded, items).clamp(max=excluded.shape[1] - 1)
    return (excluded.gather(1, place) == items) & (items > 0)


def leave_out(ranked: Ranked, excluded: Tensor, k: int, catalogue: Catalogue) -> Ranked:
    """The first ``k`` of the ranked items that are not ``excluded``, in their order.

    A group of items that share a SID loses its excluded members, wherever they stand: its size is
    what remains of it.

    Args:
        ranked: (B, K) with K at least ``k``.
        excluded: (B, E) from :func:`distinct_items`.
    """
    leaf = catalogue.leaf_of_item
    left_out = torch.where(excluded > 0, leaf[excluded], -1).sort(dim=1).values  # (B, E)
    leaves = leaf[ranked.items].contiguous()
    missing = torch.searchsorted(left_out, leaves, right=True)
    missing = missing - torch.searchsorted(left_out, leaves)  # (B, K) excluded in the item's group
    keep = (ranked.items > 0) & ~contains(excluded, ranked.items.contiguous())
    order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, :k]  # kept ones to the front
    kept = keep.gather(1, order)
    return Ranked(
        items=torch.where(kept, ranked.items.gather(1, order), 0),
        scores=torch.where(kept, ranked.scores.gather(1, order), -torch.inf),
        group_sizes=torch.where(kept, (ranked.group_sizes - missing).gather(1, order), 1),
    )
