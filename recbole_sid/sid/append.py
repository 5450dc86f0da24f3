"""New items in a published table: they get SIDs, and no published SID moves.

By the rule of the published table:

- "dedup": every base SID has room for as many items as there are dedup digits. A new item takes the
  lowest unused digit of its base SID. The sizes of the levels stay, since a generator was trained
  with them, so the room is what the groups left free, and ``collision_headroom`` besides.
- "nearest_free", "random_free", "reassign_last": every SID has room for the capacity of the table,
  or for one.
- "none": new items share SIDs with any others.

Of the new items of a SID with too little room for them the nearest stay (ties: by raw token). The
others go where ``nearest_free`` would send them, see :mod:`.reassign`: to the nearest code of the
last (base) level with room under their prefix and, where a prefix is full, up a level.

The new items are taken in the order of their raw tokens, so that the result does not depend on the
order of their rows. It does depend on what was appended first: items that come later find less
room. Two appends give what one append of all gives wherever nothing is short of room, up to the
dedup digits, which count in the order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from recbole_sid.errors import InputError, preview
from recbole_sid.sid.groups import Groups, group
from recbole_sid.sid.reassign import Table, places
from recbole_sid.sid.space import CodeSpace, EqualCosts
from recbole_sid.sid.table import SemanticIDs

# Crowded SIDs that a report shows.
SHOWN = 10


@dataclass(frozen=True)
class Appended:
    """A table with new items, and what it took.

    Attributes:
        sids: the published rows first, untouched, then the new ones in the order they came in.
            ``provenance["appended"]`` counts all items that were ever appended.
        report: whole numbers of new items: ``new``; ``met_old`` and ``met_new``, whose base SID,
            as the tokenizer gave it, a published or another new item has as well; ``took_digit``,
            which stayed and are told apart by the dedup digit alone; ``moved`` to another base
            SID, ``moved_up`` of them to another prefix; and ``mean_cost_added`` of those that
            moved, None without a space.
    """

    sids: SemanticIDs
    report: dict[str, Any]


def append_codes(
    published: SemanticIDs,
    tokens: Sequence[str],
    base_codes: np.ndarray,
    space: CodeSpace | None = None,
) -> Appended:
    """Give new items SIDs beside the published ones.

    Args:
        published: the table; none of its SIDs changes.
        tokens: raw tokens of the m new items, none of them published.
        base_codes: int32 (m, base levels of the table), the tokenizer's codes of the new items.
        space: what other codes cost the new items, rows as in ``tokens``; without one all codes
            cost the same, and items that move take the lowest codes with room.

    Raises:
        InputError: a token is published, codes or space do not fit the table, or there is no room.
    """
    known = set(published.tokens).intersection(tokens)
    if known:
        raise InputError(
            f"{len(known)} of the {len(tokens)} new items have a SID already: "
            f"{preview(sorted(known))}; leave them out"
        )
    sizes = published.sizes[: published.n_base_levels]
    new = SemanticIDs(tuple(tokens), base_codes, sizes, "none", {})
    if space is not None and (space.n_items, space.sizes) != (new.n_items, sizes):
        raise InputError(
            f"the code space has {space.n_items} items and levels of {space.sizes} codes, but the "
            f"new items are {new.n_items} and the table's levels are {sizes}"
        )
    n_old, order = published.n_items, new.token_order
    before = np.concatenate([published.base_codes, new.codes[order]])  # (n + m, base levels)
    after, added = before, None
    room = room_of(published)
    if room is not None:
        _refuse_overflow(published, new.n_items, room)
        table = Table(space or EqualCosts(sizes), _rows(n_old, order), before.copy(), sizes, room)
        # Threads add float32 numbers in the order they finish in: one thread is reproducible.
        with threadpool_limits(1):
            movers = _beyond_room(table, n_old)
            table.make_room(movers)
            table.settle(movers, len(sizes) - 1, room)
        after = table.codes
        added = None if space is None else _cost_added(table, before, n_old)
    base = group(after)
    codes = after
    if published.collision == "dedup":
        codes = np.column_stack([after, _digits(base, published)])  # (n + m, L)
    new_codes = np.empty((new.n_items, published.n_levels), dtype=np.int32)
    new_codes[order] = codes[n_old:]
    so_far = published.provenance.get("appended", 0)
    sids = replace(
        published,
        tokens=(*published.tokens, *new.tokens),
        codes=np.concatenate([published.codes, new_codes]),
        provenance={**published.provenance, "appended": so_far + new.n_items},
    )
    moved = (after != before)[n_old:]  # (m, base levels)
    report: dict[str, Any] = {"new": new.n_items, **_met(group(before), n_old)}
    if published.collision == "dedup":
        stayed = ~moved.any(axis=1)
        shared = base.size_of_item(len(sizes))[n_old:] > 1
        report["took_digit"] = int(np.count_nonzero(stayed & shared))
    report["moved"] = int(moved.any(axis=1).sum())
    report["moved_up"] = int(moved[:, :-1].any(axis=1).sum())
    report["mean_cost_added"] = added
    return Appended(sids, report)


def room_of(sids: SemanticIDs) -> int | None:
    """How many items a base SID of the table has room for; None: any number."""
    if sids.collision == "none":
        return None
    return sids.sizes[-1] if sids.collision == "dedup" else sids.capacity


def fullness(sids: SemanticIDs) -> dict[str, Any]:
    """How full the code space of a table is, in plain data.

    - ``used_share_l``: distinct prefixes of l base levels / all that there could be.
    - ``room``: items that a base SID has room for; None under "none", which knows no bound.
    - ``filled``: items / places of all base SIDs together; None under "none".
    - ``largest_group``: items of the most crowded base SID.
    - ``full_groups``: base SIDs in use without a free place; 0 under "none".
    - ``fullest``: the ten most crowded base SIDs: ``sid``, ``items``, and the ``free`` places.
    """
    groups, length = group(sids.base_codes), sids.n_base_levels
    sizes = groups.sizes(length)
    room = room_of(sids)
    all_sids = math.prod(sids.sizes[:length])
    found: dict[str, Any] = {
        f"used_share_{level}": len(groups.sizes(level)) / math.prod(sids.sizes[:level])
        for level in range(1, length + 1)
    }
    found["room"] = room
    found["filled"] = None if room is None else sids.n_items / (room * all_sids)
    found["largest_group"] = int(sizes.max())
    found["full_groups"] = 0 if room is None else int(np.count_nonzero(sizes >= room))
    crowded = np.argsort(-sizes, kind="stable")[:SHOWN]
    found["fullest"] = [
        {
            "sid": sids.base_codes[groups.order[groups.starts[length][place]]].tolist(),
            "items": int(sizes[place]),
            "free": None if room is None else room - int(sizes[place]),
        }
        for place in crowded
    ]
    return found


def _refuse_overflow(published: SemanticIDs, n_new: int, room: int) -> None:
    sizes = published.sizes[: published.n_base_levels]
    places_in_all = room * math.prod(sizes)
    if published.n_items + n_new > places_in_all:
        each = "items, one a dedup digit" if published.collision == "dedup" else "items"
        raise InputError(
            f"{n_new} new items do not fit: the levels of {' x '.join(map(str, sizes))} codes with "
            f"room for {room} {each}, at each SID have {places_in_all} places, and "
            f"{published.n_items} are taken. The catalogue must be tokenized and trained again, "
            "with a larger tokenizer_codebook_size or more tokenizer_levels"
        )


def _rows(n_old: int, order: np.ndarray) -> np.ndarray:
    """Rows in the space of the new items; the published ones have none, and are never asked."""
    return np.concatenate([np.full(n_old, -1), order])


def _beyond_room(table: Table, n_old: int) -> np.ndarray:
    """The new items that their SID has no room for, rising: all but the nearest."""
    groups, length = group(table.codes), len(table.sizes)
    sid = groups.of_item(length)
    free = table.capacity - np.bincount(sid[:n_old], minlength=len(groups.sizes(length)))
    crowd = n_old + np.flatnonzero(groups.size_of_item(length)[n_old:] > table.capacity)
    cost = table.costs.prefix_costs(table.rows[crowd], table.codes[crowd])
    by_cost = np.lexsort((cost, sid[crowd]))
    beyond = places(sid[crowd][by_cost]) >= free[sid[crowd][by_cost]]
    return np.sort(crowd[by_cost[beyond]])


def _cost_added(table: Table, before: np.ndarray, n_old: int) -> float:
    """What the items that moved pay more now, on average; 0 when none did."""
    moved = n_old + np.flatnonzero((table.codes != before)[n_old:].any(axis=1))
    rows = table.rows[moved]
    now = table.costs.prefix_costs(rows, table.codes[moved]).astype(np.float64)
    return float((now - table.costs.prefix_costs(rows, before[moved])).sum() / max(1, len(moved)))


def _digits(base: Groups, published: SemanticIDs) -> np.ndarray:
    """The dedup digits of all items (n + m,): the published ones', then the lowest unused ones.

    Of the rising digits u_0, u_1, … that a base SID has used, u_i has u_i - i unused ones below it.
    So the r-th unused digit, from 0, is r and the number of used ones with u_i - i <= r.
    """
    n_old, n_digits = published.n_items, published.sizes[-1]
    sid = base.of_item(base.n_levels).astype(np.int64)
    used = published.codes[:, -1].astype(np.int64)
    rising = np.lexsort((used, sid[:n_old]))
    old_sid = sid[:n_old][rising]
    below = used[rising] - places(old_sid)  # unused digits below each
    new = n_old + np.argsort(sid[n_old:], kind="stable")  # by base SID, then raw token
    rank = places(sid[new])
    keys = old_sid * (n_digits + 1) + below  # rising
    start = np.searchsorted(old_sid, sid[new])
    passed = np.searchsorted(keys, sid[new] * (n_digits + 1) + rank, side="right") - start
    digits = np.empty(len(sid), dtype=np.int32)
    digits[:n_old] = used
    digits[new] = rank + passed
    return digits


def _met(groups: Groups, n_old: int) -> dict[str, int]:
    """How many new items have the tokenizer's SID of a published one, and of another new one."""
    sid = groups.of_item(groups.n_levels)
    n_sids = len(groups.sizes(groups.n_levels))
    old, new = (np.bincount(part, minlength=n_sids) for part in (sid[:n_old], sid[n_old:]))
    return {
        "met_old": int(np.count_nonzero(old[sid[n_old:]])),
        "met_new": int(np.count_nonzero(new[sid[n_old:]] > 1)),
    }
