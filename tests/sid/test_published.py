"""Importing the SID files of other projects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from recbole_sid.errors import InputError
from recbole_sid.sid.published import read_sids

from .tables import by_token, table


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("rows", "layout"),
    [
        ({"B1": ["<a_183>", "<b_7>"], "B2": ["<a_0>", "<b_12>"]}, "lettered"),
        ({"B1": [183, 7], "B2": [0, 12]}, "plain"),
    ],
)
def test_both_layouts(tmp_path: Path, rows: dict[str, Any], layout: str) -> None:
    path = write(tmp_path / "other.json", rows)
    sids = read_sids(path)
    assert by_token(sids) == {"B1": [183, 7], "B2": [0, 12]}
    assert sids.sizes == (184, 13)
    assert sids.collision == "none"
    assert sids.provenance == {
        "imported": "other.json",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "layout": layout,
    }
    assert read_sids(path, sizes=[256, 256]).sizes == (256, 256)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": ["<b_1>", "<a_2>"]}, "'x' has '<b_1>' where '<a_…>'"),
        ({"x": ["<a_1>", "<a_2>"]}, "'x' has '<a_2>' where '<b_…>'"),
        ({"x": ["<a_1>", "<b_-2>"]}, "'<b_-2>'"),
        ({"x": ["<a_1>", "<b_2> "]}, "'<b_2> '"),
        ({"x": ["<a_\u0661>"]}, "whole number"),
        ({"x": ["<a_9999999999>"]}, "the code 9999999999"),
        ({"x": ["<a_1>", 2]}, "has 2 where '<b_…>'"),
        ({"x": [1, 2], "y": ["<a_1>", "<b_2>"]}, "'x' has 1 where '<a_…>'"),
        ({"x": ["<a_1>", "<b_2>"], "y": ["<a_1>"]}, "'y' has 1 codes, but must have 2"),
        ({"x": ["<a_1>"] * 27}, "27 levels, but letters name at most 26"),
        ({"x": [[1]]}, r"the code \[1\]"),
        ({"x": 3}, "'x' has 3, but must have a list"),
        ({}, "has no items"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_sids(write(tmp_path / "bad.json", rows))
    assert "bad.json" in str(caught.value)


def test_sizes_are_a_bound(tmp_path: Path) -> None:
    path = write(tmp_path / "other.json", {"x": [5, 2]})
    with pytest.raises(InputError, match=r"'x' has the code 5 at level 1, .* from 0 to 4"):
        read_sids(path, sizes=[5, 3])
    with pytest.raises(InputError, match=r"\[6\] has 1 levels, but must have 2"):
        read_sids(path, sizes=[6])
    with pytest.raises(InputError, match=r"\[6, 3, 1\] has 3 levels, but must have 2"):
        read_sids(path, sizes=[6, 3, 1])


@pytest.mark.parametrize("rows", [{"x": [2_000_000_000, 0]}, {"x": ["<a_1048576>", "<b_0>"]}])
def test_one_wrong_code_does_not_ask_for_all_memory(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = write(tmp_path / "other.json", rows)
    with pytest.raises(InputError, match=r"other.json: level 1 has the size .* at most 1048576"):
        read_sids(path)


def test_the_largest_level_that_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "other.json", {"x": [2**20 - 1]})
    assert read_sids(path).sizes == (2**20,)
    assert read_sids(path, sizes=[2**20]).sizes == (2**20,)
    with pytest.raises(InputError, match="level 1 has the size 1048577"):
        read_sids(path, sizes=[2**20 + 1])
    table({"x": [0]}, (2**20 + 1,)).save(tmp_path / "ours.safetensors")
    with pytest.raises(InputError, match=r"ours.safetensors: level 1 has the size 1048577"):
        read_sids(tmp_path / "ours.safetensors")


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_our_own_files_are_recognised(tmp_path: Path, suffix: str) -> None:
    sids = table({"x": [5, 2]}, (6, 3))
    path = tmp_path / f"ours{suffix}"
    sids.save(path)
    assert read_sids(path).fingerprint() == sids.fingerprint()
    assert read_sids(path, sizes=[6, 3]).sizes == (6, 3)
    with pytest.raises(InputError, match=r"asked for are \[7, 3\], but the file says \[6, 3\]"):
        read_sids(path, sizes=[7, 3])


def test_an_item_called_format_is_an_item(tmp_path: Path) -> None:
    assert read_sids(write(tmp_path / "other.json", {"format": [1]})).tokens == ("format",)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in '.txt', but must end in .json or .safetensors"):
        read_sids(tmp_path / "sids.txt")


def test_as_many_levels_as_letters(tmp_path: Path) -> None:
    row = [f"<{letter}_{place}>" for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz")]
    assert read_sids(write(tmp_path / "long.json", {"x": row})).codes.tolist() == [list(range(26))]
