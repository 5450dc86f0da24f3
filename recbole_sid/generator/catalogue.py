"""The catalogue as a generator sees it: RecBole's internal item ids, their codes, and the trie."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid.trie import Trie


class Catalogue(nn.Module):
    """SIDs of all items as buffers that follow the model's device but stay out of its checkpoint.

    Item ``i`` (1 to n) is row ``i - 1`` of ``sids``; item 0 is RecBole's padding. A *token* is a
    code counted over all levels, ``offsets[level] + code`` as :class:`SemanticIDs` defines it, plus
    one: token 0 is padding. ``vectors`` (n_items + 1, d) are the items' content, where a generator
    asks for it. ``node_of_item`` (n_items + 1, L) has each item's node of depth d in column d - 1.
    """

    codes: Tensor
    tokens: Tensor
    leaf_of_item: Tensor
    node_of_item: Tensor
    vectors: Tensor | None
    _offsets: Tensor
    _leaf_first: Tensor
    _leaf_items: Tensor

    def __init__(self, sids: SemanticIDs, vectors: np.ndarray | None = None):
        """
        Args:
            sids: codes of all items.
            vectors: (n_items, d) float32, a row an item as in ``sids``.
        """
        super().__init__()
        trie = Trie.from_sids(sids)
        self.sizes = sids.sizes
        self.n_items = sids.n_items
        self.n_levels = sids.n_levels
        self.n_base_levels = sids.n_base_levels
        self.n_tokens = sids.n_codes + 1
        padding = np.zeros((1, sids.n_levels), dtype=np.int64)
        self._keep("codes", np.concatenate([padding, sids.codes.astype(np.int64)]))
        self._keep("_offsets", sids.offsets.astype(np.int64))
        self._keep("tokens", np.concatenate([padding, sids.flat() + 1]))
        for level in range(self.n_levels):
            self._keep(f"_children_{level}", trie.child_start[level])
            self._keep(f"_codes_{level}", trie.codes[level])
        self._keep("_leaf_first", trie.leaf_start)
        self._keep("_leaf_items", trie.leaf_items.astype(np.int64) + 1)
        self._keep("leaf_of_item", np.concatenate([[-1], trie.leaf_of_item]))
        self._keep("node_of_item", np.concatenate([padding, _paths(trie)]))
        if vectors is None:
            self.vectors = None
        else:
            self._keep("vectors", np.pad(vectors, ((1, 0), (0, 0))))

    def _keep(self, name: str, array: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def token(self, level: int, codes: Tensor) -> Tensor:
        """The tokens of ``codes`` of one level."""
        return codes + self._offsets[level] + 1

    def branches(self, level: int) -> tuple[Tensor, Tensor]:
        """CSR of one step down the trie.

        The children of node ``v`` at depth ``level`` are the nodes ``first[v]`` to ``first[v + 1]``
        of the next depth, and ``codes`` holds the code of each.
        """
        first, codes = getattr(self, f"_children_{level}"), getattr(self, f"_codes_{level}")
        return first, codes

    def children_of(self, level: int, parents: Tensor) -> tuple[Tensor, Tensor]:
        """All children of nodes ``parents`` (N,) of depth ``level``, one after the other.

        Returns:
            (M,) which row of ``parents`` each child belongs to, rising, and (M,) the children.
        """
        first, _ = self.branches(level)
        start = first[parents].long()
        count = first[parents + 1].long() - start
        rows = torch.repeat_interleave(count)  # (M,)
        within = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]
        return rows, start[rows] + within

    def child_mask(self, level: int, parents: Tensor) -> Tensor:
        """Which codes of ``level`` lead on from nodes ``parents`` (N,): bool (N, size)."""
        rows, children = self.children_of(level, parents)
        mask = torch.zeros(len(parents), self.sizes[level], dtype=torch.bool, device=rows.device)
        mask[rows, self.branches(level)[1][children].long()] = True
        return mask

    def without_ties(self) -> Catalogue:
        """The catalogue for a generator that scores items of one SID differently.

        Every item is a leaf of its own there, in the order of the items, and what is measured of a
        list's items takes none of them for another. The trie's nodes stay as they are. It is this
        very catalogue where no SID is shared.
        """
        if len(self._leaf_first) - 1 == self.n_items:
            return self
        alone = copy.deepcopy(self)
        number = torch.arange(self.n_items + 1, device=self._leaf_first.device)
        alone.leaf_of_item = number - 1
        alone._leaf_first, alone._leaf_items = number, number[1:]
        return alone

    def leaves(self) -> tuple[Tensor, Tensor]:
        """CSR from leaves to internal item ids, those of one leaf in raw-token order."""
        return self._leaf_first, self._leaf_items


def _paths(trie: Trie) -> np.ndarray:
    """The node of every depth above each row of the table: int64 (n, L)."""
    path = [trie.leaf_of_item.astype(np.int64)]
    for start in reversed(trie.child_start[1:]):
        path.append(np.searchsorted(start, path[-1], side="right") - 1)
    return np.stack(path[::-1], axis=1)
