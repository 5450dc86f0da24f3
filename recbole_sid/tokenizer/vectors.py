"""Item vectors made ready for a tokenizer: fewer dimensions, a common scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from recbole_sid.settings import require
from recbole_sid.tokenizer.base import LevelSettings


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


def reduced(vectors: np.ndarray, dim: int | None) -> np.ndarray:
    """The first ``dim`` principal components of ``vectors`` (n, d), at most min(n, d) of them.

    Returns:
        float32, a new array; with ``dim`` None the vectors as they are.
    """
    if dim is None:
        return vectors.astype(np.float32)
    dim = min(dim, *vectors.shape)
    # This solver is deterministic, and its cost is linear in the number of items.
    components = PCA(n_components=dim, svd_solver="covariance_eigh").fit_transform(vectors)
    return components.astype(np.float32)


def standardized(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d) float32 with every dimension's mean at 0, all divided by one number.

    The squared length of a vector is then d on average. Ratios of distances stay as they are.
    """
    centred = vectors - vectors.mean(axis=0)
    scale = np.sqrt(np.square(centred, dtype=np.float64).mean())
    return centred / np.float32(scale) if scale > 0 else centred
