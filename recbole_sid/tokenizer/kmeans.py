"""k-means whose result depends on the seed and not on the number of threads."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from recbole_sid.tokenizer.blocks import in_blocks, product

MINIBATCH_ROWS = 16_384


class Clusters(NamedTuple):
    """Result of :func:`kmeans`.

    Attributes:
        centroids: float32 (k, d) with k = min(clusters asked for, n).
        codes: int32 (n,), the centroid nearest to each point.
        inertia: sum of the squared distances from the points to their centroids.
    """

    centroids: np.ndarray
    codes: np.ndarray
    inertia: float


def kmeans(
    points: np.ndarray,
    clusters: int,
    *,
    restarts: int,
    iterations: int,
    minibatch_above: int,
    rng: np.random.RandomState,
) -> Clusters:
    """Cluster ``points`` (n, d) float32 from k-means++ starts (Arthur and Vassilvitskii, 2007).

    With fewer distinct points than clusters only that many clusters get points: compare the
    number of distinct ``codes`` with ``clusters``.

    Args:
        restarts: starts tried; the one of least inertia is kept.
        iterations: passes over the points at most.
        minibatch_above: above this number of points mini-batches are used: much faster and smaller
            in memory, a few per cent more inertia.
    """
    k = min(clusters, len(points))
    model: KMeans | MiniBatchKMeans
    if len(points) > minibatch_above:
        model = MiniBatchKMeans(
            k,
            n_init=restarts,
            max_iter=iterations,
            batch_size=max(MINIBATCH_ROWS, 4 * k),
            random_state=rng,
        )
    else:
        model = KMeans(k, n_init=restarts, max_iter=iterations, random_state=rng)
    # Threads add float32 numbers in the order they finish in: one thread is reproducible.
    with threadpool_limits(1), warnings.catch_warnings():
        # sklearn's warning of duplicate points; callers report unused codes in the user's terms.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(points)
    return Clusters(
        model.cluster_centers_.astype(np.float32),
        model.labels_.astype(np.int32),
        float(model.inertia_),
    )


def nearest_codes(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The codes int32 (n,) of the centroids (K, d) nearest to ``points`` (n, d)."""
    # ||x||² is the same for every centroid of a row.
    squares = np.square(centroids).sum(axis=1)

    def nearest(block: np.ndarray) -> tuple[np.ndarray]:
        return ((squares - 2 * product(block, centroids.T)).argmin(axis=1).astype(np.int32),)

    with threadpool_limits(1):
        (codes,) = in_blocks(nearest, points)
    return codes
