"""The working store: a DuckDB database on disk, so that memory does not grow with the data."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from recbole_sid.errors import InputError
from recbole_sid.preparing.values import clean

logger = logging.getLogger("recbole_sid")

SHOWN = 10
TEXT_SHOWN = 200  # characters of a row in the file of rejected rows
REJECTED_HELD = 50_000  # rows that are left out, before they go to the disk
LINES_LOGGED = 1_000_000
FETCHED = 100_000
_MEMORY = re.compile(r"\d+(\.\d+)? ?[kmgt]i?b", re.IGNORECASE)


class Store:
    """The tables of one preparation, and the rows that were left out of them.

    Attributes:
        connection: to the database.
        strict: whether the first row that is left out is an error.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, strict: bool) -> None:
        self.connection, self.strict = connection, strict
        self._rejected: list[tuple[str, str, int, str, str]] = []
        self.run("CREATE TABLE rejected (part VARCHAR, file VARCHAR, line BIGINT,"
                 " reason VARCHAR, text VARCHAR)")  # fmt: skip

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
        return self.connection.execute(statement, list(parameters))

    def one(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """The single value that a query gives."""
        row = self.run(statement, parameters).fetchone()
        assert row is not None
        return row[0]

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows that a query gives, fetched some at a time, in their order."""
        with self.connection.cursor() as cursor:
            result = cursor.execute(statement, list(parameters))
            while block := result.fetchmany(FETCHED):
                yield from block

    def insert(self, table: str, columns: dict[str, list[Any]]) -> None:
        """Append rows to ``table``: whole numbers in the columns line and place, text in others."""
        frame = pd.DataFrame(
            {
                name: pd.Series(values, dtype="int64" if name in ("line", "place") else "string")
                for name, values in columns.items()
            }
        )
        self.connection.register("block", frame)
        self.run(f"INSERT INTO {table} BY NAME SELECT * FROM block")
        self.connection.unregister("block")

    def reject(self, part: str, file: str, line: int, reason: str, text: str) -> None:
        """Leave a row out; ``part`` is ``items`` or ``events``."""
        shown = clean(text[:TEXT_SHOWN].encode("utf-8", "replace").decode(), with_html=False)
        self._rejected.append((part, file, line, reason, shown))
        if len(self._rejected) == REJECTED_HELD:  # a file may hold nothing else
            self.settle()

    def settle(self) -> None:
        """Write down what was rejected since the last call; under ``strict``, refuse it.

        Raises:
            InputError: ``strict`` is set and a row was left out; the first one is named.
        """
        if self._rejected:
            names = ("part", "file", "line", "reason", "text")
            turned = map(list, zip(*self._rejected, strict=True))
            self.insert("rejected", dict(zip(names, turned, strict=True)))
            self._rejected.clear()
        if self.strict and (first := self.first_rejected(count=1)):
            raise InputError(f"--strict: {first[0]}")

    def first_rejected(self, part: str | None = None, count: int = SHOWN) -> list[str]:
        """The first rows that were left out, each as ``file, line: reason: text``."""
        rows = self.run(
            "SELECT file, line, reason, text FROM rejected WHERE ? IS NULL OR part = ? "
            "ORDER BY part DESC, file, line, reason LIMIT ?",
            [part, part, count],
        ).fetchall()
        return [f"'{file}', line {line}: {reason}: {text}" for file, line, reason, text in rows]

    def reasons(self, part: str) -> dict[str, int]:
        """How many rows were left out for which reason."""
        return dict(
            self.run(
                "SELECT reason, count(*) FROM rejected WHERE part = ? GROUP BY 1 ORDER BY 1", [part]
            ).fetchall()
        )


@contextmanager
def open_store(memory_limit: str, temp_folder: Path | None, strict: bool) -> Iterator[Store]:
    """A store in a folder of its own, which is removed with it.

    Args:
        memory_limit: what DuckDB may take before it spills to disk, such as ``1GB``.
        temp_folder: where the folder is made; the system's place for such files by default.
    """
    remedy = "is not understood: write it as 500MB or 2GB"
    if not _MEMORY.fullmatch(memory_limit):
        raise InputError(f"--memory_limit {memory_limit!r} {remedy}")
    if temp_folder is not None and not temp_folder.is_dir():
        raise InputError(f"--temp_folder: there is no folder '{temp_folder}'")
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=temp_folder) as folder:
        try:
            connection = duckdb.connect(
                str(Path(folder) / "store.duckdb"),
                config={"memory_limit": memory_limit, "temp_directory": folder},
            )
        except duckdb.Error as error:
            raise InputError(f"--memory_limit {memory_limit!r} {remedy}") from error
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_progress_bar = false")
            yield Store(connection, strict)
        except duckdb.OutOfMemoryException as error:
            raise InputError(
                f"{memory_limit} of memory are too little for this data: raise --memory_limit"
            ) from error
        finally:
            connection.close()


class Counter:
    """Says how many rows were read, every million of them."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, 0

    def add(self, rows: int) -> None:
        before, self.rows = self.rows, self.rows + rows
        if before // LINES_LOGGED != self.rows // LINES_LOGGED:
            logger.info("%s: %s rows read", self.name, f"{self.rows:,}")
