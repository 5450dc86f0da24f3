"""What RecBole's reader takes without a word, or with too much memory, in an atomic file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from recbole_sid.errors import InputError
from recbole_sid.limits import bounded_lines, check_columns, odd_id, shown

SHOWN_ERRORS = 10


def check_rows(path: str | Path, columns: Iterable[str], separator: str) -> None:
    """Go through a file that RecBole is about to read; nothing of it is kept.

    Args:
        columns: those that are read, ``name:type``. One that is not there is left to RecBole.

    Raises:
        InputError: a line or the header is too long, or rows hold a NUL character, more cells than
            there are columns, a cell of type ``token`` with an invisible character or in another
            Unicode form than before, or an infinite number (counted, the first ten are listed).
            RecBole would name no line, take two ids that look the same, or train on infinity.
    """
    what = f"data file '{path}'"
    columns = set(columns)
    errors: list[str] = []
    n_errors = n_columns = 0
    forms: dict[int, dict[str, str]] = {}  # of the columns of ids
    floats: list[int] = []
    with Path(path).open("rb") as file:
        for number, raw in bounded_lines(file, what):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip("\r\n")
            if number == 1:
                n_columns = line.count(separator) + 1
                check_columns(n_columns, f"{what}, line 1")
                read = [(n, c) for n, c in enumerate(line.split(separator)) if c in columns]
                forms = {place: {} for place, cell in read if cell.endswith(":token")}
                floats = [place for place, cell in read if cell.endswith(":float")]
                continue
            cells = line.split(separator)
            error = None
            # A separator at the end of a row does no harm.
            if len(cells) > n_columns + (cells[-1] == ""):
                error = f"{len(cells)} cells instead of {n_columns}"
            elif "\0" in line:
                error = "a NUL character"
            elif not line.isascii() and (odd := _odd(cells, forms)):
                error = odd
            elif infinite := [n for n in floats if n < len(cells) and _is_infinite(cells[n])]:
                error = f"{shown(cells[infinite[0]])} is not a finite number"
            if error is not None:
                n_errors += 1
                if n_errors <= SHOWN_ERRORS:
                    errors.append(f"line {number}: {error}")
    if n_errors:
        more = "; …" if n_errors > SHOWN_ERRORS else ""
        raise InputError(
            f"{what} has {n_errors:,} bad lines: {'; '.join(errors)}{more}. Correct or remove them"
        )


def _odd(cells: list[str], forms: dict[int, dict[str, str]]) -> str | None:
    """What is wrong with the first odd id of a row."""
    found = (odd_id(cells[n], known) for n, known in forms.items() if n < len(cells))
    return next(filter(None, found), None)


def _is_infinite(cell: str) -> bool:
    try:
        return math.isinf(float(cell))
    except ValueError:  # missing, or no number: both are RecBole's to say
        return False
