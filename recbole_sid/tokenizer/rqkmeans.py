"""Residual k-means: every level clusters what the levels before it left over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from recbole_sid.settings import require
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger
from recbole_sid.tokenizer.blocks import in_blocks
from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed
from recbole_sid.tokenizer.kmeans import kmeans, nearest_codes
from recbole_sid.tokenizer.stored_weights import length, require_input_dim, require_shapes
from recbole_sid.tokenizer.vectors import (
    VectorSettings,
    preparation_shapes,
    prepared,
    reduction,
)

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
    name: ClassVar[str] = "rqkmeans"
    needs_vectors: ClassVar[bool] = True
    can_assign: ClassVar[bool] = True
    collapse_remedy: ClassVar[str] = COLLAPSE_REMEDY

    def fit_sorted(self, items: Items) -> BaseCodes:
        assert items.vectors is not None
        settings, sizes = self.settings, self.settings.sizes
        weights = reduction(items.vectors, settings.reduce_dim)
        points = _points(items.vectors, weights)  # (n, d)
        residuals = points.copy()
        rng = np.random.RandomState(self.seed)
        codes = np.empty((len(residuals), settings.levels), dtype=np.int32)
        codebooks = []
        errors = [_mean_square(residuals)]
        bar = tqdm(sizes, desc="rqkmeans levels", disable=not self.progress)
        for level, size in enumerate(bar):
            centroids = kmeans(
                residuals,
                size,
                restarts=settings.restarts,
                iterations=settings.iterations,
                minibatch_above=settings.minibatch_above,
                rng=rng,
            ).centroids
            codebooks.append(centroids)
            # k-means' own codes are rounded in another way than those of new items will be.
            codes[:, level] = _take_nearest(residuals, centroids)
            errors.append(_mean_square(residuals))
            n_used = len(np.unique(codes[:, level]))
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
        weights |= {_book(level): book for level, book in enumerate(codebooks)}
        report = {"residual": errors, **use}
        return BaseCodes(codes, sizes, report, self._space(points, codebooks), None, weights)

    def assigned(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        assert items.vectors is not None
        self._check(items.vectors, weights)
        sizes = self.settings.sizes
        codebooks = [weights[_book(level)] for level in range(len(sizes))]
        points = _points(items.vectors, weights)
        residuals = points.copy()
        codes = [_take_nearest(residuals, book) for book in codebooks]
        stacked = np.stack(codes, axis=1)
        return BaseCodes(
            stacked, sizes, dict(code_use(stacked, sizes)), self._space(points, codebooks)
        )

    def _check(self, vectors: np.ndarray, weights: Mapping[str, np.ndarray]) -> None:
        require_input_dim(vectors, weights, _book(0))
        shapes, dim = preparation_shapes(
            vectors.shape[1], weights, self.settings.reduce_dim is not None, False
        )
        for level, size in enumerate(self.settings.sizes):
            name = _book(level)
            # A small catalogue leaves codes without a centroid.
            shapes[name] = (min(size, max(1, length(weights, name, 0, size))), dim)
        require_shapes(weights, shapes)

    def _space(self, points: np.ndarray, codebooks: Sequence[np.ndarray]) -> CodeSpace:
        books = (
            np.pad(book, ((0, size - len(book)), (0, 0)))
            for book, size in zip(codebooks, self.settings.sizes, strict=True)
        )
        return CodeSpace(points, tuple(books), residual=True)


def _book(level: int) -> str:
    return f"codebook_{level + 1}"


def _points(vectors: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """``vectors`` (n, D) as k-means sees them, float32 (n, d), a new array."""
    with threadpool_limits(1):
        (points,) = in_blocks(lambda block: (prepared(block, weights),), vectors)
    return points


def _take_nearest(residuals: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The codes int32 (n,) of the nearest centroids, which are taken off ``residuals`` in place."""
    codes = nearest_codes(residuals, centroids)
    residuals -= centroids[codes]
    return codes


def _mean_square(residuals: np.ndarray) -> float:
    """Mean over items of the squared length of (n, d) residuals."""
    return float(np.square(residuals, dtype=np.float64).sum(axis=1).mean())
