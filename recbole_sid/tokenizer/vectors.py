"""Item vectors made ready for a tokenizer: fewer dimensions, a common scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from recbole_sid.settings import require
from recbole_sid.tokenizer.base import LevelSettings
from recbole_sid.tokenizer.blocks import product
from recbole_sid.tokenizer.stored_weights import Shape, length


@dataclass(frozen=True)
class VectorSettings(LevelSettings):
    """What tokenizers of item vectors have in common."""

    reduce_dim: int | None
    collapse_below: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.reduce_dim is None or self.reduce_dim >= 1,
            "tokenizer_reduce_dim",
            self.reduce_dim,
            "at least 1, or empty (~)",
        )
        require(
            0 <= self.collapse_below <= 1,
            "tokenizer_collapse_below",
            self.collapse_below,
            "0 to 1",
        )


def reduction(vectors: np.ndarray, dim: int | None) -> dict[str, np.ndarray]:
    """The first ``dim`` principal components of ``vectors`` (n, d), at most k = min(n, d) of them.

    Returns:
        Weights for :func:`prepared`: ``pca_components`` (k, d) and ``pca_mean`` (d,), float32;
        none with ``dim`` None.
    """
    if dim is None:
        return {}
    dim = min(dim, *vectors.shape)
    # This solver is deterministic, and its cost is linear in the number of items.
    found = PCA(n_components=dim, svd_solver="covariance_eigh").fit(vectors)
    return {
        "pca_components": found.components_.astype(np.float32),
        "pca_mean": found.mean_.astype(np.float32),
    }


def standardization(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """What brings every dimension's mean to 0, and divides all ``vectors`` (n, d) by one number.

    The squared length of a vector is then d on average. Ratios of distances stay as they are.

    Returns:
        Weights for :func:`prepared`: ``mean`` (d,) and ``scale`` (1,), float32.
    """
    mean = vectors.mean(axis=0)
    scale = np.float32(np.sqrt(np.square(vectors - mean, dtype=np.float64).mean()))
    return {"mean": mean, "scale": np.full(1, scale if scale > 0 else 1, np.float32)}


def prepared(vectors: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """``vectors`` (n, d) float32 reduced and standardised, each as far as ``weights`` say.

    Returns:
        float32 (n, k), a new array.
    """
    if "pca_components" in weights:
        components = weights["pca_components"].T  # (d, k)
        vectors = product(vectors, components) - weights["pca_mean"] @ components
    if "scale" in weights:
        return (vectors - weights["mean"]) / weights["scale"]
    return vectors.copy()


def preparation_shapes(
    input_dim: int, weights: Mapping[str, np.ndarray], reduce: bool, standardize: bool
) -> tuple[dict[str, Shape], int]:
    """The weights that :func:`prepared` needs for vectors of ``input_dim`` dimensions.

    Returns:
        Their names and shapes, and the dimensions of what it gives: as many as ``weights`` have
        components, since a small catalogue has fewer than the settings ask for.
    """
    shapes: dict[str, Shape] = {}
    dim = input_dim
    if reduce:
        dim = length(weights, "pca_components", 0, input_dim)
        shapes = {"pca_components": (dim, input_dim), "pca_mean": (input_dim,)}
    if standardize:
        shapes |= {"mean": (dim,), "scale": (1,)}
    return shapes, dim
