"""Every statistic of a table of five items, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.quality import entropy, gini, quality
from recbole_sid.sid.table import SemanticIDs

from .tables import base_tables, shuffled, table

# SIDs in use: (0, 0) by two items, (0, 1), (1, 0) and (1, 2) by one each.
SIDS = table({"a": [0, 0], "b": [0, 0], "c": [0, 1], "d": [1, 0], "e": [1, 2]}, (4, 3))


def test_all_statistics_by_hand() -> None:
    expected = {
        "collision_rate": 2 / 5,
        "distinct_ratio": 4 / 5,
        "largest_group": 2,
        "entropy": -(0.4 * math.log(0.4) + 3 * 0.2 * math.log(0.2)),
        # 5/4 - 2 (4·1 + 3·1 + 2·1 + 1·2) / (4 · 5) = 0.15
        "gini": 0.15,
        "coverage_1": 2 / 4,
        "perplexity_1": math.exp(-(0.6 * math.log(0.6) + 0.4 * math.log(0.4))),
        "prefix_distinct_1": 2,
        "prefix_collision_rate_1": 1.0,
        "coverage_2": 3 / 3,
        "perplexity_2": math.exp(-(0.6 * math.log(0.6) + 2 * 0.2 * math.log(0.2))),
        "prefix_distinct_2": 4,
        "prefix_collision_rate_2": 2 / 5,
    }
    values = quality(SIDS)
    assert list(values) == list(expected)
    assert values == pytest.approx(expected, abs=1e-12)
    assert {type(value) for value in values.values()} == {int, float}


def test_all_different_is_the_ceiling() -> None:
    values = quality(table({str(i): [i // 2, i % 2] for i in range(4)}, (2, 2)))
    assert values["entropy"] == pytest.approx(math.log(4))
    assert (values["gini"], values["collision_rate"], values["distinct_ratio"]) == (0, 0, 1)
    assert values["perplexity_1"] == pytest.approx(2)


def test_all_equal_is_the_floor() -> None:
    values = quality(table({str(i): [0] for i in range(4)}, (2,)))
    assert (values["entropy"], values["gini"], values["collision_rate"]) == (0, 0, 1)
    assert math.copysign(1, values["entropy"]) == 1


def test_gini_and_entropy() -> None:
    # Sorted 1, 3: 3/2 - 2 (2·1 + 1·3) / (2 · 4) = 0.25
    assert gini(np.array([3, 1])) == 0.25
    assert gini(np.array([7, 7, 7])) == 0
    assert entropy(np.array([1, 1])) == pytest.approx(math.log(2))


@given(base_tables(), st.integers(0, 9))
def test_neither_the_rule_nor_the_row_order_matters(base: SemanticIDs, seed: int) -> None:
    values = quality(base)
    assert quality(apply_collision(base, "dedup")) == values
    assert quality(shuffled(base, seed)) == pytest.approx(values)
    last = base.n_levels
    assert values["collision_rate"] == values[f"prefix_collision_rate_{last}"]
    assert values["distinct_ratio"] * base.n_items == pytest.approx(
        values[f"prefix_distinct_{last}"]
    )
