"""The hit rate against hand-worked items, and against an oracle that draws the order of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.items.neighbours import ItemPairs
from recbole_sid.items.ragged import starts_of
from recbole_sid.measures import NothingToMeasure
from recbole_sid.measures import hit_rate as module
from recbole_sid.measures.hit_rate import bounds, by_codes, by_vectors, hit_rate


def neighbours(*lists: list[int]) -> ItemPairs:
    items = np.array([item for row in lists for item in row], np.int32)
    offsets = starts_of(np.array([len(row) for row in lists]))
    return ItemPairs(offsets, items, np.ones(len(items), np.float32))


def closeness(codes: list[list[int]]) -> np.ndarray:
    """All blocks under one another."""
    return np.concatenate([block.nearness for block in by_codes(np.array(codes))])


def test_a_longer_prefix_is_nearer_than_more_equal_codes():
    # From item 0: item 1 has a prefix of 1 and one equal code; item 2 no prefix, but two equal
    # codes; item 3 a prefix of 1 and two equal codes; item 4 is a copy; item 5 has nothing.
    codes = [[0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0], [9, 9, 9]]
    own, *others = closeness(codes)[0].tolist()
    assert own == -1
    # prefix times 4, plus equal codes
    assert others == [4 + 1, 2, 4 + 2, 12 + 3, 0]


def test_any_number_of_levels():
    # 200 levels: the whole prefix times 201 and 200 equal codes are more than 16 bits hold.
    assert closeness([[0] * 200] * 2)[0].tolist() == [-1, 200 * 201 + 200]


def test_cosines_of_copies_are_equal_and_of_zeros_are_zero():
    vectors = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [4.0, -3.0]])
    (block,) = by_vectors(vectors)
    expected = [[-2, 1, 0, 0], [1, -2, 0, 0], [0, 0, -2, 0], [0, 0, 0, -2]]
    assert block.first == 0
    np.testing.assert_allclose(block.nearness, expected, atol=1e-7)


def test_ties_at_the_bound_share_the_places_left():
    # Two places; 5 has one of them, and three items at 3 share the other.
    kth, chance = bounds(np.array([[5, 3, 3, 3, 1], [4, 4, 2, 1, 0]]), 2)
    assert kth.tolist() == [[3], [4]]
    assert chance.tolist() == [[1 / 3], [1.0]]


def test_figures_by_hand():
    # Items 0 and 1 are copies; 2 and 3 share their first code; 4 and 5 share nothing with anyone.
    codes = np.array([[0, 0], [0, 0], [1, 0], [1, 1], [2, 2], [3, 3]])
    # k = 1. Item 0 finds 1, not 2: 1/2. Item 2: 3 has its first code, so it is found: 1. Item 4:
    # all five others are at 0, and each is the one with the chance 1/5. Item 5 has no neighbour.
    pairs = neighbours([1, 2], [], [3], [], [5], [])
    values = hit_rate(by_codes(codes), pairs, 1)
    assert values == {
        "hit_rate": pytest.approx((1 / 2 + 1 + 1 / 5) / 3),
        "chance": 1 / 5,
        "ceiling": pytest.approx((1 / 2 + 1 + 1) / 3),
        "items": 3,
    }


def test_by_vectors_by_hand():
    angles = np.deg2rad([0, 10, 30, 90, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The nearest two of 0 are 1 and 2; of 3 they are 2 and 1; of 4 they are 3 and 2.
    pairs = neighbours([1, 3], [], [], [0, 1], [3])
    assert hit_rate(by_vectors(vectors), pairs, 2)["hit_rate"] == pytest.approx((0.5 + 0.5 + 1) / 3)


@st.composite
def small(draw):
    n = draw(st.integers(4, 7))
    code = st.integers(0, 1)
    codes = draw(st.lists(st.lists(code, min_size=3, max_size=3), min_size=n, max_size=n))
    rows = [draw(st.sets(st.sampled_from([j for j in range(n) if j != i]))) for i in range(n)]
    return codes, [sorted(row) for row in rows], draw(st.integers(1, n - 2))


def oracle(codes: list[list[int]], rows: list[list[int]], k: int) -> float:
    """The mean over all orders of the items, stable sorts by (prefix, Hamming distance)."""
    shares = []
    for own, row in enumerate(rows):
        if not row:
            continue

        def distance(other: int, own: int = own) -> tuple[int, int]:
            same = [a == b for a, b in zip(codes[own], codes[other], strict=True)]
            return -[*same, False].index(False), same.count(False)

        others = [other for other in range(len(codes)) if other != own]
        found = [
            len(set(sorted(order, key=distance)[:k]) & set(row)) / len(row)
            for order in permutations(others)
        ]
        shares.append(sum(found) / len(found))
    return sum(shares) / len(shares)


@settings(max_examples=25, deadline=None)
@given(small(), st.integers(1, 20))
def test_like_the_mean_over_all_orders(case, block):
    codes, rows, k = case
    pairs = neighbours(*rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)  # rows at once: 1 to 5
        if not any(rows):
            with pytest.raises(NothingToMeasure, match="has a neighbour"):
                hit_rate(by_codes(np.array(codes)), pairs, k)
            return
        values = hit_rate(by_codes(np.array(codes)), pairs, k)
    assert values["hit_rate"] == pytest.approx(oracle(codes, rows, k))


@pytest.mark.parametrize("k", [0, 2, 5])
def test_k_leaves_something_to_miss(k):
    codes = np.zeros((3, 1), int)
    with pytest.raises(InputError, match=r"'report_neighbours' is ., but must be from 1 to 1"):
        hit_rate(by_codes(codes), neighbours([1], [], []), k)


@pytest.mark.parametrize("vectors", [np.zeros(3), np.zeros((3, 0)), np.full((3, 2), np.nan)])
def test_vectors_that_are_none(vectors):
    with pytest.raises(InputError, match="must be finite and of shape"):
        next(by_vectors(vectors))
