"""The rotation of optimised product quantisation: T. Ge, K. He, Q. Ke and J. Sun, "Optimized
Product Quantization for Approximate Nearest Neighbor Search" (CVPR 2013)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from tqdm import tqdm


def optimised_rotation(
    points: np.ndarray,
    sizes: Sequence[int],
    steps: int,
    rng: np.random.RandomState,
    *,
    progress: bool,
) -> tuple[np.ndarray, list[float]]:
    """The non-parametric solution, section 3.1: rotation and codebooks in turn.

    A step gives each part of the rotated points one iteration of k-means, Y its reconstruction, and
    then solves for the rotation R of least ||X R - Y||²: with XᵀY = U S Vᵀ it is U Vᵀ. The start is
    a random rotation, as in FAISS; the authors' start, which shares out principal components by
    their variances (section 3.2), ended worse with 16 parts, and means nothing after whitening.

    Args:
        points: X float32 (n, d), d a multiple of the number of parts.
        sizes: codes of each part.
        steps: 1 or more.
        rng: for the start, and the points that the codebooks start at.

    Returns:
        float32 (d, d), orthogonal, and the mean squared error of each step before its rotation.
    """
    n_points, dim = points.shape
    width = dim // len(sizes)
    rotation = np.linalg.qr(rng.randn(dim, dim))[0].astype(np.float32)
    rotated = points @ rotation
    books = [
        rotated[rng.permutation(n_points)[:size], part * width : (part + 1) * width]
        for part, size in enumerate(sizes)
    ]
    errors = []
    for _ in tqdm(range(steps), desc="opq rotation", disable=not progress):
        made = np.empty_like(rotated)  # Y (n, d)
        for part, book in enumerate(books):
            block = slice(part * width, (part + 1) * width)
            made[:, block] = _iterated(rotated[:, block], book)
        errors.append(float(np.square(rotated - made, dtype=np.float64).sum(axis=1).mean()))
        left, _, right = np.linalg.svd((points.T @ made).astype(np.float64))
        rotation = (left @ right).astype(np.float32)
        rotated = points @ rotation
    return rotation, errors


def _iterated(points: np.ndarray, book: np.ndarray) -> np.ndarray:
    """One iteration of k-means: ``book`` (K, w) moves in place; gives its vector for each point."""
    # ||x||² is the same for every code of a row.
    distances = np.square(book).sum(axis=1) - 2 * (points @ book.T)  # (n, K)
    codes = distances.argmin(axis=1)
    chosen = sparse.csr_array(
        (np.ones(len(codes), np.float32), (codes, np.arange(len(codes)))),
        shape=(len(book), len(codes)),
    )
    counts = np.bincount(codes, minlength=len(book))
    used = counts > 0
    book[used] = (chosen @ points)[used] / counts[used, None]
    return book[codes]
