"""Swing and co-occurrence against hand-worked numbers and against a slow, plain computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.items import shared_users
from recbole_sid.items import swing as module
from recbole_sid.items.neighbours import ItemPairs
from recbole_sid.items.shared_users import Interactions
from recbole_sid.items.swing import cooccurrence, swing

Baskets = list[set[int]]


def interactions(baskets: Baskets) -> Interactions:
    """One row for each user and item, users numbered as listed."""
    rows = [(user, item) for user, basket in enumerate(baskets) for item in sorted(basket)]
    users, items = np.array(rows, np.int64).reshape(-1, 2).T
    return Interactions(users, items)


def run_swing(given_: Interactions | Baskets, n_items: int, **changes) -> ItemPairs:
    limits = {"alpha": 1.0, "max_users": 100, "max_items": None, "neighbours": 100, "seed": 0}
    rows = given_ if isinstance(given_, Interactions) else interactions(given_)
    return swing(rows, n_items, **(limits | changes), progress=False)


def run_cooccurrence(given_: Interactions | Baskets, n_items: int, **changes) -> ItemPairs:
    limits = {"max_users": 100, "max_items": None, "neighbours": 100, "seed": 0}
    rows = given_ if isinstance(given_, Interactions) else interactions(given_)
    return cooccurrence(rows, n_items, **(limits | changes), progress=False)


def rows_of(pairs: ItemPairs) -> list[dict[int, float]]:
    """For each item, its neighbours in order and their scores."""
    bounds = itertools.pairwise(pairs.offsets.tolist())
    return [
        dict(zip(pairs.items[a:b].tolist(), pairs.scores[a:b].tolist(), strict=True))
        for a, b in bounds
    ]


def swing_of(i: int, j: int, users: list[set[int]], alpha: float) -> float:
    """s(i, j), word for word, over the given users of i."""
    both = [basket for basket in users if i in basket and j in basket]
    return sum(
        1 / math.sqrt(len(u)) / math.sqrt(len(v)) / (alpha + len(u & v))
        for u, v in itertools.combinations(both, 2)
    )


def random_interactions(n_users: int, n_items: int, n: int, seed: int = 0) -> Interactions:
    """Few popular items, many rare ones, with repeats."""
    rng = np.random.default_rng(seed)
    return Interactions(
        rng.integers(0, n_users, n), (n_items * rng.random(n) ** 2.5).astype(np.int64)
    )


# Users 0 … 3. |I_u| = 3, 2, 4, 2, so w = 1/√3, 1/√2, 1/2, 1/√2.
# Overlaps: {0,1}: 2, {0,2}: 3, {0,3}: 1, {1,2}: 2, {1,3}: 0, {2,3}: 2.
HAND = [{0, 1, 2}, {0, 1}, {0, 1, 2, 3}, {2, 3}]
U01 = 1 / math.sqrt(6) / (1 + 2)  # what users 0 and 1 add to each pair of items they share
U02 = 1 / (2 * math.sqrt(3)) / (1 + 3)
U12 = 1 / (2 * math.sqrt(2)) / (1 + 2)
U23 = 1 / (2 * math.sqrt(2)) / (1 + 2)


def test_swing_by_hand():
    # Items 0 and 1 are both had by users 0, 1 and 2; 0 and 2, as 1 and 2, by users 0 and 2;
    # 2 and 3 by users 2 and 3; 0 and 3, as 1 and 3, by user 2 alone, which makes no pair of users.
    found = rows_of(run_swing(HAND, 4))
    expected = [
        {1: U01 + U02 + U12, 2: U02},
        {0: U01 + U02 + U12, 2: U02},
        {3: U23, 0: U02, 1: U02},  # 0.118, then 0.072 twice: the lower row first
        {2: U23},
    ]
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-6)


def test_alpha_is_added_to_the_overlap():
    assert rows_of(run_swing(HAND, 4, alpha=0.25))[3][2] == pytest.approx(U23 * 3 / 2.25)


def test_cooccurrence_by_hand():
    assert rows_of(run_cooccurrence(HAND, 4)) == [
        {1: 3, 2: 2, 3: 1},
        {0: 3, 2: 2, 3: 1},
        {0: 2, 1: 2, 3: 2},
        {2: 2, 0: 1, 1: 1},
    ]


def test_only_the_best_neighbours_are_kept_and_ties_go_to_the_lower_row():
    assert [list(row) for row in rows_of(run_swing(HAND, 4, neighbours=2))] == [
        [1, 2],
        [0, 2],
        [3, 0],
        [2],
    ]
    assert list(rows_of(run_cooccurrence(HAND, 4, neighbours=1))[2]) == [0]


BASKETS = st.lists(st.sets(st.integers(0, 6), max_size=7), max_size=9)


def check_definition(baskets: Baskets, alpha: float, max_items: int | None) -> None:
    found = rows_of(run_swing(baskets, 7, alpha=alpha, max_items=max_items))
    kept = [basket for basket in baskets if max_items is None or len(basket) <= max_items]
    for i, row in enumerate(found):
        scores = {j: swing_of(i, j, kept, alpha) for j in range(7) if j != i}
        assert row == pytest.approx({j: s for j, s in scores.items() if s > 0}, rel=1e-6)
        assert list(row) == sorted(row, key=lambda j: (-row[j], j))


LIMITS = st.sampled_from([None, 2, 4])


@given(BASKETS, st.sampled_from([0.1, 1.0, 5.0]), LIMITS)
def test_lists_of_pairs_equal_the_definition(baskets: Baskets, alpha: float, max_items: int | None):
    check_definition(baskets, alpha, max_items)


@given(BASKETS, LIMITS, st.sampled_from([0.0, 0.5, 0.7]), st.sampled_from([1, 2, 99]))
def test_columns_equal_the_definition(
    baskets: Baskets, max_items: int | None, share: float, columns: int
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COLUMN_SHARE", share)
        patch.setattr(module, "COLUMN_PAIRS", 1)
        patch.setattr(module, "COLUMNS", columns)
        check_definition(baskets, 1.0, max_items)


def test_columns_and_lists_agree(monkeypatch: pytest.MonkeyPatch):
    rows = random_interactions(900, 40, 9000)
    mixed = run_swing(rows, 40, max_users=400)
    monkeypatch.setattr(module, "_columns", lambda *_: pytest.fail("columns are in use"))
    with pytest.raises(pytest.fail.Exception):
        run_swing(rows, 40, max_users=400)
    monkeypatch.setattr(module, "COLUMN_PAIRS", math.inf)
    monkeypatch.setattr(module, "_columns", lambda *_: [])
    lists = run_swing(rows, 40, max_users=400)
    np.testing.assert_array_equal(mixed.items, lists.items)
    np.testing.assert_allclose(mixed.scores, lists.scores, rtol=1e-6)


def test_without_samples_scores_are_symmetric():
    found = rows_of(run_swing(random_interactions(80, 30, 700), 30))
    assert sum(map(len, found)) > 300
    for i, row in enumerate(found):
        for j, score in row.items():
            assert found[j][i] == pytest.approx(score, rel=1e-6)


@given(BASKETS)
def test_cooccurrence_equals_a_matrix_product(baskets: Baskets):
    has = np.array([[j in basket for j in range(7)] for basket in baskets], int).reshape(-1, 7)
    counts = has.T @ has
    for i, row in enumerate(rows_of(run_cooccurrence(baskets, 7))):
        assert row == {j: counts[i, j] for j in range(7) if j != i and counts[i, j]}
        assert list(row) == sorted(row, key=lambda j: (-row[j], j))


@pytest.mark.parametrize("run", [run_swing, run_cooccurrence])
def test_row_order_repeats_and_gaps_in_user_numbers_do_not_matter(run):
    users, items = random_interactions(80, 60, 700)
    again = np.random.default_rng(1).permutation(np.tile(np.arange(len(users)), 2))
    other = Interactions((users[again] * 10**9).astype(np.uint64), items[again].astype(np.int32))
    first = run(Interactions(users, items), 60, max_users=9)
    assert len(first.items) > 500
    assert run(other, 60, max_users=9).fingerprint() == first.fingerprint()


@pytest.mark.parametrize("run", [run_swing, run_cooccurrence])
@pytest.mark.parametrize("column_pairs", [1, 300, 1 << 60])
def test_blocks_do_not_matter(run, column_pairs: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "COLUMN_PAIRS", column_pairs)
    rows = random_interactions(300, 100, 3000)
    whole = run(rows, 100, max_users=60, neighbours=15)
    assert (whole.counts == 15).sum() > 50
    for size in (1, 50, 2000):
        monkeypatch.setattr(shared_users, "BLOCK", size)
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", size)
        assert run(rows, 100, max_users=60, neighbours=15).fingerprint() == whole.fingerprint()


def test_an_item_with_many_users_looks_at_a_sample_of_them():
    # Item 0 has five users; each other item has at most two, and stays exact.
    baskets = [{0, 1, 2}, {0, 1, 2}, {0, 3, 4}, {0, 3, 4, 5}, {0, 5}]
    samples = set()
    for seed in range(60):
        found = rows_of(run_swing(baskets, 6, max_users=3, seed=seed))
        for i in range(1, 6):
            scores = {j: swing_of(i, j, baskets, 1.0) for j in range(6) if j != i}
            assert found[i] == pytest.approx({j: s for j, s in scores.items() if s > 0})
        matching = [
            drawn
            for drawn in itertools.combinations(range(5), 3)
            if {
                j: score
                for j in range(1, 6)
                if (score := swing_of(0, j, [baskets[u] for u in drawn], 1.0))
            }
            == pytest.approx(found[0])
        ]
        assert matching
        samples.add(tuple(sorted(found[0])))
    # The items that two of the three users drawn share with item 0: all that can be.
    assert samples == {(), (1, 2), (3, 4), (5,), (3, 4, 5)}


def test_samples_follow_the_seed_and_are_even():
    baskets = [{0, user + 1} for user in range(8)]
    drawn = np.zeros(8)
    for seed in range(400):
        row = rows_of(run_cooccurrence(baskets, 9, max_users=2, seed=seed))[0]
        assert row == rows_of(run_cooccurrence(baskets, 9, max_users=2, seed=seed))[0]
        assert len(row) == 2
        drawn[np.array(list(row)) - 1] += 1
    # 400 draws of 2 in 8: 100 each, standard deviation √(400 · ¼ · ¾) = 8.7.
    assert np.abs(drawn - 100).max() < 35


def test_users_with_one_item_take_no_place_in_a_sample():
    baskets = [{0} for _ in range(50)] + [{0, 1}, {0, 1}]
    assert rows_of(run_swing(baskets, 2, max_users=2))[0] == pytest.approx({1: 0.5 / 3})


def test_users_with_long_baskets_are_left_out():
    baskets = [{0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}]
    assert list(rows_of(run_swing(baskets, 3, max_items=3))[2]) == [0, 1]
    assert rows_of(run_swing(baskets, 3, max_items=2))[0] == pytest.approx({1: 0.5 / 3})


@pytest.mark.parametrize("baskets", [[], [{0}], [{0, 1, 2}], [{0, 1}, {1, 2}]])
def test_no_two_users_share_two_items(baskets: Baskets):
    pairs = run_swing(baskets, 3)
    assert len(pairs) == 3
    assert len(pairs.items) == len(pairs.scores) == 0
    np.testing.assert_array_equal(pairs.nearest(), [-1, -1, -1])


def test_one_user_is_enough_to_co_occur():
    assert rows_of(run_cooccurrence([{0, 2}], 4)) == [{2: 1}, {}, {0: 1}, {}]


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 1], [0, 3], r"items are 0 … 3, but must be 0 … 2"),
        ([0, 1], [-1, 2], r"items are -1 … 2, but must be 0 … 2"),
        ([-5, 1], [0, 2], r"users are -5 … 1, but must be 0 … "),
        ([0, 2**62], [0, 2], r"users are 0 … \d+, but must be 0 … "),
        ([0, 1, 2], [0, 1], r"two columns of one length"),
        ([0.5, 1.0], [0, 1], r"users are of type float64, but must be whole numbers"),
    ],
)
@pytest.mark.parametrize("run", [run_swing, run_cooccurrence])
def test_bad_interactions(run, users, items, message: str):
    with pytest.raises(InputError, match=message):
        run(Interactions(np.array(users), np.array(items)), 3)


def test_no_items():
    with pytest.raises(InputError, match="0 items"):
        run_swing([], 0)
