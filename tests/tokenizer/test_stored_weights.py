from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.stored_weights import (
    StoredWeights,
    require_input_dim,
    require_shapes,
    save_tokenizer_weights,
)
from tests.sealing import write_tensors

WEIGHTS = {
    "b": np.arange(6, dtype=np.float32).reshape(3, 2).T,  # not contiguous
    "a": np.array([1, 2], dtype=np.int64),
}


def test_what_is_written_is_read_back(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_tokenizer_weights(path, WEIGHTS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    stored = StoredWeights(path)
    assert list(stored) == ["a", "b"]
    assert len(stored) == 2
    assert "c" not in stored
    for name, array in WEIGHTS.items():
        assert stored[name].dtype == array.dtype
        assert np.array_equal(stored[name], array)
    with pytest.raises(KeyError):
        stored["c"]


def test_equal_weights_give_equal_files_in_any_order(tmp_path: Path):
    save_tokenizer_weights(tmp_path / "1", WEIGHTS)
    save_tokenizer_weights(tmp_path / "2", dict(reversed(WEIGHTS.items())))
    save_tokenizer_weights(tmp_path / "3", StoredWeights(tmp_path / "1"))
    first, *others = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert others == [first, first]


def test_arrays_are_read_when_they_are_asked_for(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_tokenizer_weights(path, WEIGHTS)
    stored = StoredWeights(path)
    path.write_bytes(b"")
    assert list(stored) == ["a", "b"]
    with pytest.raises(InputError, match=r"w\.safetensors' cannot be read"):
        stored["a"]


def test_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        StoredWeights(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="has no checksum"):
        StoredWeights(path)
    write_tensors(path, {"a": WEIGHTS["a"]})
    with pytest.raises(InputError, match="does not hold the weights of a tokenizer"):
        StoredWeights(path)


def test_all_that_differs_is_named():
    require_shapes(WEIGHTS, {"a": (2,), "b": (2, 3)})
    with pytest.raises(InputError) as error:
        require_shapes(WEIGHTS, {"c": (1,), "b": (2, 4)})
    assert str(error.value).startswith(
        "the tokenizer's weights do not fit: 'c' is missing; 'a' is not known; "
        "'b' has the shape (2, 3), but must have (2, 4). They come from a fit of other settings"
    )
    many = {f"x{i}": (1,) for i in range(9)}
    with pytest.raises(InputError, match=r"'x4' is missing; and 4 more\."):
        require_shapes({}, many)


def test_the_dimensions_of_a_fit():
    vectors = np.zeros((4, 3), np.float32)
    require_input_dim(vectors, {"first": np.zeros((9, 3))}, "first")
    require_input_dim(vectors, {}, "first")  # nothing to compare with: require_shapes will tell
    with pytest.raises(InputError, match=r"have 3 dimensions, but the .* fitted on vectors of 2:"):
        require_input_dim(vectors, {"first": np.zeros((9, 2))}, "first")
    weights = {"first": np.zeros((9, 3)), "pca_components": np.zeros((3, 5))}
    with pytest.raises(InputError, match="fitted on vectors of 5"):
        require_input_dim(vectors, weights, "first")
