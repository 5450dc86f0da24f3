"""Residual k-means: every level clusters what the levels before it left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from recbole_sid.settings import require
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger
from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed
from recbole_sid.tokenizer.kmeans import kmeans
from recbole_sid.tokenizer.vectors import VectorSettings, reduced

COLLAPSE_REMEDY = (
    "look at the item vectors (many nearly equal texts?), lower tokenizer_codebook_size, or raise "
    "tokenizer_restarts"
)


@dataclass(frozen=True)
class RQKMeansSettings(VectorSettings):
    """Settings of :class:`RQKMeans`."""

    restarts: int
    iterations: int
    minibatch_above: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("restarts", "iterations", "minibatch_above"):
            value = vars(self)[name]
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")


class RQKMeans(Tokenizer[RQKMeansSettings]):
    """Level 1 clusters the vectors, level l the differences to the centroids of level l - 1.

    The clusters of level l run over the residuals of all items together, not once inside each
    cluster of the level before.

    With fewer items than codes a level has fewer centroids than codes; the vector of a code without
    one is zero.
    """

    Settings: ClassVar[type] = RQKMeansSettings
    needs_vectors: ClassVar[bool] = True

    def fit_sorted(self, items: Items) -> BaseCodes:
        assert items.vectors is not None
        settings, sizes = self.settings, self.settings.sizes
        points = reduced(items.vectors, settings.reduce_dim)  # (n, d)
        residuals = points.copy()
        rng = np.random.RandomState(self.seed)
        codes = np.empty((len(residuals), settings.levels), dtype=np.int32)
        codebooks = []
        errors = [_mean_square(residuals)]
        bar = tqdm(sizes, desc="rqkmeans levels", disable=not self.progress)
        for level, size in enumerate(bar):
            found = kmeans(
                residuals,
                size,
                restarts=settings.restarts,
                iterations=settings.iterations,
                minibatch_above=settings.minibatch_above,
                rng=rng,
            )
            codes[:, level] = found.codes
            codebooks.append(np.pad(found.centroids, ((0, size - len(found.centroids)), (0, 0))))
            residuals -= found.centroids[found.codes]
            errors.append(_mean_square(residuals))
            n_used = len(np.unique(found.codes))
            use = code_use(codes[:, : level + 1], sizes[: level + 1])
            logger.info(
                "rqkmeans level %d: residual %.5g, %s", level + 1, errors[-1], describe(use)
            )
            if n_used < size:
                logger.warning(
                    "level %d uses %d of its %d codes: no more distinct residuals are left among "
                    "%d items. A smaller tokenizer_codebook_size or fewer tokenizer_levels lose "
                    "nothing",
                    level + 1,
                    n_used,
                    size,
                    len(codes),
                )
        warn_if_collapsed(use, sizes, len(codes), settings.collapse_below, COLLAPSE_REMEDY)
        space = CodeSpace(points, tuple(codebooks), residual=True)
        return BaseCodes(codes, sizes, {"residual": errors, **use}, space)


def _mean_square(residuals: np.ndarray) -> float:
    """Mean over items of the squared length of (n, d) residuals."""
    return float(np.square(residuals, dtype=np.float64).sum(axis=1).mean())
