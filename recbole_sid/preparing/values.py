"""From the value of a cell to the text of a cell in an atomic file that both readers agree on.

RecBole reads atomic files with pandas' Python parser: a cell that begins with a double quote is
read as quoted, some words are read as missing, and a cell of more than 131,072 characters is
refused. Our own reader takes every character as it is. What is written here reads the same in both.
"""

from __future__ import annotations

import datetime
import decimal
import html
import math
import re
from typing import Any

from recbole_sid.limits import INVISIBLE, has_invisible

# Python's csv module, which pandas' parser is made of, takes no longer cell.
LONGEST_CELL = 131_072
SPACE = " \t\r\n\f\v"
CONTROL = r"[\x00-\x1f\x7f]"
# pandas reads these as missing: such an id would become RecBole's padding.
READ_AS_MISSING = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
CATEGORY_SEPARATOR = " > "

_CONTROL = re.compile(CONTROL)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_PRICE = re.compile(r"[^\d.,+-]{0,4}(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)[^\d.,+-]{0,4}")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_MISSING = frozenset(READ_AS_MISSING)


class BadValueError(Exception):
    """A value that no cell can be made of; its message is the reason for leaving the row out."""


def value_text(value: Any) -> str:
    """The text of a plain value; nothing, and NaN, is empty; a list is joined by spaces.

    Raises:
        BadValueError: the value, or one in the list, is a list or object.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, decimal.Decimal)):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        # Tables with gaps keep whole numbers as floats.
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, (list, tuple)) and not any(isinstance(v, (list, tuple)) for v in value):
        return " ".join(filter(None, map(value_text, value)))
    raise BadValueError("a value that is neither text nor a number")


def id_text(value: Any) -> str:
    """The text of an id: text or a whole number, without space around it."""
    if isinstance(value, str):
        return value.strip(SPACE)
    odd = isinstance(value, (list, tuple, dict, bool))
    if odd or (isinstance(value, float) and not math.isnan(value) and not value.is_integer()):
        raise BadValueError("an id that is neither text nor a whole number")
    return value_text(value)


def id_problem(text: str, name: str) -> str | None:
    """Why ``text`` cannot be an id, or None; the same rule in SQL is :func:`sql_id_problem`."""
    if not text:
        return f"missing {name} id"
    if _CONTROL.search(text):
        return f"{name} id with a tab, line end or control character"
    if has_invisible(text):
        return f"{name} id with an invisible character"
    if text.startswith('"'):
        return f"{name} id that begins with a double quote"
    if text in _MISSING:
        return f"{name} id that RecBole reads as missing"
    if len(text) > LONGEST_CELL:
        return f"cell of more than {LONGEST_CELL:,} characters"
    return None


def sql_id_problem(column: str, name: str) -> str:
    """The branches of a SQL ``CASE`` for :func:`id_problem`."""
    words = ", ".join(f"'{word}'" for word in READ_AS_MISSING)
    return f"""
        WHEN {column} = '' THEN 'missing {name} id'
        WHEN regexp_matches({column}, '{CONTROL}')
            THEN '{name} id with a tab, line end or control character'
        WHEN strlen({column}) > length({column}) AND regexp_matches({column}, '{INVISIBLE}')
            THEN '{name} id with an invisible character'
        WHEN starts_with({column}, '"') THEN '{name} id that begins with a double quote'
        WHEN {column} IN ({words}) THEN '{name} id that RecBole reads as missing'
        WHEN length({column}) > {LONGEST_CELL}
            THEN 'cell of more than {LONGEST_CELL:,} characters'"""


def clean(text: str, with_html: bool) -> str:
    """One line without control characters or runs of space, that no reader takes for quoted.

    In a cell that begins with a double quote, every double quote becomes two single ones.
    """
    if with_html:
        text = _TAG.sub(" ", html.unescape(text))
    text = " ".join(_CONTROL.sub(" ", text).split())
    if text.startswith('"'):
        text = text.replace('"', "''")
    if len(text) > LONGEST_CELL:
        raise BadValueError(f"cell of more than {LONGEST_CELL:,} characters")
    return text


def category_names(value: Any, separator: str) -> list[Any]:
    """The names of a path: a text is split; of a list of paths, as in Amazon 2014, the first."""
    if isinstance(value, (list, tuple)):
        return list(value[0]) if value and isinstance(value[0], (list, tuple)) else list(value)
    return value_text(value).split(separator)


def price_text(text: str) -> str | None:
    """The number in a price such as ``$1,299.00``; None if it is not understood or not finite."""
    found = _PRICE.fullmatch(text.strip(SPACE))
    number = found[1].replace(",", "") if found else ""
    return number if is_number(number) else None


def is_number(text: str) -> bool:
    """Whether ``text`` is a finite number as all readers write it: no separators of thousands."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))
