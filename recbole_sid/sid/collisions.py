"""What happens to items that share a SID, and how many there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.sid.groups import PrefixCollisions, group
from recbole_sid.sid.reassign import reassign
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import CAPACITY_RULES, COLLISION_RULES, SemanticIDs


def needs_space(rule: str) -> bool:
    """Whether the rule moves items, and so asks what codes cost them."""
    return rule in ("reassign_last", *CAPACITY_RULES)


def apply_collision(
    sids: SemanticIDs,
    rule: str,
    space: CodeSpace | None = None,
    capacity: int = 1,
    headroom: int = 0,
    seed: int = 0,
) -> SemanticIDs:
    """Apply the collision rule to a table of base codes.

    "dedup" appends a level: the running number, from 0, of an item among the items with its SID,
    in the order of raw tokens, so that the digit does not depend on the order of rows. Every item
    has the digit, those alone with their SID too. The level is as large as the largest group and
    ``headroom`` together.
    "none" leaves the table as it is: items may share a SID. "reassign_last", "nearest_free" and
    "random_free" move items to other codes, see ``reassign``.

    A table to which the rule has been applied already is returned unchanged.

    Args:
        sids: the table, as the tokenizer made it.
        rule: one of the five.
        space: what other codes cost, rows as in ``sids``; only rules that move items read it.
        capacity: items that a SID may hold under "nearest_free" and "random_free".
        headroom: unused dedup digits, for items that are appended later (see ``append``).
        seed: at least 0, of the codes that "random_free" draws.

    Raises:
        InputError: an unknown rule, another one than has been applied already, a capacity below 1,
            a headroom below 0, or items that cannot be moved (see ``reassign``).
    """
    if rule not in COLLISION_RULES:
        raise InputError(
            f"setting 'collision' is {rule!r}, but must be one of {preview(COLLISION_RULES)}."
            + did_you_mean(str(rule), COLLISION_RULES)
        )
    if capacity < 1:
        raise InputError(f"setting 'collision_capacity' is {capacity}, but must be at least 1")
    if headroom < 0:
        raise InputError(f"setting 'collision_headroom' is {headroom}, but must be at least 0")
    if sids.collision == rule:
        return sids
    if sids.collision != "none":
        raise InputError(
            f"setting 'collision' is {rule!r}, but the SIDs are already those of the rule "
            f"{sids.collision!r}; set collision: {sids.collision}, or give the table from before it"
        )
    if needs_space(rule):
        return reassign(sids, rule, space, capacity if rule in CAPACITY_RULES else 1, seed)
    digits = sids.groups.running_numbers()  # (n,)
    return replace(
        sids,
        codes=np.column_stack([sids.codes, digits]),  # (n, L + 1)
        sizes=(*sids.sizes, int(digits.max()) + 1 + headroom),
        collision="dedup",
    )


def prefix_collisions(codes: np.ndarray) -> list[PrefixCollisions]:
    """How much the prefixes of 1, 2, … L levels are shared, for codes (n, L) of integers."""
    groups = group(codes)
    return [groups.collisions(length) for length in range(1, groups.n_levels + 1)]
