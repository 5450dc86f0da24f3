"""What a run's own files say on its items, and how times are written."""

import logging
import math
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.export import export
from recbole_sid.serving.rules import item_rules, mask_of, parse_time
from tests.runs import SMALL, write_data


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        (-3, -3.0),
        ("1970-01-02", 86_400.0),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T02:00:10+02:00", 10.0),
        ("1970-01-01 01:00", 3600.0),
        (" 2026-01-05 ", 1_767_571_200.0),
    ],
)
def test_times_by_hand(value, seconds):
    assert parse_time(value) == seconds


@pytest.mark.parametrize(
    "value", [None, True, math.nan, math.inf, 10**400, "", "now", "2026-13-01", []]
)
def test_what_is_no_time_is_refused(value):
    with pytest.raises(InputError, match=r"'now' is .*, but must be seconds since 1970 or an ISO"):
        parse_time(value)


@given(st.text())
def test_any_text_is_a_time_or_refused(text):
    with suppress(InputError):
        assert math.isfinite(parse_time(text))


def test_masks_by_hand(caplog):
    with caplog.at_level(logging.WARNING, logger="recbole_sid"):
        assert mask_of(["b"], ("a", "b"), "").tolist() == [False, True]
        assert caplog.text == ""
        assert mask_of(["b", "x", "b"], ("a", "b"), "in 'f'").tolist() == [False, True]
    assert "1 of the 2 allowed ids, in 'f', are no items of the run" in caplog.text
    with pytest.raises(
        InputError, match="none of the 1 allowed ids, 'f', is an item of the run: 'x'"
    ):
        mask_of(["x"], ("a", "b"), "'f'")


@pytest.fixture
def ruled(made, tmp_path):
    """A run whose item file says when items are there, and a file of what is allowed."""
    data = tmp_path / "made"
    data.mkdir()
    cells = {n: ("", "100") if n == 3 else (str(n), "") for n in range(39)}  # i39 has no row
    lines = [f"i{n}\t{since}\t{until}" for n, (since, until) in cells.items()]
    (data / "made.item").write_text(
        "\n".join(["item_id:token\tbegins:float\tends:float", *lines]) + "\n"
    )
    (tmp_path / "allowed.txt").write_text("i1\ni3\n")
    bundle = open_bundle(made.run)
    changes = {
        "data_path": str(tmp_path),
        "available_from_field": "begins",
        "available_until_field": "ends",
        "allowed_items": str(tmp_path / "allowed.txt"),
    }
    return replace(bundle, settings=bundle.settings | changes)


def test_rules_of_a_run_stand_in_its_files(ruled, tmp_path, monkeypatch):
    rules = item_rules(ruled)
    at = {token: row for row, token in enumerate(ruled.sids.tokens)}
    assert rules.timed
    assert np.flatnonzero(rules.allowed).tolist() == sorted([at["i1"], at["i3"]])
    assert rules.since[at["i7"]] == 7
    assert np.isnan(rules.since[[at["i3"], at["i39"]]]).all()
    assert rules.until[at["i3"]] == 100
    assert np.isnan(rules.until).sum() == 39
    # An export has them too, and needs the files no longer.
    monkeypatch.setattr("recbole_sid.serving.export.open_bundle", lambda *args: ruled)
    output = export(ruled.folder, tmp_path / "export")
    monkeypatch.undo()
    (tmp_path / "made" / "made.item").unlink()
    (tmp_path / "allowed.txt").unlink()
    again = item_rules(open_bundle(output))
    for name in ("allowed", "since", "until"):
        np.testing.assert_array_equal(getattr(again, name), getattr(rules, name))
    with pytest.raises(InputError, match="cannot be read"):
        item_rules(ruled)


def test_rules_that_cannot_be_read_are_refused(ruled, tmp_path):
    path = tmp_path / "made" / "made.item"
    text = path.read_text()
    for cell in ("soon", "inf", "nan"):
        path.write_text(text.replace("i5\t5", f"i5\t{cell}"))
        with pytest.raises(InputError, match=f"column 'begins': 1 cells .*'i5': '{cell}'"):
            item_rules(ruled)
    path.write_text(text.replace("begins:float", "starts:float"))
    with pytest.raises(InputError, match="has no column 'begins'"):
        item_rules(ruled)


def test_a_run_without_rules(made):
    rules = item_rules(open_bundle(made.run))
    assert rules.allowed is rules.since is rules.until is None
    assert not rules.timed


def test_the_rules_of_a_trained_run(tmp_path, cache):
    """From settings to lists: a run, its item file, its export."""
    rows = [(f"u{u}", f"i{(u + t) % 12}", t) for u in range(20) for t in range(8)]
    given = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    given |= write_data(tmp_path, rows)
    path = tmp_path / "made" / "made.item"
    head, *lines = path.read_text().splitlines()
    cells = [f"{line}\t{10 * int(line.split()[0][1:])}" for line in lines]
    path.write_text("\n".join([f"{head}\tbegins:float", *cells]) + "\n")
    (tmp_path / "allowed.txt").write_text("i2\ni4\ni6\n")
    given |= {
        "output": str(tmp_path / "run"), "cache_dir": cache, "topk": [2],
        "valid_metric": "NDCG@2", "available_from_field": "begins", "filter_unavailable": True,
        "allowed_items": str(tmp_path / "allowed.txt"),
    }  # fmt: skip
    recbole_sid.run("TIGER", "made", config_dict=given)
    output = export(tmp_path / "run", tmp_path / "export")
    for now, expected in ((100, {"i2", "i4", "i6"}), (45, {"i2", "i4"}), (5, set())):
        for folder in (tmp_path / "run", output):
            (found,) = recbole_sid.recommend(folder, [["i1", "i2"]], 5, now=now)
            assert set(found.items) == expected
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "allowed.txt").unlink()
    (found,) = recbole_sid.recommend(output, [["i1", "i2"]], 5, now=45)
    assert set(found.items) == {"i2", "i4"}
    for folder, message in ((output, "give 'now'"), (tmp_path / "run", "cannot be read")):
        with pytest.raises(InputError, match=message):
            recbole_sid.recommend(folder, [["i1", "i2"]], 5)
