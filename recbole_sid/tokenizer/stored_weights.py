"""The weights of a fitted tokenizer: their file, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from recbole_sid import seals
from recbole_sid.errors import InputError

FORMAT = "recbole-sid-tokenizer"
# Differences that a message names.
NAMED = 5

Shape = tuple[int, ...]


class StoredWeights(Mapping[str, np.ndarray]):
    """The arrays that :func:`save_tokenizer_weights` wrote; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InputError: no such file, a damaged one, or another one.
        """
        self.path = path
        seals.check(path, "make it again; in a cache, delete it")
        try:
            with safe_open(path, framework="numpy") as file:
                ours = (file.metadata() or {}).get("format") == FORMAT
                self._names = tuple(sorted(file.keys()))
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from error
        if not ours:
            raise InputError(f"'{path}' does not hold the weights of a tokenizer")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        try:
            with safe_open(self.path, framework="numpy") as file:
                array: np.ndarray = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from error
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"tokenizer weights '{self.path}' cannot be read ({error}): delete them")


def save_tokenizer_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write the arrays as safetensors; an existing file is replaced whole."""
    seals.save_tensors(path, weights, {"format": FORMAT})


def require_shapes(weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """Refuse ``weights`` that have not exactly these names and shapes; say which differ."""
    faults = [f"'{name}' is missing" for name in shapes if name not in weights]
    faults += [f"'{name}' is not known" for name in weights if name not in shapes]
    for name in shapes.keys() & weights.keys():
        if (found := weights[name].shape) != shapes[name]:
            faults.append(f"'{name}' has the shape {found}, but must have {shapes[name]}")
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise InputError(
            f"the tokenizer's weights do not fit: {'; '.join(faults[:NAMED])}{more}. They come "
            "from a fit of other settings: take those of the fit, or fit it again"
        )


def length(weights: Mapping[str, np.ndarray], name: str, axis: int, otherwise: int) -> int:
    """Of the matrix ``name`` along ``axis``; ``otherwise`` where there is no such matrix."""
    if name not in weights or weights[name].ndim != 2:
        return otherwise
    return weights[name].shape[axis]


def require_input_dim(
    vectors: np.ndarray, weights: Mapping[str, np.ndarray], first_layer: str
) -> None:
    """Refuse item vectors of other dimensions than those that the tokenizer was fitted on.

    Args:
        vectors: (n, d).
        weights: of the fit.
        first_layer: the matrix (…, d) that sees the vectors, unless they are reduced before it.
    """
    name = "pca_components" if "pca_components" in weights else first_layer
    fitted_dim = length(weights, name, 1, vectors.shape[1])
    if vectors.shape[1] != fitted_dim:
        raise InputError(
            f"the item vectors have {vectors.shape[1]} dimensions, but the tokenizer was fitted on "
            f"vectors of {fitted_dim}: encode the items as those of the fit were"
        )
