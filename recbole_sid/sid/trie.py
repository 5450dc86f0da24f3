"""The trie of all SIDs as flat arrays: which codes may follow a prefix, and which items it ends in.

Nodes of one depth are numbered in lexicographic order of their prefix, so the children of a node
are neighbours and one array of starts (compressed sparse rows) finds them. A million items with
three levels of 256 codes and a dedup digit take about 20 bytes an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbole_sid.sid.groups import number_rows
from recbole_sid.sid.table import SemanticIDs


@dataclass(frozen=True, eq=False)
class Trie:
    """All prefixes of a table of n SIDs with L levels; the root is node 0 of depth 0.

    Attributes:
        codes: L int32 arrays; ``codes[d - 1]`` is the code of each node of depth d.
        child_start: L int32 arrays; the children of node i of depth d are the nodes
            ``child_start[d][i]`` to ``child_start[d][i + 1] - 1`` of depth d + 1, by rising code.
        leaf_start: int32 (n_leaves + 1,), the same for the items of a node of depth L.
        leaf_items: int32 (n,), rows of the table, leaf after leaf; in a leaf by raw token.
        max_children: the largest number of children of a node of depth 0 … L - 1.
    """

    codes: tuple[np.ndarray, ...]
    child_start: tuple[np.ndarray, ...]
    leaf_start: np.ndarray
    leaf_items: np.ndarray
    max_children: tuple[int, ...]

    @classmethod
    def from_sids(cls, sids: SemanticIDs) -> Trie:
        """Build the trie from the sort that the table already has."""
        order, starts = sids.groups.order, sids.groups.starts
        depths = range(1, sids.n_levels + 1)
        codes = tuple(sids.codes[order[starts[depth][:-1]], depth - 1] for depth in depths)
        # A node begins where its first child begins, so its place among the starts of the next
        # depth is the number of that child.
        child_start = tuple(
            np.searchsorted(starts[depth + 1], starts[depth]).astype(np.int32)
            for depth in range(sids.n_levels)
        )
        max_children = tuple(int(np.diff(start).max()) for start in child_start)
        return cls(codes, child_start, starts[-1], order, max_children)

    @property
    def n_levels(self) -> int:
        return len(self.codes)

    @property
    def n_leaves(self) -> int:
        return len(self.leaf_start) - 1

    @property
    def nbytes(self) -> int:
        """Bytes in the arrays above (``leaf_of_item`` adds 4 an item once it is used)."""
        arrays = (*self.codes, *self.child_start, self.leaf_start, self.leaf_items)
        return sum(array.nbytes for array in arrays)

    @cached_property
    def leaf_of_item(self) -> np.ndarray:
        """The leaf (node of depth L) of each row of the table: int32 (n,)."""
        return number_rows(self.leaf_items, self.leaf_start)

    def children(self, depth: int, node: int) -> tuple[np.ndarray, np.ndarray]:
        """The children of a node of ``depth`` < L: their codes and their numbers, at depth + 1."""
        start, end = self.child_start[depth][node : node + 2]
        return self.codes[depth][start:end], np.arange(start, end)

    def items(self, leaf: int) -> np.ndarray:
        """The rows of the table that share the SID of one leaf."""
        return self.leaf_items[self.leaf_start[leaf] : self.leaf_start[leaf + 1]]
