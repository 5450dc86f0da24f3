"""The seal of a file: who wrote it, in which format, and a checksum of every byte of it.

A seal is one line of text, ``recbole_sid 0.1.0 format 1 sha256:`` and 64 hex digits: the sha256 of
the whole file, in which these digits stand as zeros. It is found

- in ``.safetensors`` files in the metadata, under ``seal``;
- in all others within the last bytes: in JSON as the last key, ``seal``, in yaml as a comment, in
  checkpoints as the comment of the zip archive that torch writes.

Whoever reads a file of ours checks its seal first. It tells damage, not a forgery.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from recbole_sid.errors import InputError
from recbole_sid.files import REMEDY, written_whole
from recbole_sid.version import __version__

KEY = "seal"
# Raise it when a file of the same name comes to mean something else.
FORMAT = 1

_DIGITS = 64
_PATTERN = re.compile(rb"recbole_sid ([!#-~]+) format (\d{1,9}) sha256:([0-9a-f]{%d})" % _DIGITS)
_TAIL = 256
_CHUNK = 2**20
# Bytes, as the library that reads safetensors has it.
_LONGEST_HEADER = 100_000_000


class Seal(NamedTuple):
    """A seal as it stands in a file; ``offset`` is the place of the digits of its ``sha256``."""

    version: str
    format: int
    sha256: str
    offset: int


def blank() -> str:
    """The seal of a file that is being written; :func:`written_sealed` puts its checksum in."""
    return f"recbole_sid {__version__} format {FORMAT} sha256:{'0' * _DIGITS}"


@contextmanager
def written_sealed(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """As :func:`.written_whole`, for a block that writes a file with a :func:`blank` seal.

    The same content gives the same bytes, also as safetensors.
    """
    with written_whole(path, remedy) as temporary:
        yield temporary
        with temporary.open("r+b") as file:
            _sort_metadata(file)
            seal = _find(file)
            assert seal is not None, f"{path.name} was written without a seal"
            digits = _digest(file, seal.offset).encode()
            file.seek(seal.offset)
            file.write(digits)


def save_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], remedy: str = REMEDY
) -> None:
    """Write arrays as safetensors, sealed, whole or not at all.

    Raises:
        CannotWrite: the file system refuses it.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with written_sealed(path, remedy) as temporary:
        try:
            save_file(arrays, temporary, {**metadata, KEY: blank()})
        except SafetensorError as error:  # as the library reports a full disk
            raise OSError(str(error)) from error


def check(path: Path, remedy: str, required: bool = True) -> Seal | None:
    """See that a file is as it was written.

    Args:
        remedy: what the user can do if it is not.
        required: refuse a file without a seal too; else it is somebody else's, and None comes back.

    Raises:
        InputError: the file cannot be read, is damaged, or is not of a format that this release
            reads.
    """
    try:
        with path.open("rb") as file:
            seal = _find(file)
            digits = None if seal is None else _digest(file, seal.offset)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}): {remedy}") from error
    if seal is None:
        if not required:
            return None
        raise InputError(
            f"'{path}' has no checksum of recbole_sid: it is damaged, another program's, or of an "
            f"earlier version. Remedy: {remedy}"
        )
    if seal.sha256 != digits:
        raise InputError(
            f"'{path}' is damaged or was edited: it does not fit its checksum. Remedy: {remedy}"
        )
    if seal.format != FORMAT:
        raise InputError(
            f"'{path}' is of format {seal.format}, written by recbole_sid {seal.version}, but this "
            f"release reads format {FORMAT}. Remedy: use that release, or {remedy}"
        )
    return seal


def unsealed(values: dict[str, Any]) -> dict[str, Any]:
    """What a sealed JSON file holds besides its seal."""
    return {key: value for key, value in values.items() if key != KEY}


def _header_length(file: BinaryIO) -> int:
    """Bytes of the header of a safetensors file, from the eighth on; 0 for any other file."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    # No other file of ours begins like that: read as a number, text is far above its own length.
    whole = start[8:] == b"{" and length <= min(size - 8, _LONGEST_HEADER)
    return length if whole else 0


def _sort_metadata(file: BinaryIO) -> None:
    """Give a safetensors file's metadata a fixed order; the library's differs by the process."""
    length = _header_length(file)
    if not length:
        return
    file.seek(8)
    header = json.loads(file.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= length, "a header in another order is no longer"
    file.seek(8)
    file.write(text.ljust(length))


def _find(file: BinaryIO) -> Seal | None:
    first, length = 8, _header_length(file)
    if not length:
        size = file.seek(0, 2)
        first = max(0, size - _TAIL)
        length = size - first
    file.seek(first)
    found = list(_PATTERN.finditer(file.read(length)))
    if not found:
        return None
    version, form, digits = found[-1].groups()
    return Seal(version.decode(), int(form), digits.decode(), first + found[-1].start(3))


def _digest(file: BinaryIO, offset: int) -> str:
    """sha256 hex of the file with zeros for the digits at ``offset``."""
    digest = hashlib.sha256()
    file.seek(0)
    left = offset
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(b"0" * _DIGITS)
    file.seek(offset + _DIGITS)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
