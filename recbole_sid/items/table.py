"""The item table: raw ids and raw texts, read from RecBole's ``.item`` atomic file.

RecBole's own reader splits text into words, treats a leading quote as quoting and the words
``NA`` and ``None`` as missing. A prompt needs the text as it was written, so this module reads the
file itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.items.category import split_category
from recbole_sid.limits import bounded_lines, check_columns, odd_id, shown
from recbole_sid.settings import require

FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
BOM = b"\xef\xbb\xbf"
SHOWN_ERRORS = 10
ALL_TEXT = "item_text"  # the placeholder for all text fields in a prompt


@dataclass(frozen=True)
class ItemFields:
    """Which columns of the ``.item`` file mean what. Defaults: ``properties/items.yaml``."""

    item_text_fields: list[str]
    item_category_field: str | None
    item_category_format: Literal["quoted", "separator", "plain"]
    item_category_separator: str
    item_brand_field: str | None
    item_price_field: str | None

    def __post_init__(self) -> None:
        texts = self.item_text_fields
        require(
            len(texts) > 0 and len(set(texts)) == len(texts) and all(texts),
            "item_text_fields",
            texts,
            "one or more column names, each once",
        )
        require(
            self.item_category_separator != "",
            "item_category_separator",
            self.item_category_separator,
            "at least one character",
        )
        # A placeholder of the prompt must mean one thing.
        for name, column in {**self.roles, ALL_TEXT: ALL_TEXT + "_fields"}.items():
            require(
                name not in texts or column in (None, name),
                "item_text_fields",
                texts,
                f"without {name!r}, since {{{name}}} stands for {column!r} in the prompt",
                "Rename the column",
            )

    @property
    def roles(self) -> dict[str, str | None]:
        """The column behind each of the roles ``category``, ``brand`` and ``price``."""
        return {
            "category": self.item_category_field,
            "brand": self.item_brand_field,
            "price": self.item_price_field,
        }

    @property
    def columns(self) -> list[str]:
        """Every column named, once each: text fields first, then category, brand, price."""
        named = [column for column in self.roles.values() if column is not None]
        return list(dict.fromkeys([*self.item_text_fields, *named]))


@dataclass(frozen=True)
class ItemTable:
    """Items and their texts, row by row.

    Attributes:
        tokens: raw item ids, (n,), each once.
        columns: raw cell texts, (n,) a column, aligned with ``tokens``; nothing is converted.
        n_without_row: how many of ``tokens`` have no row in the file (their cells are empty).
        n_dropped: how many rows of the file were not asked for by ``aligned``.
    """

    tokens: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    n_without_row: int = 0
    n_dropped: int = 0

    @classmethod
    def read(
        cls,
        path: str | Path,
        id_field: str,
        fields_needed: Iterable[str],
        separator: str = "\t",
    ) -> ItemTable:
        """Read the columns ``fields_needed`` of the atomic file ``path``, line by line.

        Args:
            path: a UTF-8 file whose first line names the columns as ``name:type``.
            id_field: the column of raw item ids, without its type.
            fields_needed: columns to keep, without their types.
            separator: between cells. Quotes have no meaning.

        Raises:
            InputError: no such file or column, a malformed header, too long a line, or lines with a
                wrong number of cells, a NUL character, an id that is empty, holds what cannot be
                seen or was seen before, in this or another Unicode form (the first ten are listed).
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"no item file {str(path)!r}. Check data_path and dataset, or give your own "
                "vectors with item_embedding_file"
            )
        lines = _decoded_lines(path)
        _, header = next(lines, (1, ""))
        names = _parse_header(path, header, separator)
        needed = list(dict.fromkeys(fields_needed))
        places = {name: _find_column(path, name, names) for name in [id_field, *needed]}

        seen: dict[str, int] = {}  # raw id -> line number, in file order
        forms: dict[str, str] = {}  # NFC form -> raw id, of those beyond ASCII
        cells: dict[str, list[str]] = {name: [] for name in needed}
        errors = []
        n_errors = 0
        for number, line in lines:
            if not line:  # as RecBole does: a blank line is no row
                continue
            row = line.split(separator)
            error = None
            if len(row) != len(names):
                error = f"{len(row)} cells instead of {len(names)}"
            elif "\0" in line:
                error = "a NUL character"
            elif not (token := row[places[id_field]]).strip():
                error = "the item id is empty"
            elif token in seen:
                error = f"item id {shown(token)} is already on line {seen[token]}"
            elif (problem := odd_id(token, forms)) is not None:
                error = f"item id {problem}"
            else:
                seen[token] = number
                for name in needed:
                    cells[name].append(row[places[name]])
            if error is not None:
                n_errors += 1
                if n_errors <= SHOWN_ERRORS:
                    errors.append(f"line {number}: {error}")
        if n_errors:
            more = "; …" if n_errors > SHOWN_ERRORS else ""
            raise InputError(
                f"item file {str(path)!r} has {n_errors} bad lines: {'; '.join(errors)}{more}. "
                "Correct or remove them"
            )
        if not seen:
            raise InputError(f"item file {str(path)!r} has a header but no items")
        return cls(tuple(seen), {name: tuple(values) for name, values in cells.items()})

    def aligned(self, tokens: Iterable[str]) -> ItemTable:
        """The rows of the given raw ids, in their order.

        An id without a row gets empty cells and is counted in ``n_without_row``; rows that are
        not asked for are left out and counted in ``n_dropped``.
        """
        tokens = tuple(tokens)
        row_of = {token: row for row, token in enumerate(self.tokens)}
        rows = [row_of.get(token) for token in tokens]
        columns = {
            name: tuple("" if row is None else cells[row] for row in rows)
            for name, cells in self.columns.items()
        }
        n_without_row = rows.count(None)
        n_dropped = len(self.tokens) - (len(tokens) - n_without_row)
        return ItemTable(tokens, columns, n_without_row, n_dropped)

    def category_paths(self, fields: ItemFields) -> list[tuple[str, ...]]:
        """The category path of every item, root first, (n,); an empty path where there is none.

        Raises:
            InputError: no ``item_category_field`` is set, or cells do not have the format
                ``item_category_format`` (counted, the first one shown).
        """
        if fields.item_category_field is None:
            raise InputError(
                "setting 'item_category_field' is None, but category paths are needed. Name the "
                f"column: {preview(self.columns)}"
            )
        paths = []
        errors = []
        for token, cell in zip(self.tokens, self.columns[fields.item_category_field], strict=True):
            try:
                paths.append(
                    split_category(
                        cell, fields.item_category_format, fields.item_category_separator
                    )
                )
            except InputError as error:
                errors.append(f"item {token!r}: {error}")
        if errors:
            raise InputError(
                f"column {fields.item_category_field!r} holds {len(errors)} malformed category "
                f"paths; the first: {errors[0]}"
            )
        return paths


def _decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of ``path`` with their numbers from 1, without byte-order mark and line end."""
    what = f"item file {str(path)!r}"
    with path.open("rb") as file:
        for number, raw in bounded_lines(file, what):
            line = raw.removeprefix(BOM) if number == 1 else raw
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{what}, line {number}: not UTF-8 ({error.reason} at byte "
                    f"{error.start + 1}). Convert the file to UTF-8"
                ) from None
            yield number, text.removesuffix("\n").removesuffix("\r")


def _parse_header(path: Path, header: str, separator: str) -> list[str]:
    """The column names of a header of ``name:type`` cells."""
    names: dict[str, None] = {}
    check_columns(header.count(separator) + 1, f"item file {str(path)!r}, line 1")
    for cell in header.split(separator):
        name, _, kind = cell.partition(":")
        if not name or kind not in FIELD_TYPES:
            raise InputError(
                f"item file {str(path)!r}, line 1: header cell {shown(cell)} must be name:type "
                f"with a type of {', '.join(FIELD_TYPES)}; cells are separated by {separator!r}"
            )
        if name in names:
            raise InputError(f"item file {str(path)!r}, line 1: column {shown(name)} appears twice")
        names[name] = None
    return list(names)


def _find_column(path: Path, name: str, names: list[str]) -> int:
    if name not in names:
        raise InputError(
            f"item file {str(path)!r} has no column {name!r}; its columns are "
            f"{', '.join(map(shown, names[:50]))}.{did_you_mean(name, names)} Set ITEM_ID_FIELD, "
            "item_text_fields, item_category_field, item_brand_field and item_price_field to "
            "columns of this file"
        )
    return names.index(name)
