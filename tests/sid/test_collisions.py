"""The dedup digit and the counts of shared prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.sid.collisions import apply_collision, needs_space, prefix_collisions
from recbole_sid.sid.table import COLLISION_RULES, SemanticIDs

from .tables import base_tables, by_token, shuffled, table


def test_the_digit_counts_in_the_order_of_raw_tokens() -> None:
    # As text "10" stands before "9", whatever the order of the rows.
    base = table({"9": [1, 1], "b": [0, 1], "10": [1, 1], "a": [1, 1]}, (2, 2))
    sids = apply_collision(base, "dedup")
    assert by_token(sids) == {"9": [1, 1, 1], "b": [0, 1, 0], "10": [1, 1, 0], "a": [1, 1, 2]}
    assert sids.sizes == (2, 2, 3)
    assert sids.collision == "dedup"
    assert sids.tokens == base.tokens
    assert np.array_equal(sids.base_codes, base.codes)


def test_without_a_collision_the_digit_is_zero() -> None:
    sids = apply_collision(table({"a": [0], "b": [1]}, (2,)), "dedup")
    assert (sids.codes.tolist(), sids.sizes) == ([[0, 0], [1, 0]], (2, 1))


def test_rules_on_tables_that_were_treated_before() -> None:
    base = table({"a": [0], "b": [0]}, (2,))
    assert apply_collision(base, "none") is base
    treated = apply_collision(base, "dedup")
    assert apply_collision(treated, "dedup") is treated
    for rule in ("none", "reassign_last", "nearest_free", "random_free"):
        with pytest.raises(InputError, match=f"'{rule}', but .* 'dedup'; set collision: dedup"):
            apply_collision(treated, rule)
    moved = apply_collision(base, "reassign_last")
    assert apply_collision(moved, "reassign_last") is moved
    with pytest.raises(InputError, match="already those of the rule 'reassign_last'"):
        apply_collision(moved, "dedup")
    with pytest.raises(InputError, match="'collision_capacity' is 0, but must be at least 1"):
        apply_collision(base, "nearest_free", None, 0)
    with pytest.raises(InputError, match=r"'collision' is 'dedpu', .* Did you mean 'dedup'"):
        apply_collision(base, "dedpu")


def test_only_rules_that_move_items_ask_for_a_space() -> None:
    asking = [rule for rule in COLLISION_RULES if needs_space(rule)]
    assert asking == ["reassign_last", "nearest_free", "random_free"]


@given(base_tables(), st.integers(0, 9))
def test_the_digit_makes_unique_and_ignores_row_order(base: SemanticIDs, seed: int) -> None:
    sids = apply_collision(base, "dedup")
    assert len(set(map(tuple, sids.codes.tolist()))) == base.n_items
    groups: dict[tuple[int, ...], list[str]] = {}
    for token, code in sorted(by_token(base).items()):
        groups.setdefault(tuple(code), []).append(token)
    expected = {
        token: [*code, digit]
        for code, members in groups.items()
        for digit, token in enumerate(members)
    }
    assert by_token(sids) == expected
    assert sids.sizes == (*base.sizes, max(map(len, groups.values())))
    assert by_token(apply_collision(shuffled(base, seed), "dedup")) == expected


def test_prefix_collisions_by_hand() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [2, 0], [2, 1]])
    # Length 1: {0: 3, 1: 1, 2: 2}, five of six items share; length 2: only (0, 0) is shared.
    assert prefix_collisions(codes) == [(1, 3, 5 / 6, 3), (2, 5, 2 / 6, 2)]


def test_what_a_rule_is_given_when_nothing_is_said() -> None:
    base = table({str(at): [0, 0] for at in range(6)}, (2, 4))
    plain = apply_collision(base, "random_free")
    assert plain.fingerprint() == apply_collision(base, "random_free", None, 1, 0, 0).fingerprint()
    drawn = {apply_collision(base, "random_free", seed=seed).fingerprint() for seed in range(9)}
    assert len(drawn) > 1
    # Only two rules know a capacity.
    assert len(np.unique(apply_collision(base, "reassign_last", None, 3).codes, axis=0)) == 6
