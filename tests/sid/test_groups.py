"""Groups of equal prefixes, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.sid import groups as module
from recbole_sid.sid.groups import group

# Sorted: row 1 (0,1), row 4 (0,1), row 3 (0,2), row 0 (2,0), row 2 (2,0)
CODES = np.array([[2, 0], [0, 1], [2, 0], [0, 2], [0, 1]], dtype=np.int32)


def test_order_and_starts() -> None:
    groups = group(CODES)
    assert groups.order.tolist() == [1, 4, 3, 0, 2]
    assert [start.tolist() for start in groups.starts] == [[0, 5], [0, 3, 5], [0, 2, 3, 5]]
    assert groups.n_levels == 2


def test_equal_codes_follow_the_given_rows() -> None:
    assert group(CODES, np.array([4, 3, 2, 1, 0])).order.tolist() == [4, 1, 3, 2, 0]


def test_per_item_views() -> None:
    groups = group(CODES)
    assert groups.sizes(1).tolist() == [3, 2]
    assert groups.of_item(1).tolist() == [1, 0, 1, 0, 0]
    assert groups.of_item(2).tolist() == [2, 0, 2, 1, 0]
    assert groups.size_of_item(2).tolist() == [2, 2, 2, 1, 2]
    assert groups.running_numbers().tolist() == [0, 0, 1, 0, 1]


def test_collisions_of_a_prefix_length() -> None:
    groups = group(CODES)
    assert groups.collisions(1) == (1, 2, 1.0, 3)
    assert groups.collisions(2) == (2, 3, 0.8, 2)


def test_equal_code_under_another_prefix_is_another_group() -> None:
    codes = np.array([[0, 5], [1, 5]], dtype=np.int32)
    assert group(codes).starts[2].tolist() == [0, 1, 2]


@given(st.data())
def test_rows_sorted_as_numbers_are_as_those_sorted_by_columns(data) -> None:
    n, n_levels = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 300]), min_size=4, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = np.stack([rng.integers(0, size, n) for size in sizes[:n_levels]], axis=1)
    rows = rng.permutation(n)
    order, starts = module._sorted_by_columns(codes, rows)
    found = group(codes.astype(np.int32), rows)
    assert found.order.tolist() == order.tolist()
    assert [start.tolist() for start in found.starts[1:]] == [[*s, n] for s in starts]
    assert [start.dtype for start in (found.order, *found.starts)] == ["int32"] * (n_levels + 2)


@pytest.mark.parametrize("largest", [2**30 - 1, 2**31 - 1])
def test_codes_too_large_for_one_number(largest, monkeypatch) -> None:
    codes = np.array([[largest, 0], [0, largest], [largest, 0], [0, 1]], dtype=np.int32)
    used = []
    by_columns = module._sorted_by_columns
    monkeypatch.setattr(
        module, "_sorted_by_columns", lambda *given: used.append(1) or by_columns(*given)
    )
    found = group(codes)  # 2 bits for the row, 30 or 31 for each code: 62 or 64
    assert found.order.tolist() == [3, 1, 0, 2]
    assert found.starts[2].tolist() == [0, 1, 2, 4]
    assert len(used) == (largest == 2**31 - 1)
