"""The table of items: read, made safe for both readers, each id once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.preparing.mapping import ItemColumns, ItemSource
from recbole_sid.preparing.sources import read_blocks
from recbole_sid.preparing.store import Counter, Store
from recbole_sid.preparing.values import (
    CATEGORY_SEPARATOR,
    BadValueError,
    category_names,
    clean,
    id_problem,
    id_text,
    is_number,
    price_text,
    value_text,
)

DUPLICATE = "item id seen before, with other values"


def read_items(store: Store, source: ItemSource, columns: ItemColumns) -> dict[str, Any]:
    """Fill the table ``items`` (item, one column a written column, place); returns counts.

    The columns in the store are called c0, c1 …; ``place`` is the row's place in the feed. A row
    that repeats an id is dropped if it says the same, and rejected if it says something else.

    Raises:
        InputError: the files cannot be read, or no row is left.
    """
    written = columns.written
    wanted = [columns.item_id]
    parts: list[tuple[str, list[int]]] = []
    for name in written:
        parts.append((name, list(range(len(wanted), len(wanted) + len(columns.sources(name))))))
        wanted += columns.sources(name)
    maker = _Cells(
        source, parts, {n for n in columns.others or {} if columns.type_of(n) == "float"}
    )
    cells = [f"c{number}" for number in range(len(written))]
    store.run(
        "CREATE TABLE items_read (file VARCHAR, line BIGINT, place BIGINT, item VARCHAR, "
        + ", ".join(f"{cell} VARCHAR" for cell in cells) + ")"
    )  # fmt: skip

    def report(file: str, line: int, reason: str, text: str) -> None:
        store.reject("items", file, line, reason, text)

    counter, n_read = Counter("items"), 0
    needed = wanted if source.absent == "refuse" else [columns.item_id]
    for block in read_blocks(source, "items.files", wanted, needed, report, store.connection):
        lines: list[int] = []
        rows: list[list[str]] = []
        for line, row in zip(block.lines, block.rows, strict=True):
            try:
                rows.append(maker.cells(row))
                lines.append(line)
            except BadValueError as error:
                report(block.file, line, str(error), " | ".join(map(str, row)))
        if rows:
            turned = list(map(list, zip(*rows, strict=True)))
            first = counter.rows + 1
            store.insert(
                "items_read",
                {
                    "file": [block.file] * len(rows),
                    "line": lines,
                    "place": list(range(first, first + len(rows))),
                    "item": turned[0],
                    **{c: turned[1 + n] for n, c in enumerate(cells)},
                },
            )
        n_read += len(rows)
        counter.add(len(block.rows))
        store.settle()
    store.settle()
    n_repeated = _drop_repeated(store, cells)
    store.settle()
    reasons = store.reasons("items")
    n_rows = n_read + sum(n for reason, n in reasons.items() if reason != DUPLICATE)
    if not store.one("SELECT count(*) FROM items"):
        raise InputError(nothing_left("items", n_rows, store))
    return {
        "rows": n_rows,
        "rejected": reasons,
        "repeated_rows": n_repeated,
        "prices_not_understood": maker.bad_prices,
        "quotes_replaced": maker.quotes_replaced,
        "items": store.one("SELECT count(*) FROM items"),
    }


def nothing_left(part: str, n_rows: int, store: Store) -> str:
    """The message for a part of the data without any row that can be used."""
    if not n_rows:
        return f"'{part}.files' hold no rows"
    first = "; ".join(store.first_rejected(part, count=3))
    return f"none of the {n_rows:,} rows of '{part}.files' can be used; the first: {first}"


def _drop_repeated(store: Store, cells: list[str]) -> int:
    """From ``items_read`` to ``items``: the first row of every id; how many said the same again."""
    store.run(
        "CREATE TABLE again AS SELECT item, min(place) AS first FROM items_read "
        "GROUP BY item HAVING count(*) > 1"
    )
    same = " AND ".join(f"a.{cell} = b.{cell}" for cell in cells)
    store.run(
        f"""INSERT INTO rejected
        SELECT 'items', b.file, b.line, '{DUPLICATE}', b.item || ' | ' || left(b.c0, 100)
        FROM items_read b JOIN again USING (item) JOIN items_read a ON a.place = again.first
        WHERE b.place <> again.first AND NOT ({same})"""
    )
    store.run(
        f"""CREATE TABLE items AS
        SELECT item, {", ".join(cells)}, place FROM items_read
        WHERE place NOT IN (SELECT b.place FROM items_read b JOIN again USING (item)
                            WHERE b.place <> again.first)"""
    )
    dropped = store.one("SELECT (SELECT count(*) FROM items_read) - (SELECT count(*) FROM items)")
    store.run("DROP TABLE items_read")
    store.run("DROP TABLE again")
    return dropped - store.reasons("items").get(DUPLICATE, 0)


class _Cells:
    """Makes the cells of an item, and counts what it had to change."""

    def __init__(
        self, source: ItemSource, parts: list[tuple[str, list[int]]], numbers: set[str]
    ) -> None:
        self.source, self.parts, self.numbers = source, parts, numbers
        self.missing = {*source.missing, ""}
        self.bad_prices = 0
        self.quotes_replaced = 0

    def cells(self, row: Sequence[Any]) -> list[str]:
        """The id and the cells; raises BadValueError for a row that cannot be written."""
        token = id_text(row[0])
        problem = id_problem("" if token in self.missing else token, "item")
        if problem:
            raise BadValueError(problem)
        made = [token]
        for name, places in self.parts:
            values = [row[place] for place in places]
            if name == "category":
                cell = self._category(values)
            elif name == "price":
                cell = self._price(values[0])
            elif name in self.numbers:
                cell = self._number(name, values[0])
            elif name == "image" and isinstance(values[0], (list, tuple)):
                cell = "|".join(map(self._text, values[0]))
            else:
                cell = " ".join(filter(None, map(self._text, values)))
            made.append(clean(cell, with_html=False))
        return made

    def _text(self, value: Any) -> str:
        text = value_text(value)
        if text.strip() in self.missing:
            return ""
        cleaned = clean(text, self.source.html)
        self.quotes_replaced += cleaned.startswith("''") and not text.startswith("''")
        return cleaned

    def _category(self, values: list[Any]) -> str:
        several = len(values) > 1
        names = values if several else category_names(values[0], self.source.category_separator)
        # A name that holds the separator would be read as two.
        cleaned = [self._text(name).replace(CATEGORY_SEPARATOR, " / ") for name in names]
        return CATEGORY_SEPARATOR.join(filter(None, cleaned))

    def _price(self, value: Any) -> str:
        text = self._text(value)
        price = price_text(text) if text else ""
        self.bad_prices += price is None
        return price or ""

    def _number(self, name: str, value: Any) -> str:
        text = self._text(value)
        # As text: a float of many digits would change.
        if text and not is_number(text):
            raise BadValueError(f"a value of '{name}' that is not a number")
        return text
