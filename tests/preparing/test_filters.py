"""Repeats, known items and the k-core, against sets worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.preparing.feeds import lines_of, make, write_feed


def prepared(folder: Path, log: list[tuple[str, str, int]], **minimum: Any) -> list[str]:
    """The interactions (user and item) that stay of a log of (user, item, time)."""
    mapping = write_feed(folder)
    items = sorted({item for _, item, _ in log})
    (folder / "items.csv").write_text(
        "ad,title,path,price\n" + "".join(f"{item},T,x,1\n" for item in items)
    )
    rows = "".join(f"{user},{item},click,{time}\n" for user, item, time in log)
    (folder / "events.csv").write_text("user,ad,type,time\n" + rows)
    mapping["minimum"] = minimum
    mapping["events"]["repeated"] = "all"
    make(folder, mapping, overwrite=True)
    return [" ".join(line.split("\t")[:2]) for line in lines_of(folder, ".inter")[1:]]


def pairs(text: str) -> list[tuple[str, str, int]]:
    return [(user, item, n) for n, (user, item) in enumerate(pair for pair in text.split())]


# d is on one item, x; without him x has one user, a; without x a has one item, y; without a ...
# The rest, b and c on y and z, is a 2-core.
CHAIN = pairs("dx ax ay by bz cy cz")


def test_the_core_needs_rounds(tmp_path: Path) -> None:
    assert prepared(tmp_path, CHAIN, user=2, item=2) == ["b y", "b z", "c y", "c z"]


def test_without_core_both_are_counted_once(tmp_path: Path) -> None:
    # Only d has one interaction; every item has two at first.
    assert prepared(tmp_path, CHAIN, user=2, item=2, core=False) == [
        "a x", "a y", "b y", "b z", "c y", "c z"
    ]  # fmt: skip


def test_users_and_items_have_bounds_of_their_own(tmp_path: Path) -> None:
    assert prepared(tmp_path, CHAIN, user=1, item=3) == ["a y", "b y", "c y"]
    assert prepared(tmp_path, CHAIN, user=0, item=0) == [
        "d x", "a x", "a y", "b y", "b z", "c y", "c z"
    ]  # fmt: skip


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz")), min_size=8))
def test_the_core_is_what_is_left_of_dropping_one_by_one(
    tmp_path: Path, log: list[tuple[str, str]]
) -> None:
    rows = [*log, *[(user, item) for user in "pq" for item in "mn"]]  # never empty
    expected = list(rows)
    while True:
        users, items = (Counter(row[side] for row in expected) for side in (0, 1))
        poor = next((row for row in expected if users[row[0]] < 2 or items[row[1]] < 2), None)
        if poor is None:
            break
        expected = [row for row in expected if users[row[0]] >= 2 and items[row[1]] >= 2]
    found = prepared(tmp_path, [(*row, n) for n, row in enumerate(rows)], user=2, item=2)
    assert found == [" ".join(row) for row in expected]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # In the log: a1 at 30, 10, 30 and 10; of equal times the first or last line counts.
        ("first", ["u1\ta1\t10", "u1\ta2\t20"]),
        ("last", ["u1\ta2\t20", "u1\ta1\t30"]),
        ("all", ["u1\ta1\t10", "u1\ta1\t10", "u1\ta2\t20", "u1\ta1\t30", "u1\ta1\t30"]),
    ],
)
def test_repeats(tmp_path: Path, rule: str, expected: list[str]) -> None:
    mapping = write_feed(tmp_path)
    log = ["u1,a1,click,30", "u1,a1,click,10", "u1,a2,click,20", "u1,a1,click,30", "u1,a1,click,10"]
    (tmp_path / "events.csv").write_text("\n".join(["user,ad,type,time", *log]) + "\n")
    mapping["events"]["repeated"] = rule
    report = make(tmp_path, mapping)
    assert lines_of(tmp_path, ".inter")[1:] == expected
    assert report["dropped"]["repeated"] == 5 - len(expected)


def test_events_of_unknown_items(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    with (tmp_path / "events.csv").open("a") as file:
        file.write("u1,zz,click,5\nu2,yy,click,6.5\n")
    report = make(tmp_path, mapping)
    assert report["dropped"]["unknown_items"] == 2
    assert len(lines_of(tmp_path, ".inter")) == 5
    mapping["events"]["only_known_items"] = False
    report = make(tmp_path, mapping, overwrite=True)
    assert report["dropped"]["unknown_items"] == 0
    assert lines_of(tmp_path, ".inter")[1:3] == ["u1\tzz\t5", "u2\tyy\t6.5"]
    # They have a row, with nothing in it, behind the others.
    assert [line.split("\t") for line in lines_of(tmp_path, ".item")[3:]] == [
        ["yy", "", "", ""], ["zz", "", "", ""]
    ]  # fmt: skip
    assert report["result"]["item_file"] == {
        "items": 4, "without_row": 2, "with_title": 2, "with_category": 2, "with_price": 1
    }  # fmt: skip


def test_items_without_events_stay_if_wanted(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    mapping["items"]["keep_all"] = True
    report = make(tmp_path, mapping)
    assert lines_of(tmp_path, ".item")[3] == "a3\tEspresso machine\thousehold > kitchen\t99"
    assert report["result"]["items_with_interactions"] == 2
    assert report["result"]["item_file"]["items"] == 3
