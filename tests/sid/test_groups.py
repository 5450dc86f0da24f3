"""Groups of equal prefixes, counted by hand."""

from __future__ import annotations

import numpy as np

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
