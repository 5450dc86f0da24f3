"""Files of histories that go into ``recommend``, and of lists that come out.

A file is JSON lines (``.jsonl``), one user a line, or tab separated (``.tsv``) with the items of a
history separated by spaces, as in RecBole's ``token_seq`` columns. Both hold raw tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.files import written_whole
from recbole_sid.limits import LONGEST_SHOWN, bounded_lines, shown

FORMATS = (".jsonl", ".tsv")
_HEADER = ("user", "rank", "item", "score")
_KEYS = ("user", "history")
# Users, items best first, and their float32 scores.
Lists = Iterable[tuple[str | None, list[str], np.ndarray]]


def read_histories(path: str | Path) -> dict[str, list[str]]:
    """The histories of a file, oldest item first, by user, in the order of the file.

    ``.jsonl``: ``{"user": "u1", "history": ["i1", "i2"]}`` a line. ``.tsv``: ``u1<TAB>i1 i2`` a
    line, the first one may be a header in RecBole's manner (``user_id:token<TAB>…:token_seq``).
    Blank lines are passed over.

    Raises:
        InputError: the file cannot be read or holds no history; a line is not of the format, or its
            user had a line before. The line is named.
    """
    path = Path(path)
    parse = {".jsonl": _json_line, ".tsv": _tsv_line}[_format(path, "histories")]
    histories: dict[str, list[str]] = {}
    line_of: dict[str, int] = {}
    for number, line in _lines(path):
        if not line.strip() or (number == 1 and path.suffix == ".tsv" and _is_header(line)):
            continue
        try:
            user, history = parse(line)
            if user in line_of:
                raise InputError(f"user {shown(user)} stands in line {line_of[user]} already")
        except InputError as error:
            raise InputError(f"'{path}', line {number}: {error}") from error
        histories[user], line_of[user] = history, number
    if not histories:
        raise InputError(f"'{path}' holds no history")
    return histories


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without line feeds; the file is never read as a whole."""
    try:
        with path.open("rb") as file:
            for number, raw in bounded_lines(file, f"the histories '{path}'"):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the histories '{path}' cannot be read: {error}") from error


def check_output(
    path: str | Path,
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
    kept: Iterable[str | Path] = (),
) -> Path:
    """``path``, where a file of results may be written.

    Args:
        formats: the file name extensions that are possible.
        overwrite: whether a file that exists may be replaced.
        kept: files that may not be replaced in any case.

    Raises:
        InputError: it may not.
    """
    path = Path(path)
    _format(path, "output", formats)
    if not path.parent.is_dir():
        raise InputError(f"output '{path}': there is no folder '{path.parent}'. Make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"output '{path}': no files may be written in '{path.parent}'")
    if path.is_dir():
        raise InputError(f"output '{path}' is a folder: name a file")
    if path.resolve() in {Path(file).resolve() for file in kept}:
        raise InputError(f"output '{path}' is a file that is needed as it is: name another one")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"output '{path}' exists: name another file, or replace it by --overwrite")
    return path


def check_users(users: Iterable[str], path: Path) -> None:
    """Refuse users whose names a tab-separated ``path`` cannot hold."""
    for user in users if path.suffix == ".tsv" else ():
        if any(sign in user for sign in "\t\r\n"):
            raise InputError(f"user {user!r} does not fit in '{path}': write a .jsonl file")


def write_lists(path: Path, lists: Lists) -> None:
    """Write each user's items and scores, best first; whole or not at all.

    ``.jsonl``: ``{"user": …, "items": […], "scores": […]}`` a line. ``.tsv``: a header, and a line
    for each item, with ranks from 1; a user with an empty list has no line. A score is written
    with the digits that give its float32 back.

    Raises:
        InputError: the file system refuses it.
    """
    lines = {".jsonl": _json_lines, ".tsv": _tsv_lines}[path.suffix](lists)
    try:
        with (
            written_whole(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise InputError(f"output '{path}' cannot be written: {error}") from error


def _format(path: Path, what: str, formats: Sequence[str] = FORMATS) -> str:
    if path.suffix not in formats:
        raise InputError(f"{what} '{path}' must be a file that ends in {' or '.join(formats)}")
    return path.suffix


def _json_line(line: str) -> tuple[str, list[str]]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError('must be an object, {"user": "u1", "history": ["i1", "i2"]}')
    for key in value:
        if key not in _KEYS:
            near = did_you_mean(key[:LONGEST_SHOWN], _KEYS)
            raise InputError(f"unknown key {shown(key)}.{near} Known: user, history")
    for key in _KEYS:
        if key not in value:
            raise InputError(f"has no key '{key}'")
    user, history = value["user"], value["history"]
    if not isinstance(user, str):
        raise InputError(f"'user' is {user!r}, but must be text")
    if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
        raise InputError("'history' must be a list of raw item tokens as text")
    if any("\ud800" <= sign <= "\udfff" for text in (user, *history) for sign in text):
        raise InputError("holds half of a surrogate pair, which is no character")
    return user, history


def _tsv_line(line: str) -> tuple[str, list[str]]:
    if "\r" in line:
        raise InputError("holds a carriage return: end lines by line feeds")
    cells = line.split("\t")
    if len(cells) != 2:
        raise InputError(f"has {len(cells)} cells, but must be user<TAB>item item …")
    user, items = cells
    if not user:
        raise InputError("the user is empty")
    return user, [item for item in items.split(" ") if item]


def _is_header(line: str) -> bool:
    first, _, second = line.partition("\t")
    return first.endswith(":token") and second.endswith(":token_seq")


def _json_lines(lists: Lists) -> Iterator[str]:
    for user, items, scores in lists:
        row = {"user": user, "items": items, "scores": [float(str(score)) for score in scores]}
        yield json.dumps(row, ensure_ascii=False, allow_nan=False)


def _tsv_lines(lists: Lists) -> Iterator[str]:
    yield "\t".join(_HEADER)
    for user, items, scores in lists:
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
            # str, since a format would show the digits of the float64.
            yield f"{user}\t{rank}\t{item}\t{score!s}"
