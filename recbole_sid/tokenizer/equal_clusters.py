"""Clusters of equal size: constrained k-means, and partners drawn inside a cluster."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from recbole_sid.tokenizer.kmeans import kmeans

START_ITERATIONS = 20
# Assignments seldom change after the first few.
ITERATIONS = 10


def equal_clusters(points: np.ndarray, clusters: int, rng: np.random.RandomState) -> np.ndarray:
    """Part ``points`` into clusters of ⌊n / clusters⌋ or one more, near in squared distance.

    k-means, in which every step of assignment is a transport problem solved exactly: each centroid
    stands there as often as its cluster has members. Time grows as n³ at worst: for the codes of a
    codebook, not for items.

    Args:
        points: float32 (n, d).
        clusters: 1 to n.
        rng: for the k-means++ start.

    Returns:
        int64 (n,), the cluster of each point.
    """
    start = kmeans(
        points,
        clusters,
        restarts=1,
        iterations=START_ITERATIONS,
        minibatch_above=len(points),
        rng=rng,
    )
    centroids = start.centroids.astype(np.float64)
    # The clusters with one member more are those that k-means makes large.
    largest_first = np.argsort(-np.bincount(start.codes, minlength=clusters), kind="stable")
    sizes = np.full(clusters, len(points) // clusters)
    sizes[largest_first[: len(points) % clusters]] += 1
    places = np.repeat(np.arange(clusters), sizes)  # (n,)
    found = np.full(len(points), -1)
    for _ in range(ITERATIONS):
        before = found
        # ||x||² is the same for every place of a point.
        costs = np.square(centroids).sum(axis=1) - 2 * points @ centroids.T  # (n, clusters)
        _, chosen = linear_sum_assignment(costs[:, places])
        found = places[chosen]
        if np.array_equal(found, before):
            break
        centroids = np.zeros_like(centroids)
        np.add.at(centroids, found, points)
        centroids /= sizes[:, None]
    return found


class Partners:
    """Draws for a code another one of its cluster, each equally likely."""

    def __init__(self, clusters: np.ndarray, device: torch.device) -> None:
        """
        Args:
            clusters: int (K,), the cluster of each code, as :func:`equal_clusters` gives them.
        """
        order = np.argsort(clusters, kind="stable")
        place = np.argsort(order)
        sizes = np.bincount(clusters)
        start = (np.cumsum(sizes) - sizes)[clusters]
        self._order = torch.from_numpy(order).to(device)  # the codes, cluster after cluster
        self._start = torch.from_numpy(start).to(device)  # (K,), where a code's cluster begins
        self._place = torch.from_numpy(place - start).to(device)  # (K,), place of a code in it
        self._size = torch.from_numpy(sizes[clusters]).to(device)  # (K,)

    def drawn(self, codes: Tensor) -> Tensor:
        """A partner for each of ``codes`` (B,); -1 where a code is alone. Uses torch's numbers."""
        size = self._size[codes]
        others = (size - 1).clamp(min=1)
        which = torch.rand(len(codes), dtype=torch.float64, device=codes.device) * others
        place = (self._place[codes] + 1 + which.long()) % size
        return torch.where(size > 1, self._order[self._start[codes] + place], -1)
