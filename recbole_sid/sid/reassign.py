"""The collision rules that move items to other codes, and how far they move them.

All rules agree on who moves: of the items of one SID, those nearest to it keep it (ties: by raw
token), as many as it has room for, and the others are *movers*. They differ in where items go.

- ``nearest_free``: every mover takes the nearest code of the last level that has room, under its
  prefix.
- ``random_free``: it takes a random one of them. FORGE (arXiv 2509.20904) caps SIDs in both ways;
  that the nearest items stay here too, and the level by level search below, are ours, so that the
  two rules differ in nothing but where items go.
- ``reassign_last``: all items under a prefix with a collision share out the codes of the last level
  anew, so that the sum of their costs is the least possible (ZCR in arXiv 2605.25330).

Where the codes under a prefix have less room than it has items, the overflow first leaves for the
nearest (``random_free``: a random) other code of the level before the last whose prefix has room;
and if there is none under the whole prefix above, a level further up. The papers leave open who
leaves: here the movers whose code at that level is furthest from them, since it says least about
them.

So the search for "nearest" goes level by level, as a residual quantiser's own does: nearest under
the same prefix, and wider only where that is full. It never looks at all SIDs.

Everything runs over the items in the order of raw tokens, so the result does not depend on the
order of rows. n items of L levels, m of them under prefixes with a collision, K codes a level, d
dimensions: O(L n log n + m K d) time, and for ``reassign_last`` the assignments, at most K³ for a
prefix and far less for the few items that it usually has (a million items in 256 x 256 x 256 codes,
17 % of them colliding: 1.5 seconds on one core). Memory: O(L n), and ENTRIES costs or those of the
items that compete under one prefix, if they are more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from recbole_sid.errors import InputError
from recbole_sid.sid.groups import group
from recbole_sid.sid.space import CodeSpace, EqualCosts
from recbole_sid.sid.table import SemanticIDs

# Costs held at one time.
ENTRIES = 2**20


def reassign(
    sids: SemanticIDs, rule: str, space: CodeSpace | None, capacity: int, seed: int
) -> SemanticIDs:
    """Move items until no SID holds more than ``capacity``.

    Without a space, all codes cost an item the same: who stays goes by raw token, and movers take
    the lowest codes with room, in the order of raw tokens; under "random_free" random ones.

    ``provenance["collision"]`` of the result says ``rule``, ``capacity``,
    ``collision_rate_before``, ``moved`` (items with another SID than before), ``moved_up`` (those
    of them with another prefix) and ``mean_cost_added`` (a moved item's cost of its SID minus that
    of its old one, on average; None without a space).

    Args:
        sids: a table with collision "none".
        rule: "reassign_last", "nearest_free" or "random_free".
        space: the costs, rows as in ``sids``.
        capacity: items that a SID may hold; 1 for "reassign_last".
        seed: of the random codes, at least 0; only "random_free" reads it.

    Raises:
        InputError: more items than all SIDs have room for, or a space of another shape.
    """
    room = capacity * math.prod(sids.sizes)
    if sids.n_items > room:
        raise InputError(
            f"setting 'collision' is {rule!r}, but the {sids.n_items} items do not fit into levels "
            f"of {' x '.join(map(str, sids.sizes))} codes, which have room for {room}; set "
            "collision: dedup, or raise tokenizer_codebook_size, tokenizer_levels or, for "
            "nearest_free and random_free, collision_capacity"
        )
    if space is not None and (space.n_items, space.sizes) != (sids.n_items, sids.sizes):
        raise InputError(
            f"the code space has {space.n_items} items and levels of {space.sizes} codes, but the "
            f"SIDs have {sids.n_items} and {sids.sizes}; fit the tokenizer again"
        )
    order = sids.token_order
    before = sids.codes[order]  # (n, L)
    known = space or EqualCosts(sids.sizes)
    drawn = RandomCosts(known, sids.sizes, np.random.default_rng(seed))
    costs = drawn if rule == "random_free" else known
    table = Table(costs, order, before.copy(), sids.sizes, capacity)
    # Threads add float32 numbers in the order they finish in: one thread is reproducible.
    with threadpool_limits(1):
        movers = table.beyond_capacity()
        table.make_room(movers)
        if rule == "reassign_last" and space is not None:
            table.assign_last()
        else:
            table.settle(movers, len(sids.sizes) - 1, capacity)
        after = table.codes
        moved = np.flatnonzero((after != before).any(axis=1))
        added = None
        if space is not None:
            old = space.prefix_costs(order[moved], before[moved]).astype(np.float64)
            added = float((space.prefix_costs(order[moved], after[moved]) - old).sum())
            added /= max(1, len(moved))
    codes = np.empty_like(after)
    codes[order] = after
    report = {
        "rule": rule,
        "capacity": capacity,
        "collision_rate_before": sids.groups.collisions(sids.n_levels).collision_rate,
        "moved": len(moved),
        "moved_up": int((after[moved, :-1] != before[moved, :-1]).any(axis=1).sum()),
        "mean_cost_added": added,
    }
    return replace(
        sids, codes=codes, collision=rule, provenance={**sids.provenance, "collision": report}
    )


@dataclass(frozen=True)
class RandomCosts:
    """Random costs of the codes that an item may move to: each with room is equally likely.

    What it pays for the codes that it has, by which it stays or leaves, is as in ``known``.

    Attributes:
        known: what codes cost otherwise.
        sizes: codes per level, (L,).
        rng: where draws come from.
    """

    known: CodeSpace | EqualCosts
    sizes: tuple[int, ...]
    rng: np.random.Generator

    def costs(self, level: int, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Drawn from 0 to 1, float32 (m, K_level)."""
        return self.rng.random((len(rows), self.sizes[level]), dtype=np.float32)

    def prefix_costs(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """As in ``known``, float32 (m,)."""
        return self.known.prefix_costs(rows, codes)


Costs = CodeSpace | EqualCosts | RandomCosts


@dataclass
class Table:
    """A table on its way from the codes of the tokenizer to codes without too many items.

    Attributes:
        costs: what codes cost.
        rows: the row of each item in ``costs``; items stand in the order of raw tokens.
        codes: int32 (n, L), changed in place.
        sizes: codes per level.
        capacity: items that a SID may hold.
    """

    costs: Costs
    rows: np.ndarray
    codes: np.ndarray
    sizes: tuple[int, ...]
    capacity: int

    def beyond_capacity(self) -> np.ndarray:
        """The items that are not among the ``capacity`` nearest ones of their SID, rising."""
        groups = group(self.codes)
        length = len(self.sizes)
        crowd = np.flatnonzero(groups.size_of_item(length) > self.capacity)
        sid = groups.of_item(length)[crowd]
        cost = self.costs.prefix_costs(self.rows[crowd], self.codes[crowd])
        by_cost = np.lexsort((cost, sid))
        beyond = places(sid[by_cost]) >= self.capacity
        return np.sort(crowd[by_cost[beyond]])

    def make_room(self, movers: np.ndarray) -> None:
        """Move the overflow of every prefix to prefixes with room, from the first level on.

        Afterwards no prefix holds more items than the SIDs under it have room for. An item that
        moves takes the nearest code at every level after it.
        """
        n, n_levels = self.codes.shape
        for level in range(n_levels - 1):
            limit = min(n, self.capacity * math.prod(self.sizes[level + 1 :]))
            groups = group(self.codes[:, : level + 1])
            excess = groups.sizes(level + 1) - limit  # (prefixes,)
            node = groups.of_item(level + 1)
            candidates = movers[excess[node[movers]] > 0]
            if len(candidates) == 0:
                continue
            prefixes = self.codes[candidates, : level + 1]
            cost = self.costs.prefix_costs(self.rows[candidates], prefixes)
            # Furthest first; of equals the last raw token.
            by_cost = np.lexsort((candidates, cost, node[candidates]))[::-1]
            leaves = places(node[candidates[by_cost]]) < excess[node[candidates[by_cost]]]
            leaving = np.sort(candidates[by_cost[leaves]])
            self.settle(leaving, level, limit)
            for later in range(level + 1, n_levels):
                for part in _parts(np.arange(len(leaving)), self.sizes[later]):
                    items = leaving[part]
                    self.codes[items, later] = self._costs(later, items).argmin(axis=1)

    def settle(self, items: np.ndarray, level: int, limit: int) -> None:
        """Give ``items`` (rising) the nearest code of ``level`` with room, under their prefixes.

        Args:
            items: what moves; all others stay.
            level: from 0.
            limit: items that a code may hold; there must be room for all.
        """
        groups = group(self.codes[:, : level + 1])
        node, parent = groups.of_item(level + 1), groups.of_item(level)
        stays = np.ones(len(node), dtype=bool)
        stays[items] = False
        n_staying = np.bincount(node[stays], minlength=len(groups.sizes(level + 1)))
        first = groups.order[groups.starts[level + 1][:-1]]  # an item of each node
        node_parent, node_code = parent[first], self.codes[first, level]
        items = items[np.argsort(parent[items], kind="stable")]
        for part in _parts(parent[items], self.sizes[level]):
            parents, family = np.unique(parent[items[part]], return_inverse=True)
            room = np.full((len(parents), self.sizes[level]), limit, dtype=np.int64)
            # Nodes are numbered in lexicographic order, so those of one parent stand together.
            first_node = node_parent.searchsorted(parents)
            n_nodes = node_parent.searchsorted(parents, side="right") - first_node
            parent_of = np.repeat(np.arange(len(parents)), n_nodes)
            nodes = first_node[parent_of] + places(parent_of)
            room[parent_of, node_code[nodes]] -= n_staying[nodes]
            costs = self._costs(level, items[part])
            self.codes[items[part], level] = nearest_with_room(costs, family, room)

    def assign_last(self) -> None:
        """Share out the last codes under every prefix with a collision at the least total cost."""
        last = len(self.sizes) - 1
        groups = group(self.codes)
        prefix = groups.of_item(last)
        collides = np.zeros(len(groups.sizes(last)), dtype=bool)
        collides[prefix[groups.size_of_item(last + 1) > 1]] = True
        items = np.flatnonzero(collides[prefix])
        items = items[np.argsort(prefix[items], kind="stable")]
        for part in _parts(prefix[items], self.sizes[last]):
            rows = items[part]
            costs = self._costs(last, rows)
            cuts = np.flatnonzero(np.diff(prefix[rows])) + 1
            chosen = [linear_sum_assignment(own)[1] for own in np.split(costs, cuts)]
            self.codes[rows, last] = np.concatenate(chosen)

    def _costs(self, level: int, items: np.ndarray) -> np.ndarray:
        return self.costs.costs(level, self.rows[items], self.codes[items])


def nearest_with_room(costs: np.ndarray, family: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Give every item a code, the cheapest pair of an item and a code with room first.

    That is: of all pairs, by cost, then item, then code, take the first whose item has no code
    yet and whose code has room, and go on. Found by deferred acceptance: every item asks for its
    cheapest code, a code keeps the cheapest items that it has room for, and those that it refuses
    ask for their next one, all families at once. At most as many rounds as the largest family has
    items.

    Args:
        costs: float32 (m, K).
        family: int (m,), 0 to F - 1; items compete with those of their family.
        room: int (F, K), items that each code can take; at least as many as the family has.

    Returns:
        int64 (m,) codes.
    """
    n_codes = costs.shape[1]
    costs = np.where(room[family] > 0, costs, np.inf)  # (m, K)
    choice = np.zeros(len(costs), dtype=np.int64)
    asking = undecided = np.arange(len(costs))
    while len(asking):
        choice[asking] = costs[asking].argmin(axis=1)
        place = family[undecided] * n_codes + choice[undecided]
        by_cost = np.lexsort((costs[undecided, choice[undecided]], place))
        refused = places(place[by_cost]) >= room.ravel()[place[by_cost]]
        asking = np.sort(undecided[by_cost[refused]])
        costs[asking, choice[asking]] = np.inf
        # A family that refused nobody is done.
        busy = np.zeros(len(room), dtype=bool)
        busy[family[asking]] = True
        undecided = undecided[busy[family[undecided]]]
    return choice


def places(groups: np.ndarray) -> np.ndarray:
    """The place of each element of ``groups`` (m,) in its run of equal values, from 0: (m,)."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _parts(groups: np.ndarray, width: int) -> Iterator[slice]:
    """Slices of ``groups`` (m,), sorted, of at most ENTRIES / ``width`` elements or one group."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    ends = np.append(starts[1:], len(groups))
    most = max(1, ENTRIES // width)
    at = 0
    while at < len(groups):
        # The last group that ends early enough, or the next one.
        index = max(np.searchsorted(ends, [at + most, at], side="right") - [1, 0])
        yield slice(at, int(ends[index]))
        at = int(ends[index])
