from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.vectors import VectorSettings, reduced, standardized


def test_vectors_that_are_not_reduced_are_a_copy():
    vectors = np.ones((2, 3), dtype=np.float32)
    copy = reduced(vectors, None)
    copy += 1
    assert vectors.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_reduced_keeps_the_direction_that_varies():
    along = np.array([-3.0, -1.0, 1.0, 3.0], dtype=np.float32)
    vectors = np.stack([0.6 * along, 0.8 * along, np.zeros(4, dtype=np.float32)], axis=1)
    components = reduced(vectors, 1)
    assert components.dtype == np.float32
    assert components.shape == (4, 1)
    np.testing.assert_allclose(np.abs(components[:, 0]), np.abs(along), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_reduced_to_more_than_there_is(shape):
    assert reduced(np.zeros(shape, dtype=np.float32), 3).shape == (shape[0], 2)


def test_standardized_by_hand():
    vectors = np.array([[0, 10], [4, 10]], dtype=np.float32)
    # Centred: (-2, 0), (2, 0); root mean square of the four numbers: sqrt(8 / 4).
    np.testing.assert_allclose(standardized(vectors), [[-(2**0.5), 0], [2**0.5, 0]])
    assert vectors.tolist() == [[0, 10], [4, 10]]


def test_equal_vectors_stay_finite():
    assert standardized(np.full((3, 2), 7, dtype=np.float32)).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(
    ("name", "value"), [("reduce_dim", 0), ("collapse_below", -0.1), ("collapse_below", 1.1)]
)
def test_bounds(name, value):
    good = {"levels": 1, "codebook_size": 2, "reduce_dim": None, "collapse_below": 0.1}
    with pytest.raises(InputError, match=f"tokenizer_{name}"):
        VectorSettings(**{**good, name: value})
