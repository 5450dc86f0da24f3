"""What happens to items that share a SID, and how many there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.sid.groups import PrefixCollisions, group
from recbole_sid.sid.table import COLLISION_RULES, SemanticIDs


def apply_collision(sids: SemanticIDs, rule: str) -> SemanticIDs:
    """Apply the collision rule to a table of base codes.

    "dedup" appends a level: the running number, from 0, of an item among the items with its SID,
    in the order of raw tokens, so that the digit does not depend on the order of rows. Every item
    has the digit, those alone with their SID too. The level is as large as the largest group.
    "none" leaves the table as it is: items may share a SID.

    A table that carries the digit already is returned unchanged by "dedup".

    Raises:
        InputError: an unknown rule, or "none" for a table that carries the digit.
    """
    if rule not in COLLISION_RULES:
        raise InputError(
            f"setting 'collision' is {rule!r}, but must be one of {preview(COLLISION_RULES)}."
            + did_you_mean(str(rule), COLLISION_RULES)
        )
    if sids.collision == rule:
        return sids
    if rule == "none":
        raise InputError(
            "setting 'collision' is 'none', but the SIDs already carry a dedup digit; set "
            "collision: dedup, or give the table from before the digit"
        )
    digits = sids.groups.running_numbers()  # (n,)
    return replace(
        sids,
        codes=np.column_stack([sids.codes, digits]),  # (n, L + 1)
        sizes=(*sids.sizes, int(digits.max()) + 1),
        collision="dedup",
    )


def prefix_collisions(codes: np.ndarray) -> list[PrefixCollisions]:
    """How much the prefixes of 1, 2, … L levels are shared, for codes (n, L) of integers."""
    groups = group(codes)
    return [groups.collisions(length) for length in range(1, groups.n_levels + 1)]
