"""The two file formats of a SID table: JSON (readable, for exchange) and safetensors (large).

Works on the plain parts of a table; ``table.SemanticIDs`` checks what they mean. A file is not
trusted: whatever is wrong with it, the answer is one InputError.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from recbole_sid import seals
from recbole_sid.errors import InputError, preview
from recbole_sid.files import CannotWrite

FORMAT = "recbole-sid"
VERSION = 1
SUFFIXES = (".json", ".safetensors")
# Bytes: 2 GB, some 40 million items. Read as JSON they take ten times as much memory.
MAX_JSON = 1 << 31
MAX_CODE = int(np.iinfo(np.int32).max)
HEAD = {"format": str, "version": int, "collision": str, "sizes": list, "provenance": dict}
TENSORS = {"codes": ("I32", 2), "token_bytes": ("U8", 1), "token_ends": ("I64", 1)}


class Parts(NamedTuple):
    """What a file holds: the fields of ``SemanticIDs``."""

    tokens: tuple[str, ...]
    codes: np.ndarray
    sizes: tuple[int, ...]
    collision: str
    provenance: dict[str, Any]


def check_suffix(path: Path) -> None:
    """InputError unless the name of ``path`` ends like one of the formats."""
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"the name ends in {path.suffix!r}, but must end in {' or '.join(SUFFIXES)}"
        )


def write(path: Path, parts: Parts) -> None:
    """Write ``parts``, sealed, in the format that the suffix names; whole or not at all."""
    check_suffix(path)
    write_whole(path, _to_json(parts) if path.suffix == ".json" else _to_safetensors(parts))


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content``, which has a blank seal, to ``path``; the file appears whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    try:
        with seals.written_sealed(path) as temporary:
            temporary.write_bytes(content)
    except CannotWrite as error:
        reason = getattr(error.__cause__, "strerror", None)
        raise InputError(
            f"cannot be written ({reason}); give a path in a folder that exists and has room"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; repeated keys and NaN are refused.

    One of ours must be as it was written; without its seal it may be written by hand.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError("is no file, but a folder or a device; check the path")
        with path.open("rb") as file:
            content = file.read(MAX_JSON + 1)
        if len(content) > MAX_JSON:
            raise InputError(
                f"has more than {MAX_JSON:,} bytes; write so large a table as .safetensors"
            )
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"is not text in UTF-8 ({error}); save it as UTF-8") from error
    data = _parse_object(text)
    # In a published file an item may be called "seal", but its value is a list.
    if not isinstance(data.get(seals.KEY), str):
        return data
    seals.check(path, f"take a whole copy, or remove '{seals.KEY}' if you changed it yourself")
    return seals.unsealed(data)


def parts_from_json(data: Mapping[str, Any]) -> Parts:
    """The parts in a parsed JSON file of our own format."""
    head = {key: value for key, value in data.items() if key != "items"}
    _check_head(head)
    items = data.get("items")
    if not isinstance(items, dict):
        raise InputError(f"'items' is {shown(items)}, but must map every item to its codes")
    return _parts(head, tuple(items), codes_of_items(items))


def codes_of_items(items: Mapping[str, Any]) -> np.ndarray:
    """``{token: [code, …]}`` as int32 (n, L); every row a list of the same number of codes."""
    check_rows(items)
    values = list(chain.from_iterable(items.values()))
    # By exact type: True is an int to isinstance, but not a code.
    if set(map(type, values)) != {int} or min(values) < 0 or max(values) > MAX_CODE:
        for token, row in items.items():
            for code in row:
                if type(code) is not int or not 0 <= code <= MAX_CODE:
                    raise InputError(
                        f"item {shown(token)} has the code {shown(code)}, but a code must be a "
                        f"whole number from 0 to {MAX_CODE}"
                    )
    return np.array(values, dtype=np.int32).reshape(len(items), -1)  # (n, L)


def check_rows(items: Mapping[str, Any]) -> None:
    """InputError unless there are items, each with a non-empty list, all of one length."""
    if not items:
        raise InputError("has no items; a SID table must have at least one")
    width = None
    for token, row in items.items():
        if not isinstance(row, list) or not row:
            raise InputError(f"item {shown(token)} has {shown(row)}, but must have a list of codes")
        width = width or len(row)
        if len(row) != width:
            raise InputError(
                f"item {shown(token)} has {len(row)} codes, but must have {width} like the items "
                "before"
            )


def read_safetensors(path: Path) -> Parts:
    """The parts in a safetensors file of our own format."""
    seals.check(path, "make it again")
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if set(file.keys()) != set(TENSORS) or "head" not in metadata:
                raise InputError(
                    f"holds the tensors {preview(sorted(file.keys()))}, but must hold "
                    f"{preview(TENSORS)} and the metadata 'head': it is not a SID table"
                )
            for name, (dtype, dimensions) in TENSORS.items():
                tensor = file.get_slice(name)
                if tensor.get_dtype() != dtype or len(tensor.get_shape()) != dimensions:
                    raise InputError(
                        f"tensor '{name}' is {tensor.get_dtype()} {tensor.get_shape()}, but must "
                        f"be {dtype} with {dimensions} dimension(s)"
                    )
                arrays[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot be read as safetensors ({error}); check the path") from error
    head = _parse_object(metadata["head"])
    _check_head(head)
    return _parts(head, _split(arrays["token_bytes"], arrays["token_ends"]), arrays["codes"])


def shown(value: object) -> str:
    """``value`` as text for a message, cut where it would fill the screen."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists without end
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= 80 else text[:79] + "…"


def _head(parts: Parts) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "collision": parts.collision,
        "sizes": list(parts.sizes),
        "provenance": parts.provenance,
    }


def _parts(head: Mapping[str, Any], tokens: tuple[str, ...], codes: np.ndarray) -> Parts:
    return Parts(tokens, codes, tuple(head["sizes"]), head["collision"], head["provenance"])


def _check_head(head: Mapping[str, Any]) -> None:
    if head.get("format") != FORMAT:
        raise InputError(
            f"'format' is {shown(head.get('format'))}, but must be {FORMAT!r}; the files of other "
            "projects are imported with read_sids (setting 'sid_file')"
        )
    if head.get("version") != VERSION:
        raise InputError(
            f"'version' is {shown(head.get('version'))}, but this release reads version {VERSION}; "
            "read the file with the release that wrote it"
        )
    if set(head) != set(HEAD):
        raise InputError(f"the keys are {preview(head)}, but must be {preview(HEAD)} and 'items'")
    for key, kind in HEAD.items():
        if type(head[key]) is not kind:
            raise InputError(f"'{key}' is {shown(head[key])}, but must be of type {kind.__name__}")


def _to_json(parts: Parts) -> bytes:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in _head(parts).items()]
    rows = zip(parts.tokens, parts.codes.tolist(), strict=True)
    items = ",\n".join(f"    {json.dumps(token, ensure_ascii=False)}: {row}" for token, row in rows)
    seal = f'  "{seals.KEY}": "{seals.blank()}"\n'
    return f'{{\n{"".join(lines)}  "items": {{\n{items}\n  }},\n{seal}}}\n'.encode()


def _to_safetensors(parts: Parts) -> bytes:
    tokens = [token.encode() for token in parts.tokens]
    tensors = {
        "codes": np.ascontiguousarray(parts.codes),
        "token_bytes": np.frombuffer(b"".join(tokens), dtype=np.uint8),
        "token_ends": np.fromiter(accumulate(map(len, tokens)), dtype=np.int64, count=len(tokens)),
    }
    metadata = {"head": json.dumps(_head(parts)), seals.KEY: seals.blank()}
    return to_safetensors(tensors, metadata=metadata)


def _split(blob: np.ndarray, ends: np.ndarray) -> tuple[str, ...]:
    bounds = [0, *ends.tolist()]
    content = blob.tobytes()
    if bounds != sorted(bounds) or bounds[-1] != len(content):
        raise InputError(
            f"tensor 'token_ends' must rise from 0 to {len(content)}, the length of 'token_bytes'; "
            "the file is damaged, write it again"
        )
    try:
        return tuple(content[start:end].decode() for start, end in pairwise(bounds))
    except UnicodeDecodeError as error:
        raise InputError(f"'token_bytes' is not text in UTF-8 ({error}); write it again") from error


def _parse_object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error}); correct or export it again") from error
    if not isinstance(data, dict):
        raise InputError(f"holds {shown(data)}, but must hold one object with the items as keys")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = (key for key, count in counts.items() if count > 1)
        raise InputError(f"has keys that stand twice: {preview(repeated)}; keep one of each")
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"holds {name}, which is not a number; replace it")
