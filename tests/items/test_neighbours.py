"""Neighbours as flat arrays, and neighbours by cosine against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.items import neighbours as module
from recbole_sid.items.neighbours import ItemPairs, text_neighbours


def make(*rows: dict[int, float]) -> ItemPairs:
    """Pairs with these neighbours and scores, row after row."""
    return ItemPairs(
        np.cumsum([0, *map(len, rows)]),
        np.array([item for row in rows for item in row], np.int32),
        np.array([score for row in rows for score in row.values()], np.float32),
    )


PAIRS = make({2: 3.0, 1: 1.0}, {}, {3: 2.0, 0: 1.0, 1: 1.0}, {})


def same(left: ItemPairs, right: ItemPairs) -> bool:
    return left.fingerprint() == right.fingerprint()


def test_length_counts_and_nearest():
    assert len(PAIRS) == 4
    np.testing.assert_array_equal(PAIRS.counts, [2, 0, 3, 0])
    np.testing.assert_array_equal(PAIRS.nearest(), [2, -1, 3, -1])


@pytest.mark.parametrize(
    ("by_score", "row", "uniform", "expected"),
    [
        (False, 0, 0.0, 2),
        (False, 0, 0.49, 2),
        (False, 0, 0.5, 1),
        (False, 2, 0.99, 1),
        (True, 0, 0.0, 2),
        (True, 0, 0.74, 2),  # 3 of 4
        (True, 0, 0.75, 1),
        (True, 0, 0.76, 1),
        (True, 2, 0.49, 3),  # 2 of 4, then 1 of 4 twice
        (True, 2, 0.51, 0),
        (True, 2, 0.76, 1),
        (True, 2, np.nextafter(1, 0), 1),
        (True, 1, 0.5, -1),
        (False, 3, 0.5, -1),
        (True, 3, 0.5, -1),
    ],
)
def test_a_random_neighbour(by_score: bool, row: int, uniform: float, expected: int):
    rows = np.array([1, row])
    found = PAIRS.chosen(rows, np.array([0.3, uniform]), by_score=by_score)
    np.testing.assert_array_equal(found, [-1, expected])


def test_taken_renumbers_and_lists_ties_by_the_new_rows():
    # New rows 0, 1, 2, 3 are the old 1, 3, 2, 0.
    expected = make({}, {}, {1: 2.0, 0: 1.0, 3: 1.0}, {2: 3.0, 0: 1.0})
    assert same(PAIRS.taken(np.array([1, 3, 2, 0])), expected)


def test_taken_drops_what_is_left_out():
    assert same(PAIRS.taken(np.array([2, 0])), make({1: 1.0}, {0: 3.0}))
    assert len(PAIRS.taken(np.array([], int))) == 0


@given(st.integers(0, 2**32 - 1))
def test_taken_back_and_forth(seed: int):
    rng = np.random.default_rng(seed)
    order = rng.permutation(30)
    pairs = text_neighbours(rng.normal(size=(30, 3)), 4, 0.0, progress=False)
    there = pairs.taken(order)
    assert same(there.taken(np.argsort(order)), pairs)
    for new_row, old_row in enumerate(order):
        new, old = (
            slice(p.offsets[row], p.offsets[row + 1])
            for p, row in ((there, new_row), (pairs, old_row))
        )
        np.testing.assert_array_equal(order[there.items[new]], pairs.items[old])
        np.testing.assert_array_equal(there.scores[new], pairs.scores[old])


@pytest.mark.parametrize(
    ("order", "message"),
    [([0, 4], "rows 0 … 4 .* 0 … 3"), ([-1, 0], "rows -1 … 0"), ([1, 1], "twice")],
)
def test_taken_refuses_other_orders(order: list[int], message: str):
    with pytest.raises(InputError, match=message):
        PAIRS.taken(np.array(order))


def test_the_fingerprint_sees_every_array():
    for other in (
        make({2: 3.0}, {1: 1.0}, {3: 2.0, 0: 1.0, 1: 1.0}, {}),
        make({2: 3.0, 3: 1.0}, {}, {3: 2.0, 0: 1.0, 1: 1.0}, {}),
        make({2: 3.0, 1: 1.5}, {}, {3: 2.0, 0: 1.0, 1: 1.0}, {}),
    ):
        assert not same(other, PAIRS)
    assert same(make({2: 3.0, 1: 1.0}, {}, {3: 2.0, 0: 1.0, 1: 1.0}, {}), PAIRS)


def brute_force(vectors: np.ndarray, k: int, min_cosine: float) -> list[list[int]]:
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (directions @ directions.T).astype(np.float32)
    return [
        [
            int(j)
            for j in np.argsort(-row, kind="stable")
            if j != i and row[j] >= min_cosine and row[j] > 0
        ][:k]
        for i, row in enumerate(cosines)
    ]


def lists(pairs: ItemPairs) -> list[list[int]]:
    return [part.tolist() for part in np.split(pairs.items, pairs.offsets[1:-1])]


@pytest.mark.parametrize(("k", "min_cosine"), [(3, 0.0), (50, 0.0), (5, 0.6), (1, 1.0)])
@pytest.mark.parametrize("at_once", [1, 130, 1 << 22])
def test_text_neighbours_equal_brute_force(
    k: int, min_cosine: float, at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "COSINES_AT_ONCE", at_once)
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    pairs = text_neighbours(vectors, k, min_cosine, progress=False)
    assert lists(pairs) == brute_force(vectors.astype(np.float64), k, min_cosine)


def test_copies_are_equally_near_and_listed_by_row():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(3, 384)).astype(np.float32)
    vectors = texts[np.tile(np.arange(3), 20)] * rng.uniform(1, 2, (60, 1)).astype(np.float32)
    pairs = text_neighbours(vectors, 4, 0.5, progress=False)
    # Item i has the copies i mod 3, i mod 3 + 3, …
    assert lists(pairs)[:4] == [[3, 6, 9, 12], [4, 7, 10, 13], [5, 8, 11, 14], [0, 6, 9, 12]]
    assert lists(pairs)[58] == [1, 4, 7, 10]
    np.testing.assert_array_equal(pairs.scores, 1)


def test_cosines_by_hand():
    # Angles to the first: 0°, 45°, 90°, 180°; the last is no direction at all.
    vectors = np.array([[2, 0], [3, 3], [0, 1], [-1, 0], [0, 0]], np.float32)
    pairs = text_neighbours(vectors, 9, 0.0, progress=False)
    assert lists(pairs) == [[1], [0, 2], [1], [], []]
    np.testing.assert_allclose(pairs.scores, np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize(
    "vectors", [np.ones(3), np.ones((3, 0)), np.array([[1.0], [np.nan]]), np.array([[np.inf]])]
)
def test_bad_vectors(vectors: np.ndarray):
    with pytest.raises(InputError, match="must be finite and of shape"):
        text_neighbours(vectors, 2, 0.0, progress=False)
