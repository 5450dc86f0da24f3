"""Rows from files of any of the formats, block by block, each with its file and line.

Nothing here knows what a column means. A row that cannot be read is reported and left out; a file
that cannot be read at all is an error.
"""

from __future__ import annotations

import ast
import csv
import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.limits import LONGEST_SHOWN, check_columns
from recbole_sid.preparing.lines import Lines
from recbole_sid.preparing.mapping import Source
from recbole_sid.preparing.values import LONGEST_CELL

# A block ends at so many rows, or characters of lines.
BLOCK, CHARACTERS = 50_000, 1 << 25
PARQUET_BLOCK = 20_000
# Rows of Parquet that become Python objects at once. A small file may hold a long cell many times.
PARQUET_FETCHED = 1_000
# A literal takes 300 times its length while it is parsed, JSON 20 times.
LONGEST_LITERAL = 1 << 20
# Keys of objects that are remembered, to name them where one is missing.
MOST_KEYS = 1_000
# Of these types no value is long.
_SHORT = re.compile(
    r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)|DATE|TIME[A-Z_ ]*|UUID"
)
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

Report = Callable[[str, int, str, str], None]
"""Takes the file, line, reason and text of a row that is left out."""


@dataclass
class Block:
    """Some rows of one file: their lines, from 1, and the values of the wanted columns."""

    file: str
    lines: list[int]
    rows: list[Sequence[Any]]


def find_files(files: str | list[str], key: str) -> list[str]:
    """The files that names and patterns stand for, in order; those of a pattern by name.

    Raises:
        InputError: there is none for one of them, or a file is named twice.
    """
    found: list[str] = []
    for pattern in [files] if isinstance(files, str) else files:
        # A file whose own name holds brackets is no pattern.
        hits = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        hits = [hit for hit in hits if Path(hit).is_file()]
        if Path(pattern).is_dir():
            raise InputError(f"'{key}': '{pattern}' is a folder. Name its files: '{pattern}/*'")
        if not hits:
            raise InputError(f"'{key}': there is no file '{pattern}'")
        found += hits
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise InputError(f"'{key}' names files twice: {preview(twice)}")
    return found


def read_blocks(
    source: Source,
    key: str,
    wanted: list[str],
    needed: list[str],
    report: Report,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[Block]:
    """The values of the columns ``wanted`` of all files, some rows at a time.

    Args:
        source: the files and how to read them.
        key: what errors call the files, such as ``events.files``.
        needed: those of ``wanted`` that must exist.
        report: is told of every row that cannot be read.
        connection: reads Parquet.

    Raises:
        InputError: a file is missing, broken or of another format, or has no column of a name.
    """
    files = find_files(source.files, key)
    formats = [_format(file, source.format, key) for file in files]
    keys = _Keys(files, needed)
    for file, form in zip(files, formats, strict=True):
        if form == "parquet":
            yield from _parquet(file, wanted, needed, report, connection)
        elif form in ("csv", "tsv"):
            yield from _separated(file, form, source, wanted, needed, report)
        else:
            yield from _objects(file, form, source.encoding, wanted, keys, report)
    keys.check()


def _format(file: str, form: str, key: str) -> str:
    if form != "auto":
        return form
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise InputError(
            f"the format of '{file}' is not known by its name: set "
            f"'{key.replace('files', 'format')}' to csv, tsv, jsonl or parquet"
        )
    return _SUFFIXES[suffixes[-1]]


def _separated(
    file: str, form: str, source: Source, wanted: list[str], needed: list[str], report: Report
) -> Iterator[Block]:
    """CSV and TSV, with the quoting rules of RFC 4180: a quoted cell may hold line ends."""
    with Lines(file, source.encoding) as lines:
        reader = csv.reader(
            lines,
            delimiter=source.separator or ("," if form == "csv" else "\t"),
            quoting=csv.QUOTE_MINIMAL if source.quotes else csv.QUOTE_NONE,
            strict=True,
        )
        names = source.header or _header(file, reader, lines)
        if names is None:
            return
        check_columns(len(names), f"'{file}', line 1")
        width = len(names)
        # Behind the last cell of every row stands an empty one, for columns that are not there.
        places = [
            _find(file, name, names) if name in needed or name in names else width
            for name in wanted
        ]
        block = Block(file, [], [])
        while True:
            start, lines.row = lines.number + 1, 0
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                lines.mend()
                report(file, start, *_malformed(error, start, lines.number))
                continue
            if lines.spoiled is not None:
                report(file, start, lines.mend() or "", ",".join(row))
            elif start == 1 and [name.strip() for name in row] == source.header:
                raise InputError(
                    f"'{file}', line 1 holds the names of the columns: leave the setting 'header' "
                    "out, which is for files without them"
                )
            elif len(row) == width:
                row.append("")
                block.lines.append(start)
                block.rows.append([row[place] for place in places])
                if len(block.rows) == BLOCK or lines.characters > CHARACTERS:
                    yield block
                    block, lines.characters = Block(file, [], []), 0
            elif row:
                report(file, start, f"wrong number of columns, not {width}", ",".join(row))
        if block.rows:
            yield block


def _header(file: str, reader: Iterator[list[str]], lines: Lines) -> list[str] | None:
    """The names in the first row, or None for a file without any row."""
    try:
        names = next((row for row in reader if row), None)
    except csv.Error as error:
        raise InputError(f"'{file}', line 1: no row of column names: {error}") from error
    if reason := lines.mend():
        raise InputError(
            f"'{file}', line 1, the names of the columns: {reason}. Set the encoding, or convert "
            "the file to UTF-8 text"
        )
    return None if names is None else [name.strip() for name in names]


def _malformed(error: csv.Error, start: int, end: int) -> tuple[str, str]:
    """The reason and the text to report for a row that the csv module refuses."""
    text = f"{error}; lines {start} to {end}"
    if "field larger" in str(error):
        return f"cell of more than {LONGEST_CELL:,} characters", f"{text}: a quote left open?"
    if "unexpected end" in str(error):
        return "a quote that is never closed", text
    return "malformed quotes or line ends", text


def _objects(
    file: str, form: str, encoding: str, wanted: list[str], keys: _Keys, report: Report
) -> Iterator[Block]:
    """One object a line: JSON, or Python literals, which are parsed and never evaluated."""
    parse = _json if form == "jsonl" else ast.literal_eval
    block = Block(file, [], [])
    with Lines(file, encoding) as lines:
        for line in lines:
            text, lines.row = line.strip(), 0
            if reason := lines.mend():
                report(file, lines.number, reason, text)
                continue
            if not text:
                continue
            if form == "literals" and len(text) > LONGEST_LITERAL:
                report(
                    file, lines.number, f"line of more than {LONGEST_LITERAL:,} characters", text
                )
                continue
            if lines.number == 1 and text.startswith("["):
                raise InputError(
                    f"'{file}' is one JSON list: it must hold one object a line (JSON lines)"
                )
            try:
                row = parse(text)
            except _RepeatedKeyError:
                report(file, lines.number, "a key that an object has twice", text)
                continue
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                report(file, lines.number, f"not {_CALLED[form]}", text)
                continue
            if not isinstance(row, dict):
                report(file, lines.number, "not an object of names and values", text)
                continue
            if "\\u" in text.lower() and not _encodable(row):
                report(file, lines.number, "a character that is only half given", text)
                continue
            keys.add(row)
            block.lines.append(lines.number)
            block.rows.append([row.get(name) for name in wanted])
            if len(block.rows) == BLOCK or lines.characters > CHARACTERS:
                yield block
                block, lines.characters = Block(file, [], []), 0
    if block.rows:
        yield block


class _RepeatedKeyError(Exception):
    """An object has a key twice: which of its values counts is not said."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError
    return found


_json = json.JSONDecoder(object_pairs_hook=_distinct).decode
_CALLED = {"jsonl": "JSON", "literals": "a Python literal"}


def _encodable(row: dict[str, Any]) -> bool:
    """Whether no text holds half of a surrogate pair, which has no encoding."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode("utf-8")
    except (UnicodeEncodeError, TypeError, RecursionError):
        return False
    return True


class _Keys:
    """The keys of the first objects of all files: a row may leave some out, but not every row."""

    def __init__(self, files: list[str], needed: list[str]) -> None:
        self.files, self.needed = files, needed
        self.seen: set[str] = set()
        self.rows = 0

    def add(self, row: dict[Any, Any]) -> None:
        if self.rows <= BLOCK:
            self.rows += 1
            for name in row:
                known = isinstance(name, str) and len(name) <= LONGEST_SHOWN
                if (known and len(self.seen) < MOST_KEYS) or name in self.needed:
                    self.seen.add(name)
            if self.rows == BLOCK:
                self.check()

    def check(self) -> None:
        for name in self.needed if self.rows else ():
            _find(self.files[0], name, sorted(self.seen))


def _parquet(
    file: str,
    wanted: list[str],
    needed: list[str],
    report: Report,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[Block]:
    """Parquet; the line of a row is its number. Of too long a cell only the length is fetched."""
    cursor = connection.cursor()
    try:
        described = cursor.execute("DESCRIBE SELECT * FROM read_parquet(?)", [[file]]).fetchall()
        types = {row[0]: row[1] for row in described}
        check_columns(len(described), f"'{file}'")
        for name in needed:
            _find(file, name, [row[0] for row in described])
        cells, sizes = zip(*(_cell(name, types.get(name)) for name in wanted), strict=True)
        rows = cursor.execute(
            f"SELECT {', '.join(cells)}, greatest({', '.join(sizes)}), {' + '.join(sizes)}, "
            "file_row_number FROM read_parquet(?, file_row_number=true)",
            [[file]],
        )
        block, characters = Block(file, [], []), 0
        while fetched := rows.fetchmany(min(PARQUET_FETCHED, PARQUET_BLOCK)):
            for *row, longest, total, number in fetched:
                if longest > LONGEST_CELL:
                    reason = f"cell of more than {LONGEST_CELL:,} characters"
                    report(file, number + 1, reason, " | ".join(map(str, row)))
                    continue
                block.lines.append(number + 1)
                block.rows.append(row)
                characters += total
            if len(block.rows) >= PARQUET_BLOCK or characters > CHARACTERS:
                yield block
                block, characters = Block(file, [], []), 0
        if block.rows:
            yield block
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{file}' cannot be read as Parquet: {reason}") from error
    finally:
        cursor.close()


def _cell(name: str, kind: str | None) -> tuple[str, str]:
    """SQL for the value of a column, and for its length as text; ``kind`` None: no such column."""
    if kind is None:
        return "NULL", "0"
    column = '"{}"'.format(name.replace('"', '""'))
    if _SHORT.fullmatch(kind):
        return column, "0"
    text = column if kind == "VARCHAR" else f"{column}::VARCHAR"
    size = f"coalesce(length({text}), 0)"
    return f"CASE WHEN {size} <= {LONGEST_CELL} THEN {column} END", size


def _find(file: str, name: str, names: list[str]) -> int:
    places = [place for place, known in enumerate(names) if known == name]
    if not places:
        raise InputError(
            f"'{file}' has no column '{name}'.{did_you_mean(name, names)} Its columns: "
            f"{preview((known[:LONGEST_SHOWN] for known in names), count=50)}"
        )
    if len(places) > 1:
        raise InputError(f"'{file}' has {len(places)} columns '{name}': give each its own name")
    return places[0]
