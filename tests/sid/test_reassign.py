"""Where the rules move items to: by hand on a line, and against brute force."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.sid import reassign as module
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.reassign import nearest_with_room
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs

from .tables import by_token, table


def line(places: list[float], *books: list[float]) -> CodeSpace:
    """Items and codes on a line, in a residual space."""

    def column(numbers: list[float]) -> np.ndarray:
        return np.array(numbers, dtype=np.float32)[:, None]

    return CodeSpace(column(places), tuple(map(column, books)), True)


def report(sids: SemanticIDs) -> dict[str, Any]:
    return dict(sids.provenance["collision"])


def test_reassign_last_by_hand() -> None:
    # Codes at 0, 1 and 3 under both prefixes; under prefix 1, at 10, nobody shares a SID.
    base = table({"a": [0, 0], "b": [0, 0], "c": [0, 1], "d": [1, 0], "e": [1, 2]}, (2, 3))
    space = line([0, 0.25, 0.5, 10.5, 12], [0, 10], [0, 1, 3])
    sids = apply_collision(base, "reassign_last", space)
    # Sharing out 0, 1, 3 among 0, 0.25, 0.5 costs least in order: 0 + 0.5625 + 6.25. The greedy
    # way, b to the only free code, would cost 0 + 7.5625 + 0.25.
    assert by_token(sids) == {"a": [0, 0], "b": [0, 1], "c": [0, 2], "d": [1, 0], "e": [1, 2]}
    assert (sids.collision, sids.sizes, sids.n_base_levels) == ("reassign_last", (2, 3), 2)
    added = (0.5625 - 0.0625 + 6.25 - 0.25) / 2
    assert report(sids) == {
        "rule": "reassign_last",
        "capacity": 1,
        "collision_rate_before": 2 / 5,
        "moved": 2,
        "moved_up": 0,
        "mean_cost_added": added,
    }


def test_nearest_free_by_hand() -> None:
    base = table({"a": [0, 0], "b": [0, 0], "c": [0, 1], "d": [1, 0], "e": [1, 2]}, (2, 3))
    space = line([0, 0.25, 0.5, 10.5, 12], [0, 10], [0, 1, 3])
    sids = apply_collision(base, "nearest_free", space)
    assert by_token(sids) == {"a": [0, 0], "b": [0, 2], "c": [0, 1], "d": [1, 0], "e": [1, 2]}
    assert report(sids) == {
        "rule": "nearest_free",
        "capacity": 1,
        "collision_rate_before": 2 / 5,
        "moved": 1,
        "moved_up": 0,
        "mean_cost_added": 2.75**2 - 0.25**2,
    }


def test_the_nearest_keep_the_sid_and_ties_go_by_token() -> None:
    # a is far from code 0 at 0; b and c are equally near.
    base = table({"c": [0], "b": [0], "a": [0]}, (3,))
    space = line([0.5, -0.5, -1], [0, 1, -2])
    assert by_token(apply_collision(base, "nearest_free", space)) == {
        "a": [2],
        "b": [0],
        "c": [1],
    }


def test_random_free_by_hand() -> None:
    # Of three on code 0 the nearest, a, stays; of the last codes under prefix 0 only 2 and 3 are
    # free: b and c take these, which takes which is drawn. Prefix 1 has a collision of its own.
    codes = {"a": [0, 0], "b": [0, 0], "c": [0, 0], "d": [0, 1], "e": [1, 3], "f": [1, 3]}
    base = table(codes, (2, 4))
    space = line([0, 0.25, 0.5, 1, 13.5, 13], [0, 10], [0, 1, 2, 3])
    seen = set()
    for seed in range(40):
        sids = apply_collision(base, "random_free", space, seed=seed)
        found = by_token(sids)
        assert (found["a"], found["d"], found["f"]) == ([0, 0], [0, 1], [1, 3])
        assert {tuple(found["b"]), tuple(found["c"])} == {(0, 2), (0, 3)}
        assert found["e"][0] == 1
        seen.add((found["b"][1], found["e"][1]))
        # What b, c and e pay now, less what they paid: the distances by hand.
        now = [(0.25 - found["b"][1]) ** 2, (0.5 - found["c"][1]) ** 2, (3.5 - found["e"][1]) ** 2]
        assert report(sids) == {
            "rule": "random_free",
            "capacity": 1,
            "collision_rate_before": 5 / 6,
            "moved": 3,
            "moved_up": 0,
            "mean_cost_added": pytest.approx((sum(now) - 0.0625 - 0.25 - 0.25) / 3),
        }
        again = apply_collision(base, "random_free", space, seed=seed)
        assert again.codes.tolist() == sids.codes.tolist()
    # Every way is drawn: b at 2 or 3, e at any of the three that are free.
    assert seen == set(itertools.product([2, 3], [0, 1, 2]))


def test_random_free_leaves_a_full_prefix_for_any_other_with_room() -> None:
    # Six items under prefix 0, which has room for four; 1 is full, 2 and 3 have room.
    full = {f"x{i}": [1, i // 2] for i in range(4)}
    base = table({token: [0, 0] for token in "abcdef"} | full, (4, 2))
    space = line([0, 0.1, 0.2, 0.3, 0.4, 0.5, 10, 10, 10, 10], [0, 10, 20, 30], [0, 1])
    seen = set()
    for seed in range(40):
        sids = apply_collision(base, "random_free", space, 2, seed=seed)
        found = by_token(sids)
        assert [found[token] for token in "abcd"] == [[0, 0], [0, 0], [0, 1], [0, 1]]
        assert {token: found[token] for token in full} == full
        assert (report(sids)["moved"], report(sids)["moved_up"]) == (4, 2)
        assert apply_collision(sids, "random_free", None, 2) is sids
        seen |= {tuple(found[token]) for token in "ef"}
    assert seen == {(2, 0), (2, 1), (3, 0), (3, 1)}


def test_capacity_two() -> None:
    base = table({"a": [0], "b": [0], "c": [0], "d": [0], "e": [0], "f": [1]}, (4,))
    space = line([0, 0.25, 0.5, 0.75, 1, 2], [0, 1.5, 4, 9])
    sids = apply_collision(base, "nearest_free", space, 2)
    # a and b keep code 0. One more goes into code 1 with f, the nearest, e; c and d into code 2.
    assert by_token(sids) == {"a": [0], "b": [0], "c": [2], "d": [2], "e": [1], "f": [1]}
    assert (report(sids)["capacity"], report(sids)["moved"]) == (2, 3)
    assert apply_collision(sids, "nearest_free", None, 2) is sids
    # Those of one SID are within the capacity now: nothing to do.
    assert by_token(apply_collision(base, "nearest_free", space, 5)) == by_token(base)


def test_overflow_moves_the_furthest_up_a_level() -> None:
    # Prefix 0 stands at 0 and has room for two; 1 at 10 is full; 2 at 21 has room.
    base = table(
        {"a": [0, 0], "b": [0, 0], "c": [0, 0], "d": [1, 0], "e": [1, 1]}, (3, 2)
    )  # fmt: skip
    space = line([0.5, 1, 2, 10, 11], [0, 10, 21], [0, 1])
    for rule in ("reassign_last", "nearest_free"):
        sids = apply_collision(base, rule, space)
        # c is furthest from 0; of 21 + 0 and 21 + 1 the first is nearer to it. b goes to 0 + 1.
        assert by_token(sids)["c"] == [2, 0]
        assert by_token(sids) | {"c": []} == {
            "a": [0, 0],
            "b": [0, 1],
            "c": [],
            "d": [1, 0],
            "e": [1, 1],
        }
        assert (report(sids)["moved"], report(sids)["moved_up"]) == (2, 1)
        assert report(sids)["mean_cost_added"] == ((0 - 1) + (19**2 - 4)) / 2


def test_overflow_of_a_whole_first_level() -> None:
    # Five items under code 0 of level 1, which has room for four: e, furthest from 0, goes to 100
    # and starts anew there: 90 is nearest to 100 + 0, then to code 0 of the last level.
    base = table({token: [0, 1, 1] for token in "abcde"}, (2, 2, 2))
    space = line([10, 20, 30, 40, 90], [0, 100], [0, 50], [0, 5])
    for rule in ("reassign_last", "nearest_free"):
        sids = apply_collision(base, rule, space)
        assert by_token(sids)["e"] == [1, 0, 0]
        under_0 = {token: codes for token, codes in by_token(sids).items() if token != "e"}
        assert sorted(under_0.values()) == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
        # Of four under 50 two stay, a and b are furthest from it.
        assert {tuple(under_0[token][:2]) for token in "ab"} == {(0, 0)}
        assert {tuple(under_0[token][:2]) for token in "cd"} == {(0, 1)}
        assert report(sids)["moved_up"] == 3


def test_without_a_space_the_lowest_codes_are_taken_in_the_order_of_tokens() -> None:
    base = table({"d": [0, 3], "b": [0, 1], "a": [0, 1], "c": [0, 1], "e": [1, 1]}, (2, 4))
    for rule in ("reassign_last", "nearest_free"):
        sids = apply_collision(base, rule)
        assert by_token(sids) == {
            "a": [0, 1],
            "b": [0, 0],
            "c": [0, 2],
            "d": [0, 3],
            "e": [1, 1],
        }
        assert (report(sids)["moved"], report(sids)["mean_cost_added"]) == (2, None)
    drawn = [by_token(apply_collision(base, "random_free", seed=seed)) for seed in range(20)]
    assert all((found["a"], found["d"], found["e"]) == ([0, 1], [0, 3], [1, 1]) for found in drawn)
    assert {(found["b"][1], found["c"][1]) for found in drawn} == {(0, 2), (2, 0)}


def test_a_full_table_has_no_room() -> None:
    base = table({"a": [0], "b": [0], "c": [1]}, (2,))
    for rule in ("reassign_last", "nearest_free", "random_free"):
        with pytest.raises(InputError, match=f"'{rule}', but the 3 items do not fit .* room for 2"):
            apply_collision(base, rule)
    assert apply_collision(base, "nearest_free", None, 2).codes.tolist() == base.codes.tolist()


def test_a_space_of_another_shape() -> None:
    base = table({"a": [0], "b": [0], "c": [1]}, (3,))
    for space in (line([0, 1], [0, 1, 2]), line([0, 1, 2], [0, 1])):
        with pytest.raises(InputError, match=r"3 and \(3,\); fit the tokenizer again"):
            apply_collision(base, "nearest_free", space)


@st.composite
def tables_in_space(draw: st.DrawFn, max_items: int = 30) -> tuple[SemanticIDs, CodeSpace, int]:
    """A crowded table, its space (whole numbers: exact costs, many ties) and a capacity."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    capacity = draw(st.integers(1, 2))
    most = min(max_items, capacity * int(np.prod(sizes)))
    names = draw(
        st.lists(st.text("abz10", min_size=1, max_size=3), min_size=1, max_size=most, unique=True)
    )
    rows = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    codes = draw(st.lists(rows, min_size=len(names), max_size=len(names)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    residual = draw(st.booleans())
    shape = (len(names), 2) if residual else (len(names), len(sizes), 2)
    latents = rng.integers(-4, 5, shape).astype(np.float32)
    books = tuple(rng.integers(-4, 5, (size, 2)).astype(np.float32) for size in sizes)
    base = table(dict(zip(names, map(list, codes), strict=True)), sizes)
    return base, CodeSpace(latents, books, residual), capacity


rules = st.sampled_from(["reassign_last", "nearest_free", "random_free"])


@given(tables_in_space(), rules, st.booleans(), st.integers(0, 99))
def test_every_table_is_emptied_and_the_order_of_rows_is_nothing(case, rule, with_space, seed):
    base, space, capacity = case
    capacity = 1 if rule == "reassign_last" else capacity
    if base.n_items > capacity * int(np.prod(base.sizes)):
        return
    sids = apply_collision(base, rule, space if with_space else None, capacity)
    counts = Counter(map(tuple, sids.codes.tolist()))
    assert max(counts.values()) <= capacity
    before, after = by_token(base), by_token(sids)
    # Whoever was within the capacity of a SID that nobody had to leave is where it was.
    full = {codes for codes, count in Counter(map(tuple, before.values())).items() if count > 1}
    crowded = {codes[:-1] for codes in full}
    arrived = {tuple(after[t][:-1]) for t in after if after[t][:-1] != before[t][:-1]}
    for token, codes in before.items():
        if tuple(codes[:-1]) not in crowded | arrived:
            assert after[token] == codes
    order = np.random.default_rng(seed).permutation(base.n_items)
    moved = base.aligned([base.tokens[row] for row in order])
    again = apply_collision(moved, rule, space.taken(order) if with_space else None, capacity)
    assert by_token(again) == after
    assert report(again) == report(sids)


@given(tables_in_space(), st.booleans(), st.integers(0, 99))
def test_only_what_overflows_moves_wherever_it_goes(case, with_space, seed):
    base, space, capacity = case
    known = space if with_space else None
    random = apply_collision(base, "random_free", known, capacity, seed=seed)
    nearest = apply_collision(base, "nearest_free", known, capacity)
    counts = Counter(map(tuple, base.codes.tolist()))
    overflow = sum(max(0, count - capacity) for count in counts.values())
    assert report(random)["moved"] == report(nearest)["moved"] == overflow
    stay = [(sids.codes == base.codes).all(axis=1).tolist() for sids in (random, nearest)]
    assert stay[0] == stay[1]


@settings(max_examples=60)
@given(tables_in_space(max_items=5))
def test_the_last_codes_are_shared_out_at_the_least_total_cost(case):
    base, space, _ = case
    if base.n_items > int(np.prod(base.sizes)):
        return
    sids = apply_collision(base, "reassign_last", space)
    rows = np.arange(base.n_items)
    prefixes = sids.codes[:, :-1].tolist()
    for prefix in {tuple(own) for own in prefixes}:
        members = [row for row in rows if tuple(prefixes[row]) == prefix]
        if not any(sids.codes[row].tolist() != base.codes[row].tolist() for row in members):
            continue
        if report(sids)["moved_up"]:
            continue  # an item that came to a free code leaves the others as they are
        members = np.array(members)
        costs = space.costs(base.n_levels - 1, members, sids.codes[members])
        ways = itertools.permutations(range(base.sizes[-1]), len(members))
        least = min(costs[np.arange(len(members)), list(way)].sum() for way in ways)
        chosen = costs[np.arange(len(members)), sids.codes[members, -1]].sum()
        assert chosen == least


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 3), st.integers(0, 999))
def test_nearest_with_room_is_the_greedy_way(family, n_codes, seed):
    rng = np.random.default_rng(seed)
    families = np.array(sorted(family))
    costs = rng.integers(0, 4, (len(families), n_codes)).astype(np.float32)
    room = rng.integers(0, 3, (3, n_codes))
    room[:, 0] += np.maximum(0, np.bincount(families, minlength=3) - room.sum(axis=1))
    expected = np.full(len(families), -1)
    left = room.copy()
    pairs = itertools.product(range(len(families)), range(n_codes))
    for item, code in sorted(pairs, key=lambda pair: (costs[pair], *pair)):
        if expected[item] < 0 and left[families[item], code]:
            expected[item] = code
            left[families[item], code] -= 1
    assert nearest_with_room(costs, families, room).tolist() == expected.tolist()


@settings(max_examples=40)
@given(tables_in_space(), rules, st.integers(1, 20))
def test_the_size_of_the_parts_changes_nothing(case, rule, entries):
    base, space, _ = case
    if base.n_items > int(np.prod(base.sizes)):
        return
    whole = apply_collision(base, rule, space)
    before = module.ENTRIES
    module.ENTRIES = entries
    try:
        assert by_token(apply_collision(base, rule, space)) == by_token(whole)
    finally:
        module.ENTRIES = before


def test_a_catalogue_of_five_thousand() -> None:
    rng = np.random.default_rng(0)
    n, size = 5_000, 32
    points = rng.normal(size=(n, 8)).astype(np.float32)
    book = rng.normal(size=(size, 8)).astype(np.float32)
    space = CodeSpace(points, (book, book / 2, book / 4), True)
    codes = np.zeros((n, 3), dtype=np.int32)
    for level in range(3):
        codes[:, level] = space.costs(level, np.arange(n), codes).argmin(axis=1)
    base = SemanticIDs(tuple(f"item{i}" for i in range(n)), codes, (size,) * 3, "none", {})
    costs = {}
    for rule in ("reassign_last", "nearest_free"):
        sids = apply_collision(base, rule, space)  # checks itself that all are unique
        costs[rule] = float(space.prefix_costs(np.arange(n), sids.codes).sum(dtype=np.float64))
        assert 0.1 * n < report(sids)["moved"] < 0.9 * n
        assert report(sids)["moved_up"] < report(sids)["moved"]
    assert costs["reassign_last"] < costs["nearest_free"]


def test_parts_hold_as_much_as_they_may_and_whole_families(monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight costs of two codes are four items: families of 2, 1, 2, 5 and 1.
    monkeypatch.setattr(module, "ENTRIES", 8)
    families = np.repeat([0, 3, 4, 6, 7], [2, 1, 2, 5, 1])
    found = [(part.start, part.stop) for part in module._parts(families, 2)]
    assert found == [(0, 3), (3, 5), (5, 10), (10, 11)]
    assert [part.stop for part in module._parts(np.arange(9), 2)] == [4, 8, 9]
    assert [part.stop for part in module._parts(np.arange(3), 9)] == [1, 2, 3]
    assert list(module._parts(np.arange(0), 2)) == []
