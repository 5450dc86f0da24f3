"""What every item would pay for every code: the vectors that a tokenizer chose its codes by.

The rules in ``reassign`` move items to the cheapest other codes, and read the prices here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from recbole_sid import seals
from recbole_sid.errors import InputError, preview
from recbole_sid.sid import files

FORMATS = {True: "recbole-sid-space residual", False: "recbole-sid-space parallel"}
# Squares of numbers up to this one, and sums of many such, fit into float32.
MAX_NUMBER = 1e15
ROWS = 4_096  # items whose vectors are held at one time: they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class CodeSpace:
    """Item vectors and code vectors.

    In a residual space an item pays the squared distance that is left:

        cost of code k after the prefix c_1 … c_{l-1} = ||z - Σ_{m<l} e_m[c_m] - e_l[k]||²,

    so the cost of a code of the last level is the whole quantisation error. In a parallel space
    every level looks at the item on its own, and the cost is minus the logit: -(h_l · w_l[k]).

    Attributes:
        latents: float32 (n, d) z of each item, residual; or (n, L, d) h of each level, parallel.
        codebooks: L arrays float32 (K_l, d), a vector a code.
        residual: which of the two.

    Raises:
        InputError: shapes or types that do not fit, or numbers that are not finite or beyond 1e15.
    """

    latents: np.ndarray
    codebooks: tuple[np.ndarray, ...]
    residual: bool

    def __post_init__(self) -> None:
        shape, n_levels = self.latents.shape, len(self.codebooks)
        wanted = (shape[0], shape[-1]) if self.residual else (shape[0], n_levels, shape[-1])
        if not n_levels or shape != wanted:
            raise InputError(
                f"the latents of a space of {n_levels} levels have the shape {shape}, but must "
                f"have {'(items, d)' if self.residual else '(items, levels, d)'}"
            )
        for name, array in (("latents", self.latents), *_named(self.codebooks)):
            shaped = name == "latents" or array.shape == (len(array), shape[-1])
            if array.dtype != np.float32 or not shaped or not array.size:
                raise InputError(
                    f"'{name}' is {array.dtype} {array.shape}, but must be float32 and not empty, "
                    f"with {shape[-1]} dimensions like the latents"
                )
            # NaN fails both comparisons.
            if not (array.min() >= -MAX_NUMBER and array.max() <= MAX_NUMBER):
                raise InputError(
                    f"'{name}' holds numbers that are not finite or beyond {MAX_NUMBER:g}; train "
                    "the tokenizer with a lower learning rate, or scale the item vectors"
                )

    @property
    def n_items(self) -> int:
        return len(self.latents)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level, (L,)."""
        return tuple(len(book) for book in self.codebooks)

    def costs(self, level: int, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Cost of every code of one level, for items under their prefixes.

        Args:
            level: from 0.
            rows: int (m,), items as rows of ``latents``.
            codes: int (m, at least ``level``), their codes; those before ``level`` are the prefix.

        Returns:
            float32 (m, K_level).
        """
        book = self.codebooks[level]  # (K, d)
        costs = np.empty((len(rows), len(book)), dtype=np.float32)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            if not self.residual:
                np.negative(self.latents[rows[part], level] @ book.T, out=costs[part])
                continue
            left = self._left_over(rows[part], codes[part, :level])  # (rows, d)
            np.matmul(left, -2 * book.T, out=costs[part])
            costs[part] += np.square(left).sum(axis=1, keepdims=True)
            costs[part] += np.square(book).sum(axis=1)
            np.maximum(costs[part], 0, out=costs[part])
        return costs

    def prefix_costs(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Cost of the whole of ``codes`` (m, any length) for the items ``rows`` (m,): float32 (m,).

        Residual: the squared distance that is left in the end; parallel: the sum over the levels.
        """
        costs = np.zeros(len(rows), dtype=np.float32)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            if self.residual:
                costs[part] = np.square(self._left_over(rows[part], codes[part])).sum(axis=1)
                continue
            for level in range(codes.shape[1]):
                chosen = self.codebooks[level][codes[part, level]]  # (rows, d)
                costs[part] -= (self.latents[rows[part], level] * chosen).sum(axis=1)
        return costs

    def spread(self, codes: np.ndarray) -> dict[str, float]:
        """``mean`` and ``std`` over all items of what they pay for their ``codes`` (n, L)."""
        costs = self.prefix_costs(np.arange(self.n_items), codes).astype(np.float64)
        return {"mean": float(costs.mean()), "std": float(costs.std())}

    def taken(self, rows: np.ndarray | Sequence[int]) -> CodeSpace:
        """The space of the items at ``rows``, in that order."""
        return replace(self, latents=self.latents[np.asarray(rows)])

    def save(self, path: Path) -> None:
        """Write the space as safetensors; an existing file is replaced whole.

        Raises:
            InputError: the place cannot be written.
        """
        tensors = {"latents": self.latents, **dict(_named(self.codebooks))}
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        metadata = {"format": FORMATS[self.residual], seals.KEY: seals.blank()}
        try:
            files.write_whole(path, to_safetensors(contiguous, metadata=metadata))
        except InputError as error:
            raise InputError(f"code space {path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> CodeSpace:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file cannot be read or is another one; the message names it.
        """
        try:
            seals.check(path, "delete it")
            with safe_open(path, framework="numpy") as file:
                form = (file.metadata() or {}).get("format")
                names = ["latents", *(f"codebook_{i}" for i in range(1, len(file.keys())))]
                if form not in FORMATS.values() or set(names) != set(file.keys()):
                    raise InputError(
                        f"holds the tensors {preview(sorted(file.keys()))}, but must hold "
                        "'latents', 'codebook_1' … and be of the format 'recbole-sid-space'; "
                        "delete it"
                    )
                latents, *books = map(file.get_tensor, names)
            return cls(latents, tuple(books), form == FORMATS[True])
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"code space {path}: cannot be read as safetensors ({error}); delete it"
            ) from error
        except InputError as error:
            raise InputError(f"code space {path}: {error}") from error

    def _left_over(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """z minus the vectors of ``codes`` (m, any length): a new float32 (m, d)."""
        left = self.latents[rows]
        for level in range(codes.shape[1]):
            left -= self.codebooks[level][codes[:, level]]
        return left


@dataclass(frozen=True)
class EqualCosts:
    """Stands for a missing space: to every item every code costs the same, nothing.

    Attributes:
        sizes: codes per level, (L,).
    """

    sizes: tuple[int, ...]

    def costs(self, level: int, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Zeros, float32 (m, K_level)."""
        return np.zeros((len(rows), self.sizes[level]), dtype=np.float32)

    def prefix_costs(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Zeros, float32 (m,)."""
        return np.zeros(len(rows), dtype=np.float32)


def _named(codebooks: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [(f"codebook_{number}", book) for number, book in enumerate(codebooks, start=1)]
