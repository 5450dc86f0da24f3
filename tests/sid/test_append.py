"""New items in a published table: by hand on a line, and against a slow and plain oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.sid.append import append_codes, fullness, room_of
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs

from .tables import by_token, table


def line(places: list[float], *books: list[float]) -> CodeSpace:
    """New items and codes on a line, in a residual space."""

    def column(numbers: list[float]) -> np.ndarray:
        return np.array(numbers, dtype=np.float32)[:, None]

    return CodeSpace(column(places), tuple(map(column, books)), True)


def added(
    published: SemanticIDs, codes: dict[str, list[int]], space: CodeSpace | None = None
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """SIDs of the new items, and the report."""
    rows = np.array(list(codes.values()), dtype=np.int32)
    result = append_codes(published, tuple(codes), rows, space)
    n_old = published.n_items
    assert result.sids.tokens == (*published.tokens, *codes)
    assert result.sids.codes[:n_old].tobytes() == published.codes.tobytes()
    assert (result.sids.sizes, result.sids.collision) == (published.sizes, published.collision)
    return {token: by_token(result.sids)[token] for token in codes}, result.report


# Two prefixes at 0 and 100, codes at 0, 10 and 30.
BOOKS = ([0.0, 100.0], [0.0, 10.0, 30.0])


def test_dedup_takes_the_lowest_unused_digit_in_the_order_of_tokens() -> None:
    base = table({"a": [0, 0], "b": [0, 0], "c": [0, 1]}, (2, 3))
    published = apply_collision(base, "dedup", headroom=2)
    assert published.sizes == (2, 3, 4)
    found, report = added(published, {"z": [0, 0], "x": [0, 0], "y": [0, 1], "w": [1, 2]})
    assert found == {"x": [0, 0, 2], "z": [0, 0, 3], "y": [0, 1, 1], "w": [1, 2, 0]}
    assert report == {
        "new": 4,
        "met_old": 3,
        "met_new": 2,
        "took_digit": 3,
        "moved": 0,
        "moved_up": 0,
        "mean_cost_added": None,
    }


def test_digits_that_were_left_out_are_filled() -> None:
    codes = np.array([[0, 1], [0, 4], [1, 0]], dtype=np.int32)
    published = SemanticIDs(("a", "b", "c"), codes, (2, 6), "dedup", {})
    found, _ = added(published, {token: [0] for token in "pqrs"} | {"t": [1]})
    assert found == {"p": [0, 0], "q": [0, 2], "r": [0, 3], "s": [0, 5], "t": [1, 1]}


def test_dedup_without_digits_left_moves_the_furthest_to_the_nearest_base_sid_with_room() -> None:
    base = table({"a": [0, 0], "b": [0, 0], "c": [0, 1], "d": [0, 1]}, (2, 3))
    published = apply_collision(base, "dedup", headroom=1)  # three digits
    # Of three at code 0 one has room: y, nearest to 0. z takes the last place at 10, where it
    # costs 16 and x 49. x is left with 30.
    found, report = added(
        published, {"x": [0, 0], "y": [0, 0], "z": [0, 0]}, line([3, 1, 6], *BOOKS)
    )
    assert found == {"y": [0, 0, 2], "z": [0, 1, 2], "x": [0, 2, 0]}
    assert (report["met_old"], report["met_new"], report["took_digit"]) == (3, 3, 1)
    assert (report["moved"], report["moved_up"]) == (2, 0)
    assert report["mean_cost_added"] == ((27**2 - 9) + (16 - 36)) / 2


def test_a_full_prefix_is_left_for_the_nearest_one() -> None:
    base = table({"a": [0, 0], "b": [0, 1], "c": [0, 2], "d": [1, 0]}, (2, 3))
    for published in (apply_collision(base, "nearest_free"), apply_collision(base, "dedup")):
        # Under prefix 1 code 0 is taken and 98 - 100 is nearest to it, then to 10.
        found, report = added(published, {"x": [0, 2]}, line([98], *BOOKS))
        assert found["x"][:2] == [1, 1]
        assert (report["moved"], report["moved_up"]) == (1, 1)
        assert report["mean_cost_added"] == 12**2 - 68**2
        both = {"x": [0, 2], "y": [0, 1]}
        found, report = added(published, both, line([98, 140], *BOOKS))
        assert (found["x"][:2], found["y"][:2]) == ([1, 1], [1, 2])
        assert (report["moved"], report["moved_up"]) == (2, 2)


@pytest.mark.parametrize("rule", ["nearest_free", "reassign_last"])
def test_nearest_free_never_moves_an_old_item(rule: str) -> None:
    published = apply_collision(table({"m": [0, 0], "n": [0, 1]}, (2, 3)), rule)
    # Nearer to code 0 than anything, but m has it; a stays at its own free SID.
    found, report = added(published, {"x": [0, 0], "a": [1, 0]}, line([0, 100], *BOOKS))
    assert found == {"x": [0, 2], "a": [1, 0]}
    assert report["mean_cost_added"] == 900
    assert "took_digit" not in report


def test_capacity_of_the_published_table_holds() -> None:
    base = table({"a": [0], "b": [0], "c": [1]}, (3,))
    published = apply_collision(base, "nearest_free", capacity=2)
    found, _ = added(published, {"x": [0], "y": [1], "z": [1]}, line([0, 10, 11], [0, 10, 30]))
    assert found == {"x": [2], "y": [1], "z": [2]}
    assert room_of(published) == 2


def test_none_shares() -> None:
    published = table({"a": [0, 0]}, (1, 2))
    found, report = added(published, {"x": [0, 0], "y": [0, 0]})
    assert found == {"x": [0, 0], "y": [0, 0]}
    assert (report["met_old"], report["met_new"], report["moved"]) == (2, 2, 0)
    assert room_of(published) is None


def test_a_full_space_must_be_made_anew() -> None:
    full = apply_collision(table({"a": [0, 0], "b": [0, 1], "c": [1, 0]}, (2, 2)), "nearest_free")
    added(full, {"x": [0, 0]})
    with pytest.raises(InputError, match=r"2 new items do not fit.*4 places.*3 are taken.*again"):
        added(full, {"x": [0, 0], "y": [0, 0]})
    digits = apply_collision(table({"a": [0], "b": [1]}, (2,)), "dedup")
    with pytest.raises(InputError, match=r"1 items, one a dedup digit.*must be tokenized"):
        added(digits, {"x": [0]})


def test_bad_input() -> None:
    published = apply_collision(table({"a": [0, 0], "b": [0, 1]}, (2, 2)), "dedup")
    with pytest.raises(InputError, match=r"1 of the 2 new items have a SID already: 'b'"):
        added(published, {"b": [0, 0], "c": [0, 0]})
    with pytest.raises(InputError, match=r"shape \(1, 3\), but must have \(1, 2\)"):
        added(published, {"c": [0, 0, 0]})
    with pytest.raises(InputError, match="'c' has the code 2 at level 2"):
        added(published, {"c": [0, 2]})
    with pytest.raises(InputError, match="space has 2 items"):
        added(published, {"c": [0, 0]}, line([0, 1], [0, 1], [0, 1]))
    with pytest.raises(InputError, match="'collision_headroom' is -1"):
        apply_collision(table({"a": [0]}, (2,)), "dedup", headroom=-1)


def test_no_headroom_changes_nothing() -> None:
    base = table({"a": [0, 0], "b": [0, 0]}, (2, 2))
    plain, roomy = (apply_collision(base, "dedup", headroom=size) for size in (0, 5))
    assert plain.fingerprint() == apply_collision(base, "dedup").fingerprint()
    assert (plain.sizes, roomy.sizes) == ((2, 2, 2), (2, 2, 7))
    assert np.array_equal(plain.codes, roomy.codes)


def test_fullness_by_hand() -> None:
    base = table({"a": [0, 0], "b": [0, 0], "c": [0, 1], "d": [2, 0]}, (4, 2))
    assert fullness(apply_collision(base, "dedup", headroom=1)) == {
        "used_share_1": 2 / 4,
        "used_share_2": 3 / 8,
        "room": 3,
        "filled": 4 / 24,
        "largest_group": 2,
        "full_groups": 0,
        "fullest": [
            {"sid": [0, 0], "items": 2, "free": 1},
            {"sid": [0, 1], "items": 1, "free": 2},
            {"sid": [2, 0], "items": 1, "free": 2},
        ],
    }
    assert fullness(apply_collision(base, "dedup"))["full_groups"] == 1
    shared = fullness(base)
    assert (shared["room"], shared["filled"], shared["full_groups"]) == (None, None, 0)


# -- against an oracle ----------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[SemanticIDs, SemanticIDs, CodeSpace]:
    """A published table with some room, and base codes of new items with their space."""
    sizes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    rule = draw(st.sampled_from(["none", "dedup", "nearest_free", "reassign_last"]))
    capacity = draw(st.integers(1, 3)) if rule == "nearest_free" else 1
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    most = min(12, capacity * math.prod(sizes))
    old = draw(st.lists(row, min_size=1, max_size=most if rule != "none" else 12))
    base = table({f"o{at}": list(codes) for at, codes in enumerate(old)}, sizes)
    headroom = draw(st.integers(0, 2)) if rule == "dedup" else 0
    published = apply_collision(base, rule, None, capacity, headroom)
    room = room_of(published)
    free = 12 if room is None else min(12, room * math.prod(sizes) - len(old))
    new = draw(st.lists(row, min_size=min(1, free), max_size=free))
    if not new:
        # A full table: room for one is made by a rule without a bound.
        published, new = base, [old[0]]
    names = draw(st.permutations([f"n{at}" for at in range(len(new))]))
    # Whole numbers: costs are exact, and ties are common.
    number = st.integers(-8, 8).map(float)
    points = draw(st.lists(number, min_size=len(new), max_size=len(new)))
    books = [draw(st.lists(number, min_size=size, max_size=size)) for size in sizes]
    fresh = table(dict(zip(names, map(list, new), strict=True)), sizes)
    return published, fresh, line(points, *books)


def oracle(published: SemanticIDs, fresh: SemanticIDs, space: CodeSpace) -> dict[str, list[int]]:
    """Base codes of the new items, by loops over items and codes."""
    room = room_of(published)
    codes = {token: tuple(row) for token, row in by_token(fresh).items()}
    if room is None:
        return {token: list(row) for token, row in codes.items()}
    old = [tuple(row) for row in published.base_codes.tolist()]
    place = dict(zip(fresh.tokens, space.latents[:, 0].tolist(), strict=True))
    books = [book[:, 0].tolist() for book in space.codebooks]
    sizes = fresh.sizes

    def cost(token: str, prefix: tuple[int, ...]) -> float:
        vectors = (book[code] for book, code in zip(books, prefix, strict=False))
        return (place[token] - sum(vectors)) ** 2

    def held(prefix: tuple[int, ...], without: set[str]) -> int:
        rows = [*old, *(row for token, row in codes.items() if token not in without)]
        return sum(row[: len(prefix)] == prefix for row in rows)

    def settle(items: list[str], level: int, limit: int) -> None:
        """All pairs of an item and a code by cost, item and code; the first that fits is taken."""
        waiting = set(items)
        pairs = sorted(
            (cost(token, (*codes[token][:level], code)), token, code)
            for token in items
            for code in range(sizes[level])
        )
        for _, token, code in pairs:
            prefix = (*codes[token][:level], code)
            if token in waiting and held(prefix, waiting) < limit:
                codes[token] = (*prefix, *codes[token][level + 1 :])
                waiting.remove(token)
        assert not waiting

    movers = []
    for sid in set(codes.values()):
        mine = sorted((cost(t, sid), t) for t, row in codes.items() if row == sid)
        movers += [token for _, token in mine[max(0, room - old.count(sid)) :]]
    movers.sort()
    for level in range(len(sizes) - 1):
        limit = room * math.prod(sizes[level + 1 :])
        leaving = []
        for prefix in {codes[token][: level + 1] for token in movers}:
            excess = held(prefix, set()) - limit
            mine = sorted((cost(t, prefix), t) for t in movers if codes[t][: level + 1] == prefix)
            leaving += [token for _, token in mine[::-1][: max(0, excess)]]
        settle(sorted(leaving), level, limit)
        for token in leaving:
            for later in range(level + 1, len(sizes)):
                row = codes[token]
                best = min(range(sizes[later]), key=lambda c: cost(token, (*row[:later], c)))
                codes[token] = (*row[:later], best, *row[later + 1 :])
    settle(movers, len(sizes) - 1, room)
    return {token: list(row) for token, row in codes.items()}


@settings(deadline=None)
@given(cases(), st.randoms())
def test_against_the_oracle(case: tuple[SemanticIDs, SemanticIDs, CodeSpace], random: Any) -> None:
    published, fresh, space = case
    result = append_codes(published, fresh.tokens, fresh.codes, space)
    sids, n_old = result.sids, published.n_items
    # Old items stand where they stood.
    assert sids.tokens[:n_old] == published.tokens
    assert sids.codes[:n_old].tobytes() == published.codes.tobytes()
    base = dict(zip(fresh.tokens, sids.base_codes[n_old:].tolist(), strict=True))
    assert base == oracle(published, fresh, space)
    # No SID holds more than it may.
    counts = np.unique(sids.codes, axis=0, return_counts=True)[1]
    assert published.collision == "none" or counts.max() <= published.capacity
    if published.collision == "dedup":
        used = {tuple(row) for row in published.codes.tolist()}
        for token in sorted(fresh.tokens):
            digit = next(d for d in range(99) if (*base[token], d) not in used)
            assert by_token(sids)[token] == [*base[token], digit]
            used.add((*base[token], digit))
    # The order of the new rows does not matter, nor does that of the old ones.
    rows = random.sample(range(fresh.n_items), fresh.n_items)
    mixed = published.aligned(random.sample(published.tokens, n_old))
    tokens = tuple(fresh.tokens[row] for row in rows)
    again = append_codes(mixed, tokens, fresh.codes[rows], space.taken(rows))
    assert again.sids.fingerprint() == sids.fingerprint()
    assert again.report == pytest.approx(result.report)


def test_fullness_shows_the_ten_most_crowded() -> None:
    # SID i has one item for i below 11, and SID 11 two.
    codes = {f"i{at:02}": [min(at, 11)] for at in range(13)}
    found = fullness(table(codes, (20,)))
    assert [one["sid"] for one in found["fullest"]] == [[11], *([at] for at in range(9))]
    assert {one["free"] for one in found["fullest"]} == {None}


def test_appended_items_are_counted_over_all_appends() -> None:
    first = append_codes(table({"a": [0]}, (2,)), ("b", "c"), np.array([[0], [1]], np.int32))
    second = append_codes(first.sids, ("d",), np.array([[1]], np.int32))
    assert first.sids.provenance == {"appended": 2}
    assert second.sids.provenance == {"appended": 3}
    assert second.sids.tokens == ("a", "b", "c", "d")
