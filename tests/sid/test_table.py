"""SemanticIDs: what it refuses, how it is realigned, and that a file gives back the same table."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.table import SemanticIDs

from .tables import base_tables, by_token, shuffled, table

FIELDS: dict[str, Any] = {
    "tokens": ("x", "y", "z"),
    "codes": np.array([[0, 3], [1, 0], [1, 2]], dtype=np.int32),
    "sizes": (2, 4),
    "collision": "none",
    "provenance": {"tokenizer": "made by hand"},
}
SIDS = SemanticIDs(**FIELDS)


def test_derived_numbers() -> None:
    assert (SIDS.n_items, SIDS.n_levels, SIDS.n_base_levels, SIDS.n_codes) == (3, 2, 2, 6)
    assert SIDS.offsets.tolist() == [0, 2]
    assert SIDS.offsets.dtype == np.int64
    assert table({"x": [0, 0, 0]}, (2, 4, 3)).offsets.tolist() == [0, 2, 6]
    assert SIDS.flat().tolist() == [[0, 5], [1, 2], [1, 4]]
    assert SIDS.flat().dtype == np.int64


def test_the_dedup_digit_is_a_level_but_not_a_base_level() -> None:
    sids = SemanticIDs(**{**FIELDS, "collision": "dedup"})
    assert (sids.n_levels, sids.n_base_levels) == (2, 1)
    assert sids.base_codes.tolist() == [[0], [1], [1]]


def test_the_table_cannot_be_changed_from_outside() -> None:
    codes = FIELDS["codes"].copy()
    provenance = {"list": [1]}
    sids = SemanticIDs(**{**FIELDS, "codes": codes, "provenance": provenance})
    codes[0, 0] = 1
    provenance["list"].append(2)
    assert sids.codes[0, 0] == 0
    assert sids.provenance == {"list": [1]}
    with pytest.raises(ValueError, match="read-only"):
        sids.codes[0, 0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": [[0, 3], [1, 0], [1, 2]]}, "codes are list, but must be a NumPy array of int32"),
        ({"codes": FIELDS["codes"].astype(np.int64)}, "codes are int64"),
        ({"codes": FIELDS["codes"][:2]}, r"shape \(2, 2\), but must have \(3, 2\)"),
        ({"sizes": (2, 4, 1)}, r"must have \(3, 3\)"),
        ({"sizes": ()}, "at least one level"),
        ({"sizes": (2, 3)}, "'x' has the code 3 at level 2, but it must be from 0 to 2"),
        ({"codes": FIELDS["codes"] - 1}, "'x' has the code -1 at level 1, .* from 0 to 1"),
        ({"sizes": (2, 0)}, "a level has the size 0"),
        ({"sizes": (2, True)}, "a level has the size True"),
        ({"sizes": (2, 4.0)}, "a level has the size 4.0"),
        ({"sizes": (2, 2**31 + 1)}, "a whole number from 1 to 2147483648"),
        ({"tokens": ("x", "y", "x")}, "1 item tokens stand in more than one row: 'x'"),
        ({"tokens": ("x", "y", "")}, "row 2 has the token ''"),
        ({"tokens": ("x", "y", 7)}, "row 2 has the token 7"),
        ({"tokens": ("x", "y", "\ud800")}, "not valid Unicode"),
        ({"tokens": (), "codes": np.zeros((0, 2), np.int32)}, "has no items"),
        ({"collision": "dedupe"}, "'none', 'dedup', .*'random_free'. Did you mean 'dedup'"),
        ({"provenance": {"loss": float("nan")}}, "provenance must be plain JSON"),
        ({"provenance": {"array": np.zeros(1)}}, "provenance must be plain JSON"),
        ({"provenance": [1]}, r"provenance is \[1\], but must be a dictionary"),
    ],
)
def test_bad_fields_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticIDs(**{**FIELDS, **change})


def test_dedup_means_unique() -> None:
    same = np.array([[1, 0], [0, 0], [1, 0]], dtype=np.int32)
    with pytest.raises(InputError, match=r"'x', 'z' all have the SID \[1, 0\], which has room"):
        SemanticIDs(**{**FIELDS, "codes": same, "collision": "dedup"})
    more = SemanticIDs(
        ("a", "b", "c", "d"), np.array([[0], [1], [1], [1]], np.int32), (2,), "none", {}
    )
    with pytest.raises(InputError, match=r"the items 'b', 'c' all have the SID \[1\]"):
        replace(more, collision="nearest_free")
    one = {"codes": FIELDS["codes"][:, 1:], "sizes": (4,), "collision": "dedup"}
    with pytest.raises(InputError, match="there is one level"):
        SemanticIDs(**{**FIELDS, **one})


def test_rules_that_move_items_mean_unique_up_to_the_capacity() -> None:
    for rule in ("reassign_last", "nearest_free", "random_free"):
        sids = SemanticIDs(**{**FIELDS, "collision": rule})
        assert sids.n_base_levels == 2
        assert sids.base_codes.tolist() == sids.codes.tolist()
        assert sids.fingerprint() != SIDS.fingerprint()
    one_level = {"codes": FIELDS["codes"][:, 1:], "sizes": (4,), "collision": "reassign_last"}
    assert SemanticIDs(**{**FIELDS, **one_level}).n_levels == 1
    same = {**FIELDS, "codes": np.array([[1, 0], [0, 0], [1, 0]], dtype=np.int32)}
    two = {"collision": {"capacity": 2}}
    for rule in ("nearest_free", "random_free"):
        assert SemanticIDs(**{**same, "collision": rule, "provenance": two}).n_items == 3
    for rule, provenance in (
        ("reassign_last", two),
        ("nearest_free", {}),
        ("nearest_free", {"collision": "junk"}),
        ("nearest_free", {"collision": {}}),
        ("nearest_free", {"collision": {"capacity": 1}}),
    ):
        with pytest.raises(InputError, match=f"'{rule}', but the items 'x', 'z' all .* room for 1"):
            SemanticIDs(**{**same, "collision": rule, "provenance": provenance})
    for capacity in (0, 1.5, True, "2", None):
        junk = {"collision": {"capacity": capacity}}
        with pytest.raises(InputError, match=r"collision capacity is .* at least 1"):
            SemanticIDs(**{**same, "collision": "nearest_free", "provenance": junk})


def test_aligned() -> None:
    moved = SIDS.aligned(["z", "x", "y"])
    assert moved.tokens == ("z", "x", "y")
    assert moved.codes.tolist() == [[1, 2], [0, 3], [1, 0]]
    assert moved.provenance == SIDS.provenance
    assert SIDS.aligned(["y"], unknown="ignore").codes.tolist() == [[1, 0]]


def test_aligned_counts_what_does_not_fit() -> None:
    asked = [f"item{number}" for number in range(12)]
    with pytest.raises(InputError, match=r"12 of the 13 items .* no SID: 'item0', .*'item9', …;"):
        SIDS.aligned(["x", *asked], unknown="ignore")
    with pytest.raises(InputError, match=r"2 of the 3 items .* not in the data: 'x', 'z'"):
        SIDS.aligned(["y"])
    with pytest.raises(InputError, match="more than one row: 'y'"):
        SIDS.aligned(["y", "x", "z", "y"])


@given(base_tables(), st.integers(0, 9))
def test_the_fingerprint_is_blind_to_row_order_only(sids: SemanticIDs, seed: int) -> None:
    moved = shuffled(sids, seed)
    assert moved.fingerprint() == sids.fingerprint()
    assert by_token(moved) == by_token(sids)


def test_the_fingerprint_sees_every_field_but_provenance() -> None:
    same = SemanticIDs(**{**FIELDS, "provenance": {}})
    others = [
        SemanticIDs(**{**FIELDS, **change})
        for change in (
            {"tokens": ("x", "y", "w")},
            {"codes": np.array([[0, 3], [1, 0], [1, 1]], dtype=np.int32)},
            {"sizes": (2, 5)},
            {"collision": "dedup"},
        )
    ]
    assert same.fingerprint() == SIDS.fingerprint()
    assert len({SIDS.fingerprint(), *(other.fingerprint() for other in others)}) == 5


@given(
    base_tables(),
    st.sampled_from(["none", "dedup", "nearest_free"]),
    st.sampled_from([".json", ".safetensors"]),
)
def test_files_give_back_the_same_table(base: SemanticIDs, rule: str, suffix: str) -> None:
    sids = apply_collision(base, rule, None, base.n_items)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sids{suffix}"
        sids.save(path)
        loaded = SemanticIDs.load(path)
        assert list(Path(folder).iterdir()) == [path]
    assert loaded.tokens == sids.tokens
    assert np.array_equal(loaded.codes, sids.codes)
    assert loaded.codes.dtype == np.int32
    assert (loaded.sizes, loaded.collision) == (sids.sizes, sids.collision)
    assert loaded.provenance == sids.provenance


def test_the_json_file_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "sids.json"
    SIDS.save(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert re.fullmatch(r"recbole_sid \S+ format 1 sha256:[0-9a-f]{64}", stored.pop("seal"))
    assert stored == {
        "format": "recbole-sid",
        "version": 1,
        "collision": "none",
        "sizes": [2, 4],
        "provenance": {"tokenizer": "made by hand"},
        "items": {"x": [0, 3], "y": [1, 0], "z": [1, 2]},
    }
    assert '\n    "y": [1, 0],\n' in path.read_text(encoding="utf-8")


def test_save_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sids.json"
    path.write_text("before")
    SIDS.save(path)
    assert SemanticIDs.load(path).fingerprint() == SIDS.fingerprint()
    folder = tmp_path / "taken.json"
    folder.mkdir()
    with pytest.raises(InputError, match=r"taken.json: cannot be written"):
        SIDS.save(folder)
    with pytest.raises(InputError, match="No such file or directory"):
        SIDS.save(tmp_path / "absent" / "sids.safetensors")
    with pytest.raises(InputError, match=r"'.pkl', but must end in .json or .safetensors"):
        SIDS.save(tmp_path / "sids.pkl")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["sids.json", "taken.json"]


def test_the_error_of_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "edited.json"
    table({"x": [0, 3]}, (2, 4)).save(path)
    path.write_text(path.read_text().replace("[0, 3]", "[0, 4]"))
    with pytest.raises(InputError, match=r"is damaged or was edited.*remove 'seal' if you changed"):
        SemanticIDs.load(path)
    edited = json.loads(path.read_text())
    del edited["seal"]
    path.write_text(json.dumps(edited))
    with pytest.raises(InputError, match=r"edited.json: item 'x' has the code 4 at level 2"):
        SemanticIDs.load(path)
    with pytest.raises(InputError, match=r"absent.json: cannot be read"):
        SemanticIDs.load(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"absent.safetensors' cannot be read"):
        SemanticIDs.load(tmp_path / "absent.safetensors")


def test_provenance_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="provenance must be plain JSON"):
        SemanticIDs(**{**FIELDS, "provenance": {"deep": deep}})


def test_the_largest_level() -> None:
    assert replace(SIDS, sizes=(2, 2**31)).n_codes == 2**31 + 2
