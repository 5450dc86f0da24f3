"""Reading any SID file: our own, or the JSON files that other projects publish."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.sid import files
from recbole_sid.sid.table import SemanticIDs

# The generator has a row for every code of a level: one wrong digit must not ask for all memory.
MAX_LEVEL_SIZE = 2**20
LETTERED = re.compile(r"<([a-z])_([0-9]{1,10})>")


def read_sids(path: str | Path, sizes: Sequence[int] | None = None) -> SemanticIDs:
    """Read a SID file, whichever of the three kinds it is.

    - Our own, .json or .safetensors, as ``SemanticIDs.save`` writes it.
    - .json ``{"B004756YJA": ["<a_183>", "<b_70>", …], …}``: the letter names the level.
    - .json ``{"B004756YJA": [183, 70, …], …}``.

    The last two hold codes and no more: they become a table with collision "none", and the size of
    a level is its largest code + 1 unless ``sizes`` says otherwise. A level of any file has at
    most ``MAX_LEVEL_SIZE`` codes.

    Args:
        path: the file.
        sizes: the size of each level (setting ``sid_sizes``). Our own files state it themselves:
            for them it must agree.

    Raises:
        InputError: the file cannot be read or breaks a rule; the message names the file.
    """
    path = Path(path)
    if path.suffix != ".json":
        sids = SemanticIDs.load(path)
    else:
        try:
            data = files.read_json(path)
            # In a published file an item may be called "format", but its value is a list.
            if not isinstance(data.get("format"), str):
                return _published(data, path, sizes)
            sids = SemanticIDs(*files.parts_from_json(data))
        except InputError as error:
            raise InputError(f"SID file {path}: {error}") from error
    if sizes is not None and tuple(sizes) != sids.sizes:
        raise InputError(
            f"SID file {path}: the sizes asked for are {list(sizes)}, but the file says "
            f"{list(sids.sizes)}; leave the setting 'sid_sizes' empty"
        )
    try:
        _check_sizes(sids.sizes)
    except InputError as error:
        raise InputError(f"SID file {path}: {error}") from error
    return sids


def _published(data: Mapping[str, Any], path: Path, sizes: Sequence[int] | None) -> SemanticIDs:
    files.check_rows(data)
    kinds = set(map(type, chain.from_iterable(data.values())))
    lettered = str in kinds
    codes = files.codes_of_items(_without_letters(data) if lettered else data)  # (n, L)
    if sizes is None:
        sizes = [int(largest) + 1 for largest in codes.max(axis=0)]
    elif len(sizes) != codes.shape[1]:
        raise InputError(
            f"the setting 'sid_sizes' {list(sizes)} has {len(sizes)} levels, but must have "
            f"{codes.shape[1]} like the file; leave it empty to take the sizes from the codes"
        )
    _check_sizes(sizes)
    provenance = {
        "imported": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "layout": "lettered" if lettered else "plain",
    }
    return SemanticIDs(tuple(data), codes, tuple(sizes), "none", provenance)


def _check_sizes(sizes: Sequence[int]) -> None:
    for level, size in enumerate(sizes, start=1):
        if size > MAX_LEVEL_SIZE:
            raise InputError(
                f"level {level} has the size {size} (its largest code + 1, or as stated), but must "
                f"have at most {MAX_LEVEL_SIZE}: number the codes of a level from 0 without gaps"
            )


def _without_letters(items: Mapping[str, list[Any]]) -> dict[str, list[int]]:
    """``["<a_183>", "<b_70>"]`` as ``[183, 70]``; level 1 must say a, level 2 b, and so on."""
    n_levels = len(next(iter(items.values())))
    if n_levels > len(string.ascii_lowercase):
        raise InputError(
            f"there are {n_levels} levels, but letters name at most 26; use plain numbers"
        )
    letters = string.ascii_lowercase[:n_levels]
    return {
        token: [_code(token, *pair) for pair in zip(letters, row, strict=True)]
        for token, row in items.items()
    }


def _code(token: str, letter: str, text: object) -> int:
    match = LETTERED.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] != letter:
        raise InputError(
            f"item {files.shown(token)} has {files.shown(text)} where '<{letter}_…>' with a whole "
            "number must stand; the letters must name the levels in order a, b, c, …"
        )
    return int(match[2])
