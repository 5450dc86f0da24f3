"""The user's own item vectors, read from a file and put in the order of the items."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from recbole_sid import seals
from recbole_sid.errors import InputError, preview
from recbole_sid.settings import require


@dataclass(frozen=True)
class VectorSettings:
    """Where the user's vectors are. Defaults and meanings: ``properties/items.yaml``."""

    item_embedding_file: str | None
    item_embedding_ids: str | None

    def __post_init__(self) -> None:
        require(
            self.item_embedding_ids is None or self.item_embedding_file is not None,
            "item_embedding_ids",
            self.item_embedding_ids,
            "empty (~) without item_embedding_file",
        )


def load_item_vectors(
    path: str | Path, ids_path: str | Path | None, tokens: tuple[str, ...]
) -> np.ndarray:
    """The vectors of the items ``tokens``, in their order.

    Args:
        path: one of

            - ``.npy``: an array (m, d), with its ids in ``ids_path``;
            - ``.safetensors`` with a tensor ``vectors`` (m, d); its ids are in ``ids_path``, or in
              the file as a JSON list, under ``ids`` in the metadata or as a uint8 tensor ``ids``
              of UTF-8 bytes;
            - ``.safetensors`` with one tensor (d,) an item, named by the raw item id.
        ids_path: ``.txt`` with one raw id a line, or ``.json`` with a list of raw ids; ``None`` if
            the ids are in ``path``.
        tokens: raw item ids, (n,). Vectors of other ids are left out.

    Returns:
        float32 vectors, (n, d).

    Raises:
        InputError: an unreadable file, one of ours that is damaged, a wrong shape or type, an id
            twice, an item without a vector, NaN or infinity.
    """
    path = Path(path)
    ids, vectors, _ = _read(path, ids_path, "item_embedding", None)
    row_of = _row_of(path, ids)
    missing = [token for token in tokens if token not in row_of]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(tokens)} items have no vector in {str(path)!r}: "
            f"{preview(missing)}. Ids must be the raw ids of the .item or .inter file "
            f"(the file's first ids are {preview(ids, count=3)})"
        )
    rows = np.fromiter((row_of[token] for token in tokens), np.int64, len(tokens))
    return _taken(path, vectors, rows, tokens)


def stored_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Raw item ids (n,) and vectors float32 (n, d) of a file of :func:`save_item_vectors`.

    Raises:
        InputError: as :func:`load_item_vectors`.
    """
    path = Path(path)
    ids, vectors, _ = _read(path, None, "item_embedding", None)
    _row_of(path, ids)  # no id twice
    return ids, _taken(path, vectors, np.arange(len(ids)), ids)


def load_vector_sets(
    path: str | Path,
    ids_path: str | Path | None,
    tokens: tuple[str, ...],
    setting: str,
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """No, one or several vectors of each of the items ``tokens``, in their order.

    Args:
        path, ids_path: as for :func:`load_item_vectors`; an array or tensor ``vectors`` may also be
            (items, vectors of an item, dimensions), and the tensor of one item (vectors, d).
        tokens: raw item ids, (n,). An item without an id in the file has no vector.
        setting: what the names of the two settings begin with, for messages.
        most: vectors of one item, the first ones; further ones are left out.

    Returns:
        float32 vectors (n, m, d), zero where there is none; bool (n, m), where there is one.

    Raises:
        InputError: as :func:`load_item_vectors`, but for a missing vector only if all are missing.
    """
    path = Path(path)
    ids, vectors, counts = _read(path, ids_path, setting, most)
    row_of = _row_of(path, ids)
    rows = np.fromiter((row_of.get(token, -1) for token in tokens), np.int64, len(tokens))
    with_vector = np.flatnonzero(rows >= 0)
    if not len(with_vector):
        raise InputError(
            f"none of the {len(tokens)} items has a vector in {str(path)!r}. Ids must be the raw "
            f"ids of the .item or .inter file (the file's first ids are {preview(ids, count=3)})"
        )
    found = rows[with_vector]
    width = int(counts[found].max())
    sets = np.zeros((len(tokens), width, vectors.shape[-1]), np.float32)
    named = [tokens[row] for row in with_vector]
    three = vectors if vectors.ndim == 3 else vectors[:, None]  # (N, most vectors, d)
    sets[with_vector] = _taken(path, three[:, :width], found, named)
    mask = np.zeros((len(tokens), width), bool)
    mask[with_vector] = np.arange(width) < counts[found][:, None]
    return sets, mask


def save_item_vectors(path: str | Path, vectors: np.ndarray, tokens: tuple[str, ...]) -> None:
    """Write vectors (n, d) with their raw item ids, as :func:`load_item_vectors` reads them."""
    names = np.frombuffer(json.dumps(tokens).encode(), np.uint8).copy()
    seals.save_tensors(Path(path), {"vectors": vectors, "ids": names}, {})


def _read(
    path: Path, ids_path: str | Path | None, setting: str, most: int | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All ids of the file (N,), their vectors, and how many vectors each of them has (N,).

    The vectors are (N, d). If an id may have several, ``most`` of them, they may also be (N, m, d),
    zero after the last one of an id; ``most`` is None if it may not.
    """
    if not path.is_file():
        raise InputError(f"setting '{setting}_file' is {str(path)!r}, but there is no file")
    # Other people's files have no seal.
    seals.check(path, "take a whole copy, or make it again", required=False)
    given = None if ids_path is None else _read_ids(Path(ids_path), setting)
    counts = None
    if path.suffix == ".npy":
        ids, vectors = _from_npy(path, given, setting)
    elif path.suffix == ".safetensors":
        ids, vectors, counts = _from_safetensors(path, given, setting, most)
    else:
        raise InputError(
            f"setting '{setting}_file' is {str(path)!r}, but must end in .npy or .safetensors"
        )
    shapes = "(items, dimensions)" if most is None else "(items[, vectors], dimensions)"
    if vectors.ndim not in ((2,) if most is None else (2, 3)) or 0 in vectors.shape:
        raise InputError(
            f"{str(path)!r} holds an array of shape {vectors.shape}, but must hold one of shape "
            f"{shapes}"
        )
    if vectors.dtype.kind not in "fiu":
        raise InputError(
            f"{str(path)!r} holds values of type {vectors.dtype}, but must hold numbers"
        )
    if len(ids) != len(vectors):
        raise InputError(
            f"{str(path)!r} holds {len(vectors)} vectors, but {len(ids)} ids are given. Both must "
            "be in the same order, one id a vector"
        )
    if vectors.ndim == 3:
        vectors = vectors[:, :most]
    if counts is None:
        counts = np.full(len(ids), vectors.shape[1] if vectors.ndim == 3 else 1)
    return ids, vectors, counts


def _row_of(path: Path, ids: list[str]) -> dict[str, int]:
    row_of = {token: row for row, token in enumerate(ids)}
    if len(row_of) != len(ids):
        twice = [token for token, count in Counter(ids).items() if count > 1]
        raise InputError(
            f"{len(twice)} item ids of {str(path)!r} appear more than once: {preview(twice)}. "
            "Give each item one vector"
        )
    return row_of


def _taken(path: Path, vectors: np.ndarray, rows: np.ndarray, tokens: Sequence[str]) -> np.ndarray:
    """The given rows as float32, (n, d) or (n, m, d); ``tokens`` are their ids."""
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, refused below
        wanted = np.ascontiguousarray(vectors[rows], np.float32)
    bad = np.flatnonzero(~np.isfinite(wanted).reshape(len(rows), -1).all(axis=1))
    if len(bad):
        raise InputError(
            f"the vectors of {len(bad)} items in {str(path)!r} hold NaN, infinity or a number too "
            f"large for float32: {preview(tokens[row] for row in bad)}. Correct or remove them"
        )
    return wanted


def _from_npy(path: Path, ids: list[str] | None, setting: str) -> tuple[list[str], np.ndarray]:
    if ids is None:
        raise InputError(
            f"setting '{setting}_file' is {str(path)!r}, but a .npy file holds no ids. Set "
            f"{setting}_ids to a file with one raw item id a line, in the order of the rows"
        )
    try:
        return ids, np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
    except Exception as error:  # the header is parsed as Python's literals, and fails as they do
        raise InputError(f"{str(path)!r} is not a .npy file of numbers ({error})") from error


def _from_safetensors(
    path: Path, ids: list[str] | None, setting: str, most: int | None
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """As :func:`_read`; no numbers of vectors where every id has as many."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            if _is_matrix(file, shapes, ids is not None, most is not None):
                if ids is None:
                    ids = _stored_ids(path, file, names, setting)
                return ids, _to_numpy(file.get_tensor("vectors")), None
            if ids is not None:
                raise InputError(
                    f"setting '{setting}_ids' is given, but {str(path)!r} has no tensor "
                    "'vectors' (items, dimensions) that these ids could name"
                )
            _check_shapes(path, shapes, most is not None)
            return names, *_stacked(file, shapes, most)
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is not a safetensors file ({error})") from error


def _is_matrix(
    file: safe_open, shapes: dict[str, tuple[int, ...]], ids_given: bool, several: bool
) -> bool:
    """Whether the tensor ``vectors`` holds those of all items, not of an item that is called so."""
    dimensions = len(shapes.get("vectors", ()))
    if several and dimensions == 2:
        # One item with several vectors looks the same; then there are no ids.
        return ids_given or "ids" in shapes or "ids" in (file.metadata() or {}) or len(shapes) == 1
    return dimensions == 2 or (several and dimensions == 3)


def _check_shapes(path: Path, shapes: dict[str, tuple[int, ...]], several: bool) -> None:
    """There are tensors, one an item, and their vectors are of one length."""
    kinds = (1, 2) if several else (1,)
    of_one = "(dimensions,) or (vectors, dimensions)" if several else "(dimensions,)"
    length = next(iter(shapes.values()), ())[-1:]
    odd = [
        name
        for name, shape in shapes.items()
        if shape[-1:] != length or len(shape) not in kinds or 0 in shape
    ]
    if odd or not shapes:
        raise InputError(
            f"{str(path)!r} must hold one tensor {of_one} an item, all of one length, "
            f"or a tensor 'vectors' (items, dimensions); {len(odd)} of {len(shapes)} "
            f"tensors differ: {preview(f'{name} {shapes[name]}' for name in odd)}"
        )


def _stacked(
    file: safe_open, shapes: dict[str, tuple[int, ...]], most: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The tensors of all items in one array, and how many vectors of each of them."""
    tensors = [_to_numpy(file.get_tensor(name)) for name in shapes]
    if all(len(shape) == 1 for shape in shapes.values()):
        return np.stack(tensors), None
    tensors = [np.atleast_2d(tensor)[:most] for tensor in tensors]
    counts = np.array([len(tensor) for tensor in tensors])
    # (N, most vectors, d)
    padded = np.zeros((len(tensors), counts.max(), tensors[0].shape[-1]), np.float32)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, refused later
        for row, tensor in enumerate(tensors):
            padded[row, : counts[row]] = tensor
    return padded, counts


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """As NumPy, which has no bfloat16 and no 8-bit floats."""
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _stored_ids(path: Path, file: safe_open, names: list[str], setting: str) -> list[str]:
    metadata = file.metadata() or {}
    if "ids" in metadata:
        text = metadata["ids"]
    elif "ids" in names and file.get_slice("ids").get_dtype() == "U8":
        text = file.get_tensor("ids").numpy().tobytes().decode("utf-8", errors="replace")
    else:
        raise InputError(
            f"{str(path)!r} holds no ids for its tensor 'vectors'. Set {setting}_ids, or "
            "store a JSON list of raw ids under 'ids' in the metadata"
        )
    return _parse_json_ids(path, text)


def _read_ids(path: Path, setting: str) -> list[str]:
    if not path.is_file():
        raise InputError(f"setting '{setting}_ids' is {str(path)!r}, but there is no file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 ({error}). Convert it") from None
    if path.suffix == ".json":
        return _parse_json_ids(path, text)
    if path.suffix != ".txt":
        raise InputError(f"setting '{setting}_ids' is {str(path)!r}, but must end in .txt or .json")
    ids = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if "" in ids:
        raise InputError(f"{str(path)!r}, line {ids.index('') + 1}: the item id is empty")
    return ids


def _parse_json_ids(path: Path, text: str) -> list[str]:
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r}: the ids are not JSON ({error})") from None
    if not isinstance(ids, list) or not all(isinstance(token, str) for token in ids):
        raise InputError(
            f'{str(path)!r}: the ids must be a JSON list of text, such as ["12", "345"]'
        )
    return ids
