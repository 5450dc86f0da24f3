from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.vectors import (
    VectorSettings,
    preparation_shapes,
    prepared,
    reduction,
    standardization,
)


def array(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_vectors_that_are_left_as_they_are_come_as_a_copy():
    vectors = np.ones((2, 3), dtype=np.float32)
    assert reduction(vectors, None) == {}
    copy = prepared(vectors, {})
    copy += 1
    assert vectors.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_reduction_keeps_the_direction_that_varies():
    along = np.array([-3.0, -1.0, 1.0, 3.0], dtype=np.float32)
    vectors = np.stack([7 + 0.6 * along, 0.8 * along, np.zeros(4, dtype=np.float32)], axis=1)
    weights = reduction(vectors, 1)
    assert {name: array.dtype for name, array in weights.items()} == {
        "pca_components": np.float32, "pca_mean": np.float32,
    }  # fmt: skip
    np.testing.assert_allclose(weights["pca_mean"], [7, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(weights["pca_components"]), [[0.6, 0.8, 0]], atol=1e-5)
    components = prepared(vectors, weights)
    assert components.dtype == np.float32
    assert components.shape == (4, 1)
    np.testing.assert_allclose(np.abs(components[:, 0]), np.abs(along), rtol=1e-5)
    # A vector that was not there when the direction was found: 5 along it, and 2 beside it.
    new = prepared(array([7 + 3, 4, 2]), weights)
    assert abs(float(new[0, 0])) == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_a_reduction_to_more_than_there_is(shape):
    vectors = np.zeros(shape, dtype=np.float32)
    assert prepared(vectors, reduction(vectors, 3)).shape == (shape[0], 2)


def test_standardization_by_hand():
    vectors = array([0, 10], [4, 10])
    weights = standardization(vectors)
    # Centred: (-2, 0), (2, 0); root mean square of the four numbers: sqrt(8 / 4).
    assert weights["mean"].tolist() == [2, 10]
    assert weights["scale"].tolist() == pytest.approx([2**0.5])
    np.testing.assert_allclose(prepared(vectors, weights), [[-(2**0.5), 0], [2**0.5, 0]])
    assert vectors.tolist() == [[0, 10], [4, 10]]
    np.testing.assert_allclose(prepared(array([2, 12]), weights), [[0, 2**0.5]])


def test_equal_vectors_stay_finite():
    vectors = np.full((3, 2), 7, dtype=np.float32)
    assert prepared(vectors, standardization(vectors)).tolist() == [[0, 0]] * 3


def test_both_at_once_are_one_after_the_other():
    weights = {
        "pca_components": array([0, 1]), "pca_mean": np.array([3, 4], np.float32),
        "mean": np.array([1], np.float32), "scale": np.array([2], np.float32),
    }  # fmt: skip
    # Height 9 above 4 is 5; 1 off, in units of 2.
    assert prepared(array([-8, 9]), weights).tolist() == [[2]]


@pytest.mark.parametrize(
    ("reduce", "standardize", "shapes", "dim"),
    [
        (False, False, {}, 5),
        (True, False, {"pca_components": (3, 5), "pca_mean": (5,)}, 3),
        (False, True, {"mean": (5,), "scale": (1,)}, 5),
        (True, True,
         {"pca_components": (3, 5), "pca_mean": (5,), "mean": (3,), "scale": (1,)}, 3),
    ],
)  # fmt: skip
def test_shapes_of_what_is_needed(reduce, standardize, shapes, dim):
    weights = {"pca_components": np.zeros((3, 5), np.float32)} if reduce else {}
    assert preparation_shapes(5, weights, reduce, standardize) == (shapes, dim)


@pytest.mark.parametrize(
    ("name", "value"), [("reduce_dim", 0), ("collapse_below", -0.1), ("collapse_below", 1.1)]
)
def test_bounds(name, value):
    good = {"levels": 1, "codebook_size": 2, "reduce_dim": None, "collapse_below": 0.1}
    with pytest.raises(InputError, match=f"tokenizer_{name}"):
        VectorSettings(**{**good, name: value})
