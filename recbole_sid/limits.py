"""How much of a file from outside is taken in at once, and which characters an id may not hold.

The bounds keep memory small whatever a file holds: nothing longer is ever read as a whole. They are
far above what real tables have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO

from recbole_sid.errors import InputError

# Bytes: 16 MB. Rows of real feeds have a few KB; one row of so many empty cells takes 0.2 GB.
LONGEST_LINE = 1 << 24
# Four times as many as a spreadsheet has. More come from a wrong separator, or to do harm.
MOST_COLUMNS = 1 << 16
# Characters of a foreign text that a message repeats.
LONGEST_SHOWN = 80

# What a reader does not see: two ids that differ by them alone look the same. Controls of Latin-1,
# soft hyphen, marks of zero width and of direction, invisible operators, the byte-order mark.
INVISIBLE = (
    "[\x80-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_INVISIBLE = re.compile(INVISIBLE)


def has_invisible(text: str) -> bool:
    """Whether an id holds characters that cannot be seen."""
    return not text.isascii() and _INVISIBLE.search(text) is not None


def odd_id(token: str, forms: dict[str, str]) -> str | None:
    """Why an id looks like another one, or may; None where it does not.

    Args:
        forms: takes the ids beyond ASCII, by their composed form (NFC); of one column.
    """
    if token.isascii():
        return None
    if has_invisible(token):
        return f"{shown(token)} holds an invisible character"
    form = unicodedata.normalize("NFC", token)
    first = form if form.isascii() else forms.setdefault(form, token)
    if first != token:
        return f"{ascii(token)[:LONGEST_SHOWN]} is {ascii(first)[:LONGEST_SHOWN]} in another form"
    return None


def shown(text: str) -> str:
    """A foreign text as a message repeats it: quoted, invisible characters spelt out, not long."""
    cut = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", repr(cut))


def bounded_lines(file: BinaryIO, what: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, line ends included.

    Args:
        what: names the file in messages.

    Raises:
        InputError: a line is longer than ``LONGEST_LINE``; no more than that is read of it.
    """
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        check_length(line, f"{what}, line {number}")
        yield number, line


def check_length(line: bytes, where: str) -> None:
    """InputError if a line that ``readline(LONGEST_LINE + 1)`` gave is not the whole line."""
    if len(line) > LONGEST_LINE:
        raise InputError(
            f"{where}: longer than {LONGEST_LINE:,} bytes. Is it a text file with one row a line?"
        )


def check_columns(count: int, where: str) -> None:
    """InputError if a table has more than ``MOST_COLUMNS``."""
    if count > MOST_COLUMNS:
        raise InputError(
            f"{where}: {count:,} columns, but at most {MOST_COLUMNS:,} are read. Is it the right "
            "separator? Else leave out columns that are not needed"
        )
