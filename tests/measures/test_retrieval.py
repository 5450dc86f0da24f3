"""Retrieval against hand-worked users, a slow computation, chance, and perfect vectors."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.items.shared_users import Interactions
from recbole_sid.measures import NothingToMeasure
from recbole_sid.measures import retrieval as module
from recbole_sid.measures.retrieval import (
    HeldOutPairs,
    RetrievalSettings,
    Together,
    heldout_pairs,
    retrieval,
)

Rows = list[tuple[int, int]]


def asked(**changes) -> RetrievalSettings:
    values = {"negatives": 999, "top": [1, 5, 10, 20], "queries": 10_000, "queries_per_user": 100}
    return RetrievalSettings(**{f"retrieval_{key}": v for key, v in (values | changes).items()})


def interactions(rows: Rows) -> Interactions:
    users, items = np.array(rows, np.int64).reshape(-1, 2).T
    return Interactions(users, items)


def found_pairs(training: Rows, held_out: Rows, n_items: int, seed=0, **changes) -> Rows:
    given_ = interactions(training), interactions(held_out)
    pairs = heldout_pairs(*given_, n_items, asked(**changes), seed).pairs
    return [tuple(pair) for pair in pairs.tolist()]


def task(pairs: Rows, n_items: int, others: Rows = ()) -> HeldOutPairs:
    """Pairs that go together by a user each, as do the further pairs ``others``."""
    both = [*pairs, *others]
    rows = [(user, item) for user, pair in enumerate(both) for item in pair]
    return HeldOutPairs(np.array(pairs, np.int64), Together(interactions(rows), n_items))


def run(vectors, held_out: HeldOutPairs, seed=0, **changes) -> dict[str, float]:
    vectors = np.asarray(vectors, np.float32)
    return retrieval(vectors, held_out, asked(**changes), seed, progress=False)


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).round(12)  # 90° is exact


# --- pairs ------------------------------------------------------------------------------------


def test_pairs_by_hand():
    training = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    held_out = [(0, 2), (1, 1)]
    # User 0 brings 0 and 1 together with 2, user 1 brings 2 and 3 together with 1; but user 2 has 1
    # and 2 together in training.
    assert found_pairs(training, held_out, 4) == [(0, 2), (3, 1)]


def test_an_item_met_again_is_no_positive():
    # The held-out item 0 is in the basket already: (1, 0) is a training pair, (0, 0) no pair.
    assert found_pairs([(0, 0), (0, 1), (1, 0)], [(0, 0), (1, 2)], 3) == [(0, 2)]


def test_held_out_items_are_no_queries():
    # Items 1 and 2 are both held out: neither is the other's query; user 1 has no training item.
    assert found_pairs([(0, 0)], [(0, 1), (0, 2), (1, 0), (1, 2)], 3) == [(0, 1), (0, 2)]


def test_together_counts_training_and_held_out():
    held_out = heldout_pairs(
        interactions([(0, 0), (0, 1)]), interactions([(0, 2), (1, 3), (1, 4)]), 5, asked(), seed=0
    )
    places, items = held_out.together.of(np.array([4, 0, 0]))
    assert list(zip(places, items, strict=True)) == [(0, 3), (1, 1), (1, 2), (2, 1), (2, 2)]


def plain_pairs(training: Rows, held_out: Rows) -> set[tuple[int, int]]:
    baskets: dict[int, set[int]] = {}
    for user, item in training:
        baskets.setdefault(user, set()).add(item)
    return {
        (query, positive)
        for user, positive in held_out
        for query in baskets.get(user, ())
        if query != positive and not any({query, positive} <= basket for basket in baskets.values())
    }


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=25)


@settings(max_examples=60)
@given(ROWS, ROWS, st.integers(1, 3), st.randoms(use_true_random=False))
def test_pairs_against_a_plain_computation(training, held_out, limit, random):
    expected = plain_pairs(training, held_out)
    if not expected:
        with pytest.raises(NothingToMeasure, match="nothing to measure retrieval on"):
            found_pairs(training, held_out, 7)
        return
    assert found_pairs(training, held_out, 7) == sorted(expected)
    some = found_pairs(training, held_out, 7, queries=limit)
    assert len(some) == min(limit, len(expected))
    assert set(some) <= expected
    random.shuffle(training)
    random.shuffle(held_out)
    assert found_pairs(training, held_out, 7, queries=limit) == some


def test_small_blocks_find_the_same_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    training, held_out = (
        list(zip(rng.integers(0, 30, n).tolist(), rng.integers(0, 40, n).tolist(), strict=True))
        for n in (150, 40)
    )
    whole = found_pairs(training, held_out, 40)
    monkeypatch.setattr(module, "BLOCK", 20)
    assert found_pairs(training, held_out, 40) == whole
    assert whole == sorted(plain_pairs(training, held_out))


def test_at_most_so_many_pairs_of_a_user():
    # User 0 could bring 9 pairs, user 1 two. Over the seeds each of the nine is drawn.
    training = [*((0, item) for item in range(9)), (1, 10), (1, 11)]
    held_out = [(0, 9), (1, 12)]
    drawn = set()
    for seed in range(40):
        pairs = found_pairs(training, held_out, 13, seed=seed, queries_per_user=2)
        assert [pair for pair in pairs if pair[1] == 12] == [(10, 12), (11, 12)]
        of_user_0 = [pair for pair in pairs if pair[1] == 9]
        assert len(of_user_0) == 2
        drawn.update(of_user_0)
    assert drawn == {(item, 9) for item in range(9)}  # one is missed with chance 9 · (7/9)^40


def test_a_sample_comes_from_all_users():
    # Ten users with a pair each, of which three are asked for.
    training, held_out = [(user, user) for user in range(10)], [(user, 10) for user in range(10)]
    samples = [found_pairs(training, held_out, 11, seed, queries=3) for seed in range(40)]
    assert all(len(pairs) == 3 for pairs in samples)
    drawn = {query for pairs in samples for query, _ in pairs}
    assert drawn == set(range(10))  # one is missed with chance 10 · 0.7^40 = 6e-6


def test_malformed_interactions():
    with pytest.raises(InputError, match="items are 0 … 7, but must be 0 … 4"):
        found_pairs([(0, 0), (0, 1)], [(0, 7)], 5)
    # Told apart from the sum of both: what training lacks, held-out must not make up for.
    short = Interactions(np.array([0, 0]), np.array([1]))
    long = Interactions(np.array([0]), np.array([1, 2]))
    with pytest.raises(InputError, match="one length"):
        heldout_pairs(short, long, 5, asked(), seed=0)


# --- negatives --------------------------------------------------------------------------------


def test_negatives_are_distinct_and_allowed():
    rng = np.random.default_rng(1)
    pairs = [(int(q), int(p)) for q, p in (rng.choice(30, 2, replace=False) for _ in range(50))]
    others = [(int(a), int(b)) for a, b in (rng.choice(30, 2, replace=False) for _ in range(120))]
    held_out = task(pairs, 30, others)
    negatives = module._draw(held_out.pairs, held_out.together, 12, rng)
    forbidden = {frozenset(pair) for pair in [*pairs, *others]}
    for (query, positive), row in zip(pairs, negatives.tolist(), strict=True):
        assert len(set(row)) == 12
        assert not {query, positive} & set(row)
        assert all(0 <= item < 30 and frozenset((query, item)) not in forbidden for item in row)


def test_all_that_is_left_is_drawn():
    # Of 8 items, 0 goes together with 3 (its positive), 1 and 6: 2, 4, 5 and 7 are left.
    # 5 goes together with 2 alone, its positive: 0, 1, 3, 4, 6 and 7 are left.
    held_out = task([(0, 3), (5, 2)], 8, [(0, 1), (6, 0)])
    rng = np.random.default_rng(0)
    negatives = module._draw(held_out.pairs, held_out.together, 6, rng)
    assert [sorted(row) for row in negatives.tolist()] == [
        [-1, -1, 2, 4, 5, 7],
        [0, 1, 3, 4, 6, 7],
    ]
    assert (negatives[0, 4:] == -1).all()


def test_negatives_are_uniform():
    # 12 items, 4 ruled out: each of the other 8 is one of 3 negatives with chance 3/8.
    held_out = task([(4, 9)] * 4000, 12, [(4, 0), (4, 11)])
    rng = np.random.default_rng(5)
    counts = np.bincount(module._draw(held_out.pairs, held_out.together, 3, rng).ravel())
    assert counts[[0, 4, 9]].tolist() == [0, 0, 0]
    # 4000 · 3/8 = 1500, standard deviation (4000 · 3/8 · 5/8)^½ = 30.6.
    assert (np.abs(counts[[1, 2, 3, 5, 6, 7, 8, 10]] - 1500) < 130).all()


def test_the_task_does_not_depend_on_the_vectors(monkeypatch):
    drawn = []
    draw = module._draw

    def noted(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(module, "_draw", noted)
    monkeypatch.setattr(module, "BLOCK", 1000)  # so that blocks differ with the dimensions
    held_out = task([(item, item + 1) for item in range(0, 90, 2)], 100)
    rng = np.random.default_rng(0)
    tasks = []
    for dimensions in (2, 30):
        drawn.clear()
        run(rng.normal(size=(100, dimensions)), held_out, negatives=20)
        tasks.append(np.concatenate(drawn).tolist())
    assert tasks[0] == tasks[1]


# --- recall -----------------------------------------------------------------------------------


def test_ranks_by_hand():
    # Query 0 at 0°, its positive 1 at 30°: items 2 at 10° and 3 at -25° are nearer, 4 at 90° and 5
    # at 180° are not. Query 4 and its positive 5 are 90° apart: 1 and 2 are nearer (60°, 80°), and
    # 0 is exactly as near, which counts against 5; 3 (115°) is not.
    vectors = at_angles(0, 30, 10, -25, 90, 180) * [[7], [1], [1], [3], [1], [2]]
    values = run(vectors, task([(0, 1), (4, 5)], 6), negatives=4, top=[4, 1, 3, 2])
    # Two stand before the one positive, three before the other.
    assert [values[f"recall@{k}"] for k in (1, 2, 3, 4)] == [0, 0, 0.5, 1]
    assert (values["queries"], values["queries_left_out"]) == (2, 0)
    assert values["negatives"] == values["negatives_least"] == 4


def test_a_negative_that_is_not_there_stands_before_nothing():
    # Of 5 items, 2 and 3 are left to query 0, and neither is nearer than its positive 1. Item 4,
    # the last row, points exactly as the query does, but goes together with it.
    vectors = at_angles(0, 20, 50, 70, 0)
    values = run(vectors, task([(0, 1)], 5, [(0, 4)]), negatives=10, top=[1])
    assert (values["recall@1"], values["negatives"]) == (1, 2)


def test_random_vectors_hit_by_chance():
    rng = np.random.default_rng(0)
    n, m = 3000, 4000
    starts = rng.integers(0, n, m)
    pairs = np.stack([starts, (starts + rng.integers(1, n, m)) % n], axis=1)
    values = run(rng.normal(size=(n, 6)), task(pairs.tolist(), n))
    assert (values["queries"], values["negatives_least"]) == (m, 999)
    for k in (1, 5, 10, 20):
        chance = k / 1000
        error = np.sqrt(chance * (1 - chance) / m)
        assert abs(values[f"recall@{k}"] - chance) < 3 * error


def test_perfect_vectors_hit_always():
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(600, 16)), 2, axis=0) * rng.uniform(0.1, 9, (1200, 1))
    values = run(vectors, task([(row, row + 1) for row in range(0, 1200, 2)], 1200))
    assert [values[f"recall@{k}"] for k in (1, 5, 10, 20)] == [1, 1, 1, 1]


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_ties_count_against_the_vectors(value):
    vectors = np.full((1100, 7), value)
    values = run(vectors, task([(0, 1), (3, 2)], 1100))
    assert [values[f"recall@{k}"] for k in (1, 5, 10, 20)] == [0, 0, 0, 0]


def test_small_blocks_give_the_same_recall(monkeypatch):
    rng = np.random.default_rng(2)
    held_out = task([(item, item + 1) for item in range(0, 90, 2)], 100)
    vectors = rng.normal(size=(100, 5))
    whole = run(vectors, held_out, negatives=20)
    monkeypatch.setattr(module, "BLOCK", 1)
    assert run(vectors, held_out, negatives=20) == whole
    assert run(vectors, held_out, negatives=20, seed=1) != whole


def test_fewer_negatives_are_said(caplog):
    # Of 30 items 28 are left to each query, but 0 goes together with 15 further ones: 13 are left.
    # 7 goes together with 26 further ones, so that 2 are left: fewer than k = 5.
    others = [(0, item) for item in range(2, 17) if item != 7]
    others += [(7, item) for item in range(30) if item not in (1, 2, 5, 7, 8)]
    held_out = task([(0, 1), (20, 21), (7, 8)], 30, others)
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    with caplog.at_level(logging.WARNING, logger="recbole_sid"):
        values = run(vectors, held_out, top=[1, 5])
    assert values["queries"] == 2
    assert values["queries_left_out"] == 1
    # 20 goes together with 21 and 7: 27 are left; 0 with 1 … 16: 13 are left; the mean is 20.
    assert (values["negatives"], values["negatives_least"]) == (20, 13)
    assert "2 of 2 queries have fewer than 999 negatives (13 at least), and 1 more" in caplog.text


def test_no_query_with_enough_negatives():
    with pytest.raises(NothingToMeasure, match="none of the 1 queries has 20 negatives"):
        run(np.ones((5, 2)), task([(0, 1)], 5))


def test_enough_negatives_need_no_warning(caplog):
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    run(vectors, task([(0, 1)], 30), negatives=28, top=[1])
    assert caplog.text == ""


@pytest.mark.parametrize("vectors", [np.ones((4, 2)), np.ones(5), np.full((5, 2), np.nan)])
def test_vectors_that_do_not_fit(vectors):
    with pytest.raises(InputError, match=r"must be finite and of shape \(5, dimensions\)"):
        run(vectors, task([(0, 1)], 5))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"negatives": 19}, "retrieval_negatives"),
        ({"top": []}, "retrieval_top"),
        ({"top": [0, 1]}, "retrieval_top"),
        ({"queries": 0}, "retrieval_queries"),
        ({"queries_per_user": 0}, "retrieval_queries_per_user"),
    ],
)
def test_bounds_of_the_settings(changes, key):
    with pytest.raises(InputError, match=f"'{key}' is"):
        asked(**changes)
