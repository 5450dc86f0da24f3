from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.tokenizer.equal_clusters import Partners, equal_clusters

CPU = torch.device("cpu")


def rng(seed: int = 0) -> np.random.RandomState:
    return np.random.RandomState(seed)


def test_clusters_that_are_there_are_found():
    centres = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    points = np.repeat(centres, 4, axis=0) + rng().randn(12, 2).astype(np.float32)
    found = equal_clusters(points, 3, rng())
    assert [len(set(found[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert len(set(found)) == 3


def test_a_crowd_is_shared_out_at_the_least_cost():
    # Five points near 0 and one at 10: the two of the crowd nearest to 10 join it.
    points = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [10]], np.float32)
    found = equal_clusters(points, 2, rng())
    assert set(np.flatnonzero(found == found[5])) == {3, 4, 5}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.data())
def test_sizes_differ_by_one_at_most(n: int, data: st.DataObject):
    clusters = data.draw(st.integers(1, n))
    points = rng(data.draw(st.integers(0, 9))).randn(n, 3).astype(np.float32)
    sizes = np.bincount(equal_clusters(points, clusters, rng()), minlength=clusters)
    assert len(sizes) == clusters
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() == n // clusters


def test_no_other_sharing_is_cheaper_for_the_centroids():
    points = rng(3).randn(6, 2).astype(np.float32)
    found = equal_clusters(points, 3, rng())
    centroids = np.stack([points[found == cluster].mean(axis=0) for cluster in range(3)])
    costs = np.square(points[:, None] - centroids).sum(axis=2)
    mine = costs[np.arange(6), found].sum()
    others = [costs[np.arange(6), list(p)].sum() for p in permutations([0, 0, 1, 1, 2, 2])]
    assert mine == pytest.approx(min(others), abs=1e-5)


def test_equal_points_are_parted_too():
    sizes = np.bincount(equal_clusters(np.ones((10, 2), np.float32), 3, rng()))
    assert sorted(sizes) == [3, 3, 4]


def test_partners_are_the_others_of_the_cluster_equally_often():
    partners = Partners(np.array([1, 0, 1, 2, 1, 0]), CPU)
    torch.manual_seed(0)
    drawn = torch.stack([partners.drawn(torch.arange(6)) for _ in range(3000)])
    for code, expected in enumerate([[2, 4], [5], [0, 4], [-1], [0, 2], [1]]):
        found, counts = drawn[:, code].unique(return_counts=True)
        assert found.tolist() == expected
        assert (counts / 3000).tolist() == pytest.approx([1 / len(expected)] * len(found), abs=0.04)
