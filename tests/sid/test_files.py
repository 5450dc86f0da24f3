"""Damaged and hostile SID files: always one InputError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_sid import seals
from recbole_sid.errors import InputError
from recbole_sid.sid import files
from recbole_sid.sid.files import shown
from recbole_sid.sid.published import read_sids
from recbole_sid.sid.table import SemanticIDs
from tests.sealing import write_tensors

from .tables import table

SIDS = table({"x": [0, 3], "y": [1, 0]}, (2, 4))
HEAD: dict[str, Any] = {
    "format": "recbole-sid",
    "version": 1,
    "collision": "none",
    "sizes": [2, 4],
    "provenance": {},
}
ITEMS = {"x": [0, 3], "y": [1, 0]}

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def only_input_error(path: Path) -> None:
    """Reading may succeed, if the junk happens to be a table; anything else is an InputError."""
    message = ""
    try:
        read_sids(path)
    except InputError as error:
        message = str(error)
    assert not message or message.startswith(f"SID file {path}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "'format' is 'other', but must be 'recbole-sid'"),
        ({"version": 2}, "'version' is 2, but this release reads version 1"),
        ({"version": 1.0}, "'version' is 1.0, but must be of type int"),
        ({"version": None}, "'version' is None"),
        ({"extra": 1}, "the keys are .*'extra'"),
        ({"sizes": 4}, "'sizes' is 4, but must be of type list"),
        ({"sizes": [2, "4"]}, "a level has the size '4'"),
        ({"sizes": [2, 10**30]}, "from 1 to 2147483648"),
        ({"sizes": [2]}, r"must have \(2, 1\)"),
        ({"collision": 3}, "'collision' is 3"),
        ({"collision": "other"}, "collision is 'other'"),
        ({"provenance": []}, r"'provenance' is \[\]"),
        ({"items": None}, "'items' is None, but must map every item"),
        ({"items": {}}, "has no items"),
        ({"items": {"x": [0, 3], "y": [1]}}, "'y' has 1 codes, but must have 2"),
        ({"items": {"x": []}}, r"'x' has \[\], but must have a list of codes"),
        ({"items": {"x": "03"}}, "'x' has '03', but must have a list of codes"),
        ({"items": {"x": [0, True]}}, "'x' has the code True"),
        ({"items": {"x": [0, 1.0]}}, "'x' has the code 1.0"),
        ({"items": {"x": [0, None]}}, "'x' has the code None"),
        ({"items": {"x": [0, -1]}}, "'x' has the code -1, but a code must be a whole number"),
        ({"items": {"x": [0, 2**31]}}, "'x' has the code 2147483648"),
        ({"items": {"x": [0, 2**31 - 1], "y": [0, -1]}}, "'y' has the code -1"),
        ({"items": {"x": [0, 4]}}, "'x' has the code 4 at level 2, but it must be from 0 to 3"),
        ({"items": {"": [0, 3]}}, "non-empty text"),
        ({"items": {"\ud800": [0, 3]}}, "not valid Unicode"),
    ],
)
def test_json_of_our_own_format(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "sids.json"
    path.write_text(json.dumps({**HEAD, "items": ITEMS, **change}))
    with pytest.raises(InputError, match=message):
        SemanticIDs.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[1, 2]", r"holds \[1, 2\], but must hold one object"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b'{"x": [NaN]}', "json: holds NaN, which is not a number"),
        (b'{"x": [-Infinity]}', "json: holds -Infinity"),
        (b'{"x": [1], "y": [1], "x": [2]}', "json: has keys that stand twice: 'x';"),
        (b'{"x": [' + b"9" * 5000 + b"]}", "is not valid JSON"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not valid JSON"),
    ],
)
def test_text_that_is_not_a_table(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "sids.json"
    path.write_bytes(content)
    for read in (read_sids, SemanticIDs.load):
        with pytest.raises(InputError, match=message):
            read(path)


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "sids.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({**HEAD, "items": ITEMS}).encode())
    assert SemanticIDs.load(path).fingerprint() == SIDS.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((2, 2), np.int64)}, "tensor 'codes' is I64"),
        ({"codes": np.zeros(4, np.int32)}, "must be I32 with 2 dimension"),
        ({"codes": np.full((2, 2), -1, np.int32)}, "'x' has the code -1 at level 1"),
        ({"token_ends": np.array([2, 1])}, "must rise from 0 to 2"),
        ({"token_ends": np.array([-1, 2])}, "must rise from 0 to 2"),
        ({"token_ends": np.array([1, 3])}, "must rise from 0 to 2"),
        ({"token_ends": np.array([2])}, r"codes have the shape \(2, 2\), but must have \(1, 2\)"),
        ({"token_bytes": np.array([120, 255], np.uint8)}, "is not text in UTF-8"),
        ({"more": np.zeros(1)}, "holds the tensors 'codes', 'more'"),
    ],
)
def test_safetensors(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    tensors: dict[str, np.ndarray] = {
        "codes": np.array([[0, 3], [1, 0]], dtype=np.int32),
        "token_bytes": np.frombuffer(b"xy", dtype=np.uint8),
        "token_ends": np.array([1, 2]),
    }
    path = tmp_path / "sids.safetensors"
    write_tensors(path, tensors, {"head": json.dumps(HEAD)})
    assert SemanticIDs.load(path).fingerprint() == SIDS.fingerprint()
    write_tensors(path, {**tensors, **change}, {"head": json.dumps(HEAD)})
    with pytest.raises(InputError, match=message):
        SemanticIDs.load(path)
    write_tensors(path, tensors, {"head": json.dumps({**HEAD, "version": 2})})
    with pytest.raises(InputError, match="'version' is 2"):
        SemanticIDs.load(path)


def test_a_model_checkpoint_is_not_a_table(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(InputError, match="'weight', but must hold 'codes'"):
        SemanticIDs.load(path)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
junk = st.recursive(
    scalars | st.sampled_from(["<a_1>", "<b_0>", "recbole-sid", "none", "dedup"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*HEAD, "items", "x", ""]), inner, max_size=4)
    ),
    max_leaves=12,
)


@same_folder
@given(value=junk, key=st.sampled_from([*HEAD, "items"]))
def test_json_junk_raises_only_input_errors(tmp_path: Path, value: object, key: str) -> None:
    path = tmp_path / "junk.json"
    for data in (value, {"x": value}, {**HEAD, "items": ITEMS, key: value}):
        path.write_text(json.dumps(data))
        only_input_error(path)


@same_folder
@given(
    content=st.binary(max_size=40),
    start=st.integers(0, 600),
    suffix=st.sampled_from([".json", ".safetensors"]),
)
def test_damaged_files_raise_only_input_errors(
    tmp_path: Path, content: bytes, start: int, suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    SIDS.save(path)
    whole = path.read_bytes()
    for damaged in (
        content,
        whole[:start],
        whole[:start] + content + whole[start + len(content) :],
    ):
        path.write_bytes(damaged)
        only_input_error(path)


def test_values_are_shown_whole_up_to_a_line() -> None:
    assert shown("x" * 78) == "'" + "x" * 78 + "'"
    assert shown("x" * 79) == "'" + "x" * 78 + "…"
    assert shown(10**5000) == "a int too long to print"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list too long to print"


def test_a_file_may_be_as_large_as_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sids.json"
    SIDS.save(path)
    monkeypatch.setattr(files, "MAX_JSON", path.stat().st_size)
    assert SemanticIDs.load(path).fingerprint() == SIDS.fingerprint()
    monkeypatch.setattr(files, "MAX_JSON", path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"bytes; write so large a table as \.safetensors"):
        SemanticIDs.load(path)


def test_sealed_junk_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "sids.safetensors"
    with seals.written_sealed(path) as temporary:
        temporary.write_bytes(b"junk" * 9 + seals.blank().encode())
    with pytest.raises(InputError, match=r"sids.safetensors: cannot be read as safetensors \("):
        SemanticIDs.load(path)
