"""OPQ: parallel codes by optimised product quantisation, as DiffGRM (arXiv 2510.21805) and RPG
(arXiv 2506.05781) make them of item texts.

The algorithm is that of Ge et al. (CVPR 2013), see :mod:`~recbole_sid.tokenizer.rotation`. Both
papers use FAISS, whose codebooks have 2^b codes; here they may have any number, any catalogue is
large enough, and the seed decides all that is random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from recbole_sid.settings import require
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer, logger
from recbole_sid.tokenizer.blocks import in_blocks, product
from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed
from recbole_sid.tokenizer.kmeans import kmeans, nearest_codes
from recbole_sid.tokenizer.rotation import optimised_rotation
from recbole_sid.tokenizer.stored_weights import length, require_input_dim, require_shapes
from recbole_sid.tokenizer.vectors import VectorSettings, reduction

COLLAPSE_REMEDY = (
    "look at the item vectors (many nearly equal texts?), lower tokenizer_codebook_size, or raise "
    "tokenizer_restarts"
)


_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class OPQSettings(VectorSettings):
    """Settings of :class:`OPQ`."""

    whiten: bool
    normalize: bool
    rotation_steps: int
    rotation_sample: int
    restarts: int
    iterations: int
    minibatch_above: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.rotation_steps >= 0,
            "tokenizer_rotation_steps",
            self.rotation_steps,
            "0 (no rotation) or more",
        )
        for name in ("rotation_sample", "restarts", "iterations", "minibatch_above"):
            value = vars(self)[name]
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")


class OPQ(Tokenizer[OPQSettings]):
    """Code l is the nearest centroid to part l of the item's rotated vector.

    The vectors are centred and brought to their principal components (``reduce_dim``, ``whiten``),
    divided by their lengths (``normalize``, as DiffGRM's released tokenizer does), rotated so that
    the codes lose the least, and cut into as many parts of equal width as there are levels, each
    with a k-means of its own. Where the components do not divide into the levels, zeros fill them
    up before the rotation. An item at the mean has no direction, and stays there.

    With fewer items than codes a level has fewer centroids than codes; the vector of a code without
    one is zero.
    """

    Settings: ClassVar[type] = OPQSettings
    name: ClassVar[str] = "opq"
    needs_vectors: ClassVar[bool] = True
    can_assign: ClassVar[bool] = True
    collapse_remedy: ClassVar[str] = COLLAPSE_REMEDY
    parallel: ClassVar[bool] = True

    def fit_sorted(self, items: Items) -> BaseCodes:
        assert items.vectors is not None
        settings, sizes = self.settings, self.settings.sizes
        rng = np.random.RandomState(self.seed)
        with threadpool_limits(1):
            weights, errors = self._projection(items.vectors, rng)
        parts = _parts(items.vectors, weights, settings.levels)  # (n, L, w)
        for level, size in enumerate(sizes):
            weights[_book(level)] = kmeans(
                np.ascontiguousarray(parts[:, level]),
                size,
                restarts=settings.restarts,
                iterations=settings.iterations,
                minibatch_above=settings.minibatch_above,
                rng=rng,
            ).centroids
        codes, space, error = self._quantized(parts, weights)
        use = code_use(codes, sizes)
        logger.info("opq: squared error %.5g, %s", error, describe(use))
        warn_if_collapsed(use, sizes, len(codes), settings.collapse_below, COLLAPSE_REMEDY)
        report = {"rotation": errors, "error": error, **use}
        return BaseCodes(codes, sizes, report, space, None, weights)

    def assigned(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        assert items.vectors is not None
        self._check(items.vectors, weights)
        parts = _parts(items.vectors, weights, self.settings.levels)
        codes, space, error = self._quantized(parts, weights)
        report = {"error": error, **code_use(codes, self.settings.sizes)}
        return BaseCodes(codes, self.settings.sizes, report, space)

    def _projection(
        self, vectors: np.ndarray, rng: np.random.RandomState
    ) -> tuple[dict[str, np.ndarray], list[float]]:
        """Weights ``projection`` (k, d) and ``mean`` (d,), with ``normalize`` the ``shortest``
        length (1,) that a direction is told by, and the errors of the rotation's steps.

        One matrix holds the principal components, their scale, the zeros and the rotation, which
        leaves lengths as they are: what is projected is normalised.
        """
        settings = self.settings
        found = reduction(vectors, settings.reduce_dim or vectors.shape[1])
        components, mean = found["pca_components"], found["pca_mean"]
        rows = np.sort(rng.permutation(len(vectors))[: settings.rotation_sample])
        sample = (vectors[rows] - mean) @ components.T  # (s, k)
        if settings.whiten:
            deviations = np.sqrt(np.square(sample, dtype=np.float64).mean(axis=0))
            # Components that vary by rounding alone, as of equal vectors, stay as they are.
            varies = deviations > deviations.max() * np.sqrt(np.finfo(np.float32).eps)
            scale = np.where(varies, deviations, 1).astype(np.float32)
            components, sample = components / scale[:, None], sample / scale
        weights = {"mean": mean}
        if settings.normalize:
            # What is nearer to the mean than this is there but for rounding.
            usual = np.sqrt(np.square(sample, dtype=np.float64).sum(axis=1).mean())
            shortest = np.float32(usual * np.sqrt(np.finfo(np.float32).eps))
            weights["shortest"] = np.full(1, max(shortest, _TINY), np.float32)
            sample = _normalized(sample, weights["shortest"])
        missing = -len(components) % settings.levels
        components = np.pad(components, ((0, missing), (0, 0)))
        if settings.rotation_steps == 0:
            return {**weights, "projection": components}, []
        rotation, errors = optimised_rotation(
            np.pad(sample, ((0, 0), (0, missing))),
            settings.sizes,
            settings.rotation_steps,
            rng,
            progress=self.progress,
        )
        return {**weights, "projection": rotation.T @ components}, errors

    def _quantized(
        self, parts: np.ndarray, weights: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, CodeSpace, float]:
        """Codes int32 (n, L) of ``parts`` (n, L, w), their space, and the mean squared error."""
        sizes = self.settings.sizes
        codes = np.empty(parts.shape[:2], dtype=np.int32)
        error = 0.0
        books = [weights[_book(level)] for level in range(len(sizes))]
        for level, book in enumerate(books):
            codes[:, level] = nearest_codes(parts[:, level], book)
            left = parts[:, level] - book[codes[:, level]]
            error += float(np.square(left, dtype=np.float64).sum(axis=1).mean())
        return codes, _space(parts, books, sizes), error

    def _check(self, vectors: np.ndarray, weights: Mapping[str, np.ndarray]) -> None:
        require_input_dim(vectors, weights, "projection")
        input_dim, n_levels = vectors.shape[1], self.settings.levels
        most = min(self.settings.reduce_dim or input_dim, input_dim)
        # A small catalogue has fewer components than the settings ask for, and fewer centroids.
        dim = min(length(weights, "projection", 0, most), most + -most % n_levels)
        dim += -dim % n_levels
        shapes = {"projection": (dim, input_dim), "mean": (input_dim,)}
        if self.settings.normalize:
            shapes["shortest"] = (1,)
        for level, size in enumerate(self.settings.sizes):
            name = _book(level)
            shapes[name] = (min(size, max(1, length(weights, name, 0, size))), dim // n_levels)
        require_shapes(weights, shapes)


def _book(level: int) -> str:
    return f"codebook_{level + 1}"


def _parts(vectors: np.ndarray, weights: Mapping[str, np.ndarray], n_levels: int) -> np.ndarray:
    """``vectors`` (n, d) rotated, normalised if the fit's were, and cut, float32 (n, L, w)."""
    projection, mean = weights["projection"].T, weights["mean"]
    with threadpool_limits(1):
        (points,) = in_blocks(lambda block: (product(block - mean, projection),), vectors)
    if "shortest" in weights:
        points = _normalized(points, weights["shortest"])
    return points.reshape(len(points), n_levels, -1)


def _normalized(points: np.ndarray, shortest: np.ndarray) -> np.ndarray:
    """``points`` (n, k) divided by their lengths, or by ``shortest`` (1,) where it is longer."""
    lengths = np.sqrt(np.square(points).sum(axis=1, keepdims=True))
    return points / np.maximum(lengths, shortest)


def _space(parts: np.ndarray, books: list[np.ndarray], sizes: tuple[int, ...]) -> CodeSpace:
    """The squared distance of part x to centroid e as the parallel space's -(h · w).

    h = (2x, -||x||², -1) and w = (e, 1, ||e||²).
    """
    squares = np.square(parts).sum(axis=2, keepdims=True)  # (n, L, 1)
    latents = np.concatenate([2 * parts, -squares, np.full_like(squares, -1)], axis=2)
    padded = (
        np.pad(book, ((0, size - len(book)), (0, 0)))
        for book, size in zip(books, sizes, strict=True)
    )
    codebooks = tuple(
        np.column_stack([book, np.ones(len(book), np.float32), np.square(book).sum(axis=1)])
        for book in padded
    )
    return CodeSpace(latents, codebooks, residual=False)
