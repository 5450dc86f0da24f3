"""The user's own vectors: three ways to store them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.items.vectors import VectorSettings, load_item_vectors

IDS = ["a", "b", "NA"]
VECTORS = np.array([[1, 2], [3, 4], [5, 6]], np.float64)
WANTED = ("NA", "a")
EXPECTED = np.array([[5, 6], [1, 2]], np.float32)


def check(vectors: np.ndarray) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, EXPECTED)


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", VECTORS)
    return tmp_path / "v.npy"


def write_ids(folder: Path, text: str, name: str = "ids.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("text", ["a\nb\nNA\n", "a\nb\nNA", "\ufeffa\r\nb\r\nNA\r\n"])
def test_npy_with_text_ids(tmp_path: Path, npy: Path, text: str) -> None:
    check(load_item_vectors(npy, write_ids(tmp_path, text), WANTED))


def test_npy_with_json_ids(tmp_path: Path, npy: Path) -> None:
    check(load_item_vectors(npy, write_ids(tmp_path, json.dumps(IDS), "ids.json"), WANTED))


def test_safetensors_keyed_by_id(tmp_path: Path) -> None:
    save_torch(
        {token: torch.tensor(row).bfloat16() for token, row in zip(IDS, VECTORS, strict=True)},
        tmp_path / "v.safetensors",
    )
    check(load_item_vectors(tmp_path / "v.safetensors", None, WANTED))


def test_an_item_may_be_called_vectors(tmp_path: Path) -> None:
    save_file({"vectors": VECTORS[0], "b": VECTORS[1]}, tmp_path / "v.safetensors")
    found = load_item_vectors(tmp_path / "v.safetensors", None, ("b", "vectors"))
    np.testing.assert_array_equal(found, [[3, 4], [1, 2]])


def test_safetensors_with_ids_inside(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"vectors": VECTORS}, path, metadata={"ids": json.dumps(IDS)})
    check(load_item_vectors(path, None, WANTED))
    blob = np.frombuffer(json.dumps(IDS).encode(), np.uint8)
    save_file({"vectors": VECTORS, "ids": blob}, path)
    check(load_item_vectors(path, None, WANTED))


def test_safetensors_with_an_id_file(tmp_path: Path) -> None:
    save_file({"vectors": VECTORS}, tmp_path / "v.safetensors")
    ids = write_ids(tmp_path, "a\nb\nNA\n")
    check(load_item_vectors(tmp_path / "v.safetensors", ids, WANTED))
    with pytest.raises(InputError, match="holds no ids"):
        load_item_vectors(tmp_path / "v.safetensors", None, WANTED)


def test_missing_items_are_counted_and_shown(tmp_path: Path, npy: Path) -> None:
    ids = write_ids(tmp_path, "a\nb\nNA\n")
    with pytest.raises(InputError, match=r"2 of 3 items have no vector .*'x', 'y'.*'a', 'b', 'NA'"):
        load_item_vectors(npy, ids, ("a", "x", "y"))


def test_ids_twice_are_refused(tmp_path: Path, npy: Path) -> None:
    with pytest.raises(InputError, match=r"1 item ids .* more than once: 'a'"):
        load_item_vectors(npy, write_ids(tmp_path, "a\nb\na\n"), ("a",))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_numbers_must_be_finite_float32(tmp_path: Path, bad: float) -> None:
    vectors = VECTORS.copy()
    vectors[1, 0] = bad
    np.save(tmp_path / "v.npy", vectors)
    ids = write_ids(tmp_path, "a\nb\nNA\n")
    with pytest.raises(InputError, match=r"vectors of 1 items .*: 'b'"):
        load_item_vectors(tmp_path / "v.npy", ids, ("a", "b"))
    check(load_item_vectors(tmp_path / "v.npy", ids, WANTED))  # the bad row is not asked for


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros((3, 1, 1)), r"shape \(3, 1, 1\)"),
        (np.zeros((2, 2)), "holds 2 vectors, but 3 ids"),
        (np.zeros((3, 2), complex), "must hold numbers"),
        (np.array([["x"], ["y"], ["z"]]), "must hold numbers"),
        (np.array([{}, {}, {}]), "not a .npy file of numbers"),
    ],
)
def test_wrong_arrays(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        load_item_vectors(tmp_path / "v.npy", write_ids(tmp_path, "a\nb\nc\n"), ("a",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids.txt", "a\n\nb\n", "line 2: the item id is empty"),
        ("ids.json", "[1, 2, 3]", "JSON list of text"),
        ("ids.json", '{"a": 1}', "JSON list of text"),
        ("ids.json", "[", "not JSON"),
        ("ids.csv", "a", "must end in .txt or .json"),
    ],
)
def test_wrong_id_files(tmp_path: Path, npy: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_item_vectors(npy, write_ids(tmp_path, text, name), ("a",))


def test_wrong_files(tmp_path: Path, npy: Path) -> None:
    ids = write_ids(tmp_path, "a\n")
    broken = tmp_path / "v.safetensors"
    broken.write_bytes(b"junk")
    cases = [
        (tmp_path / "none.npy", ids, "no file"),
        (npy, tmp_path / "none.txt", "no file"),
        (npy, None, "holds no ids"),
        (ids, ids, "must end in .npy or .safetensors"),
        (broken, None, "not a safetensors file"),
    ]
    for path, id_path, message in cases:
        with pytest.raises(InputError, match=message):
            load_item_vectors(path, id_path, ("a",))
    (tmp_path / "junk.npy").write_bytes(b"PK\x03\x04 not an array")
    with pytest.raises(InputError, match=r"not a .npy file"):
        load_item_vectors(tmp_path / "junk.npy", ids, ("a",))
    save_file({"a": np.zeros(2), "b": np.zeros(3)}, broken)
    with pytest.raises(InputError, match=r"1 of 2 tensors differ: 'b \(3,\)'"):
        load_item_vectors(broken, None, ("a",))
    with pytest.raises(InputError, match="has no tensor 'vectors'"):
        load_item_vectors(broken, ids, ("a",))


def test_ids_without_a_file_are_refused() -> None:
    values = {"item_embedding_file": None, "item_embedding_ids": "ids.txt"}
    with pytest.raises(InputError, match=r"'item_embedding_ids' is 'ids.txt'"):
        settings.build(VectorSettings, values)
