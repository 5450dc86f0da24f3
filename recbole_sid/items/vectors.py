"""The user's own item vectors, read from a file and put in the order of the items."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recbole_sid.errors import InputError, preview
from recbole_sid.files import written_whole
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
        InputError: an unreadable file, a wrong shape or type, an id twice, an item without a
            vector, NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"setting 'item_embedding_file' is {str(path)!r}, but there is no file")
    given = None if ids_path is None else _read_ids(Path(ids_path))
    if path.suffix == ".npy":
        ids, vectors = _from_npy(path, given)
    elif path.suffix == ".safetensors":
        ids, vectors = _from_safetensors(path, given)
    else:
        raise InputError(
            f"setting 'item_embedding_file' is {str(path)!r}, but must end in .npy or .safetensors"
        )
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise InputError(
            f"{str(path)!r} holds an array of shape {vectors.shape}, but must hold one of shape "
            "(items, dimensions)"
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
    return _aligned(path, ids, vectors, tokens)


def save_item_vectors(path: str | Path, vectors: np.ndarray, tokens: tuple[str, ...]) -> None:
    """Write vectors (n, d) with their raw item ids, as :func:`load_item_vectors` reads them."""
    names = np.frombuffer(json.dumps(tokens).encode(), np.uint8).copy()
    with written_whole(Path(path)) as temporary:
        save_file({"vectors": np.ascontiguousarray(vectors), "ids": names}, temporary)


def _aligned(
    path: Path, ids: list[str], vectors: np.ndarray, tokens: tuple[str, ...]
) -> np.ndarray:
    row_of = {token: row for row, token in enumerate(ids)}
    if len(row_of) != len(ids):
        twice = [token for token, count in Counter(ids).items() if count > 1]
        raise InputError(
            f"{len(twice)} item ids of {str(path)!r} appear more than once: {preview(twice)}. "
            "Give each item one vector"
        )
    missing = [token for token in tokens if token not in row_of]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(tokens)} items have no vector in {str(path)!r}: "
            f"{preview(missing)}. Ids must be the raw ids of the .item or .inter file "
            f"(the file's first ids are {preview(ids, count=3)})"
        )
    rows = np.fromiter((row_of[token] for token in tokens), np.int64, len(tokens))
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, refused below
        wanted = np.ascontiguousarray(vectors[rows], np.float32)  # (n, d)
    bad = np.flatnonzero(~np.isfinite(wanted).all(axis=1))
    if len(bad):
        raise InputError(
            f"the vectors of {len(bad)} items in {str(path)!r} hold NaN, infinity or a number too "
            f"large for float32: {preview(tokens[row] for row in bad)}. Correct or remove them"
        )
    return wanted


def _from_npy(path: Path, ids: list[str] | None) -> tuple[list[str], np.ndarray]:
    if ids is None:
        raise InputError(
            f"setting 'item_embedding_file' is {str(path)!r}, but a .npy file holds no ids. Set "
            "item_embedding_ids to a file with one raw item id a line, in the order of the rows"
        )
    try:
        return ids, np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
    except (ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is not a .npy file of numbers ({error})") from error


def _from_safetensors(path: Path, ids: list[str] | None) -> tuple[list[str], np.ndarray]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if "vectors" in names and len(file.get_slice("vectors").get_shape()) == 2:
                if ids is None:
                    ids = _stored_ids(path, file, names)
                return ids, _to_numpy(file.get_tensor("vectors"))
            if ids is not None:
                raise InputError(
                    f"setting 'item_embedding_ids' is given, but {str(path)!r} has no tensor "
                    "'vectors' (items, dimensions) that these ids could name"
                )
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            common = next(iter(shapes.values()), ())
            odd = [name for name, shape in shapes.items() if shape != common or len(shape) != 1]
            if odd or not names:
                raise InputError(
                    f"{str(path)!r} must hold one tensor (dimensions,) an item, all of one length, "
                    f"or a tensor 'vectors' (items, dimensions); {len(odd)} of {len(names)} "
                    f"tensors differ: {preview(f'{name} {shapes[name]}' for name in odd)}"
                )
            return names, np.stack([_to_numpy(file.get_tensor(name)) for name in names])
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is not a safetensors file ({error})") from error


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """As NumPy, which has no bfloat16 and no 8-bit floats."""
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _stored_ids(path: Path, file: safe_open, names: list[str]) -> list[str]:
    metadata = file.metadata() or {}
    if "ids" in metadata:
        text = metadata["ids"]
    elif "ids" in names and file.get_slice("ids").get_dtype() == "U8":
        text = file.get_tensor("ids").numpy().tobytes().decode("utf-8", errors="replace")
    else:
        raise InputError(
            f"{str(path)!r} holds no ids for its tensor 'vectors'. Set item_embedding_ids, or "
            "store a JSON list of raw ids under 'ids' in the metadata"
        )
    return _parse_json_ids(path, text)


def _read_ids(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"setting 'item_embedding_ids' is {str(path)!r}, but there is no file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 ({error}). Convert it") from None
    if path.suffix == ".json":
        return _parse_json_ids(path, text)
    if path.suffix != ".txt":
        raise InputError(
            f"setting 'item_embedding_ids' is {str(path)!r}, but must end in .txt or .json"
        )
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
