from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.tokenizer.kmeans import kmeans


def mixture(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points close to one of four corners of a square of side 10, and their corners."""
    rng = np.random.RandomState(seed)
    corners = rng.randint(4, size=n)
    centres = np.array([[0, 0], [0, 10], [10, 0], [10, 10]])
    return (centres[corners] + rng.uniform(-1, 1, (n, 2))).astype(np.float32), corners


@pytest.mark.parametrize("minibatch_above", [100, 1_000])
def test_separate_clusters_are_found(minibatch_above):
    points, corners = mixture(400)
    found = kmeans(
        points,
        4,
        restarts=3,
        iterations=50,
        minibatch_above=minibatch_above,
        rng=np.random.RandomState(0),
    )
    pairs = set(zip(corners.tolist(), found.codes.tolist(), strict=True))
    assert len(pairs) == 4
    assert found.codes.dtype == np.int32
    assert found.centroids.dtype == np.float32
    error = np.square(points - found.centroids[found.codes]).sum()
    assert found.inertia == pytest.approx(error, rel=1e-3)


def test_centroids_are_means():
    points = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], dtype=np.float32)
    rng = np.random.RandomState(0)
    found = kmeans(points, 2, restarts=5, iterations=50, minibatch_above=99, rng=rng)
    assert sorted(found.centroids.tolist()) == [[0, 1], [10, 1]]
    assert found.inertia == pytest.approx(4.0)


@pytest.mark.filterwarnings("error")
def test_more_clusters_than_distinct_points():
    points = np.array([[1, 1]] * 5 + [[2, 2]] * 5, dtype=np.float32)
    rng = np.random.RandomState(0)
    found = kmeans(points, 4, restarts=2, iterations=10, minibatch_above=99, rng=rng)
    assert len(found.centroids) == 4
    assert len(np.unique(found.codes)) == 2
    assert found.inertia == pytest.approx(0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("minibatch_above", [1, 99])
def test_more_clusters_than_points(minibatch_above):
    points = np.array([[1, 1], [2, 2], [3, 3]], dtype=np.float32)
    rng = np.random.RandomState(0)
    found = kmeans(points, 8, restarts=2, iterations=10, minibatch_above=minibatch_above, rng=rng)
    assert len(found.centroids) == 3
    assert sorted(found.codes.tolist()) == [0, 1, 2]
