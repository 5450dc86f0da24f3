"""Which items may be ranked, asked of a whole subtree of the trie at once.

An item may be forbidden altogether, and it may be there from one time to another, as an ad whose
campaign begins and ends. A node of the trie knows whether any allowed item is below it, the
earliest time at which one begins and the latest at which one ends. For a leaf with one item that is
the item's own interval, and the answer is exact. Above, it may say yes where no item below is there
at that very time, so a search that follows it can run into a dead end:
:func:`recbole_sid.model.ranking.rank_histories` looks wider then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sid.errors import InputError
from recbole_sid.generator.catalogue import Catalogue


@dataclass(frozen=True)
class _Spans:
    """Of the nodes of one depth, or of the items: who is there, and when."""

    allowed: Tensor  # (N,) bool
    since: Tensor  # (N,) float64, inf where no item is ever there
    until: Tensor  # (N,) float64, -inf where no item is ever there

    def test(self, places: Tensor, times: Tensor | None) -> Tensor:
        """Which of ``places`` are available; ``times`` broadcasts to them."""
        allowed = self.allowed[places]
        if times is None:
            return allowed
        return (self.since[places] <= times) & (times <= self.until[places])


class Availability:
    """The items that may be ranked, and when. Its tensors lie where the catalogue's do."""

    def __init__(
        self,
        catalogue: Catalogue,
        allowed: Tensor | None = None,
        since: Tensor | None = None,
        until: Tensor | None = None,
    ):
        """
        Args:
            catalogue: the items.
            allowed: (n_items + 1,) bool, which items may be ranked at all; None: all. Element 0,
                as below, stands for no item and is not read.
            since: (n_items + 1,) seconds from which an item is there, NaN for always; None: all
                always. An item that ends before it begins is never there.
            until: the same, the last second at which an item is there.
        """
        self.catalogue = catalogue
        device, n_items = catalogue.node_of_item.device, catalogue.n_items
        held = torch.arange(n_items + 1, device=device) > 0
        if allowed is not None:
            held &= allowed.to(device)
        first, last = _bound(since, -torch.inf, held), _bound(until, torch.inf, held)
        ever = held & (first <= last)
        self._items = _Spans(
            held, torch.where(ever, first, torch.inf), torch.where(ever, last, -torch.inf)
        )
        # Node of depth d: _nodes[d - 1].
        self._nodes = [
            self._below(catalogue.node_of_item[:, level], len(catalogue.branches(level)[1]))
            for level in range(catalogue.n_levels)
        ]
        self._begins = self._items.since[1:].sort().values
        self._ends = self._items.until[1:].sort().values
        self._n_never = int((~ever[1:]).sum())

    def _below(self, node: Tensor, n_nodes: int) -> _Spans:
        """The items' spans gathered by their ``node`` (n_items + 1,) of one depth."""
        items, node = self._items, node[1:]
        allowed = torch.zeros(n_nodes, dtype=torch.bool, device=node.device)
        allowed[node[items.allowed[1:]]] = True
        none = items.since.new_full((n_nodes,), torch.inf)
        return _Spans(
            allowed,
            none.scatter_reduce(0, node, items.since[1:], "amin"),
            (-none).scatter_reduce(0, node, items.until[1:], "amax"),
        )

    def at(self, times: Tensor | None) -> Available:
        """What may be ranked in a batch.

        Args:
            times: (B,) seconds of each row; None asks at no time: ``since`` and ``until`` do not
                count then.

        Raises:
            InputError: a time is not a finite number.
        """
        if times is not None:
            times = times.to(self._begins)
            if not times.isfinite().all():
                raise InputError(
                    f"{int((~times.isfinite()).sum()):,} of {len(times):,} times are not finite "
                    "numbers: give seconds, or no times at all"
                )
        return Available(self, times)


@dataclass(frozen=True)
class Available:
    """An :class:`Availability` at the times (B,) of a batch's rows, or at no time."""

    of: Availability
    times: Tensor | None

    def rows(self, rows: Tensor | slice) -> Available:
        """The same for some rows of the batch."""
        return Available(self.of, None if self.times is None else self.times[rows])

    def nodes(self, depth: int, nodes: Tensor) -> Tensor:
        """Whether an available item may be below nodes (B, …) of ``depth`` 1 to L: bool (B, …)."""
        return self.of._nodes[depth - 1].test(nodes, self._times_like(nodes))

    def items(self, items: Tensor) -> Tensor:
        """Which of ``items`` (B, …) are available: bool (B, …); item 0 never is."""
        return self.of._items.test(items, self._times_like(items))

    def leaves(self, start: int, end: int) -> Tensor:
        """In which of the leaves ``start`` to ``end`` an item is available, exactly.

        Returns:
            bool (B, end - start), or (1, end - start) at no time.
        """
        first, leaf_items = self.of.catalogue.leaves()
        first = first[start : end + 1].long()
        items = self.items(leaf_items[first[0] : first[-1]][None].expand(self._n_rows, -1))
        if items.shape[1] == end - start:
            return items
        before = F.pad(items.cumsum(dim=1), (1, 0))  # (B, items + 1)
        places = first - first[0]
        return before[:, places[1:]] > before[:, places[:-1]]

    def count(self) -> Tensor:
        """How many items are available in each row: (B,), or (1,) at no time."""
        if self.times is None:
            return self.of._items.allowed.sum()[None]
        begun = torch.searchsorted(self.of._begins, self.times, right=True)
        ended = torch.searchsorted(self.of._ends, self.times)
        # What is never there has ended, without having begun.
        return begun - (ended - self.of._n_never)

    @property
    def _n_rows(self) -> int:
        return 1 if self.times is None else len(self.times)

    def _times_like(self, values: Tensor) -> Tensor | None:
        if self.times is None:
            return None
        return self.times.view(-1, *[1] * (values.dim() - 1))


def _bound(times: Tensor | None, unbounded: float, like: Tensor) -> Tensor:
    """``times`` as float64, ``unbounded`` where they are NaN or None."""
    if times is None:
        return torch.full(like.shape, unbounded, dtype=torch.float64, device=like.device)
    times = times.to(like.device, torch.float64)
    return torch.where(times.isnan(), unbounded, times)
