"""The log of events: read, judged row by row in SQL, and kept as ids and times."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import duckdb

from recbole_sid.errors import InputError
from recbole_sid.preparing.items import nothing_left
from recbole_sid.preparing.mapping import EventColumns, EventSource
from recbole_sid.preparing.sources import Block, read_blocks
from recbole_sid.preparing.store import Counter, Store
from recbole_sid.preparing.values import BadValueError, id_text, sql_id_problem, value_text

logger = logging.getLogger("recbole_sid")

LAST_SECOND = 253_402_300_799  # of the year 9999
YEAR_1980, YEAR_2100 = 315_532_800, 4_102_444_800  # their first seconds


def read_events(store: Store, source: EventSource, columns: EventColumns) -> dict[str, Any]:
    """Fill the table ``events`` (user, item, us: microseconds since 1970, place, positive).

    ``place`` is the row's place in the log, from 1. Without a column of times it is the time too,
    in seconds. ``positive`` says whether the type is one of ``source.positive``. Returns counts.

    Raises:
        InputError: the files cannot be read, the time pattern is none, or no row is left.
    """
    _check_pattern(store, source.time_format)
    store.run("CREATE TABLE events (user VARCHAR, item VARCHAR, us BIGINT, place BIGINT,"
              " positive BOOLEAN)")  # fmt: skip
    store.run(
        "CREATE TEMP TABLE read (line BIGINT, place BIGINT, user VARCHAR, item VARCHAR, "
        "event VARCHAR, time VARCHAR)"
    )
    names = [columns.user_id, columns.item_id]
    names += [name for name in (columns.event, columns.time) if name is not None]
    wanted = list(dict.fromkeys(names))
    places = [
        None if name is None else wanted.index(name)
        for name in (columns.user_id, columns.item_id, columns.event, columns.time)
    ]
    judge = _judge(source, columns)

    def report(file: str, line: int, reason: str, text: str) -> None:
        store.reject("events", file, line, reason, text)

    counter = Counter("events")
    types: dict[str, int] = {}
    for block in read_blocks(source, "events.files", wanted, wanted, report, store.connection):
        _insert(store, block, places, counter.rows, report)
        store.run(f"CREATE OR REPLACE TEMP TABLE judged AS {judge}")
        store.run(
            "INSERT INTO rejected SELECT 'events', ?, line, reason, "
            "left(concat_ws(' | ', user, item, event, time), 200) FROM judged "
            "WHERE reason IS NOT NULL",
            [block.file],
        )
        for event, count in store.run(
            "SELECT event, count(*) FROM judged WHERE reason IS NULL GROUP BY 1"
        ).fetchall():
            types[event] = types.get(event, 0) + count
        store.run(
            f"INSERT INTO events SELECT user, item, us, place, {_among('event', source.positive)} "
            "FROM judged WHERE reason IS NULL AND "
            + ("true" if columns.event is None else _among("event", source.keep))
        )
        store.run("TRUNCATE read")
        counter.add(len(block.rows))
        store.settle()
    store.settle()
    reasons = store.reasons("events")
    n_rows = sum(types.values()) + sum(reasons.values())
    if not sum(types.values()):
        raise InputError(nothing_left("events", n_rows, store))
    kept = store.one("SELECT count(*) FROM events")
    if not kept:
        raise InputError(
            f"none of the {n_rows:,} events is of a type in 'events.keep': {source.keep}. Types "
            f"in the log: {dict(sorted(types.items()))}"
        )
    _say_odd_times(store, source.time_format, columns)
    by_type = dict(sorted(types.items())) if columns.event is not None else {}
    return {"rows": n_rows, "rejected": reasons, "types": by_type, "kept": kept}


def _say_odd_times(store: Store, form: str, columns: EventColumns) -> None:
    """Times that are possible, but tell of another unit."""
    if columns.time is None:
        return
    last = store.one("SELECT max(us) FROM events")
    if form == "milliseconds" and last < YEAR_1980 * 1_000_000:
        logger.warning(
            "All events come before the year 1980 as milliseconds: if '%s' holds seconds, set "
            "events.time_format to seconds",
            columns.time,
        )
    late = store.one("SELECT count(*) FROM events WHERE us >= ?", [YEAR_2100 * 1_000_000])
    if late:
        logger.warning(
            "%s of the events come after the year 2099: are the times in '%s' as "
            "events.time_format says (%s)?",
            f"{late:,}",
            columns.time,
            form,
        )


def _insert(
    store: Store, block: Block, places: list[int | None], n_before: int, report: Any
) -> None:
    """The rows of a block into the table ``read``; those of impossible values are reported."""
    lines, rows = block.lines, block.rows
    # CSV gives text alone, which needs no further look.
    if not all(type(value) is str for row in rows for value in row):
        lines, rows = _as_text(block, places, report)
    empty = [""] * len(rows)
    cells = [empty if place is None else [row[place] for row in rows] for place in places]
    store.insert(
        "read",
        {
            "line": lines,
            "place": list(range(n_before + 1, n_before + 1 + len(rows))),
            **dict(zip(("user", "item", "event", "time"), cells, strict=True)),
        },
    )


def _as_text(
    block: Block, places: list[int | None], report: Any
) -> tuple[list[int], list[Sequence[str]]]:
    """Values of JSON and Parquet as text."""
    ids = set(places[:2])
    lines: list[int] = []
    rows: list[Sequence[str]] = []
    for line, row in zip(block.lines, block.rows, strict=True):
        try:
            texts = [
                id_text(value) if place in ids else value_text(value)
                for place, value in enumerate(row)
            ]
        except BadValueError as error:
            report(block.file, line, str(error), " | ".join(map(str, row)))
            continue
        lines.append(line)
        rows.append(texts)
    return lines, rows


def _judge(source: EventSource, columns: EventColumns) -> str:
    """The query that gives each row of ``read`` its time, and the reason to leave it out."""
    space = "chr(32) || chr(9) || chr(10) || chr(11) || chr(12) || chr(13)"
    missing = _listed(["", *source.missing])

    def cell(name: str) -> str:
        trimmed = f"trim({name}, {space})"
        return f"CASE WHEN {trimmed} IN ({missing}) THEN '' ELSE {trimmed} END AS {name}"

    branches = sql_id_problem("user", "user") + sql_id_problem("item", "item")
    if columns.event is not None:
        known = _listed([*source.keep, *source.ignore])
        branches += "\nWHEN event = '' THEN 'missing event type'"
        branches += f"\nWHEN event NOT IN ({known}) THEN 'unknown event type'"
    if columns.time is not None:
        branches += f"""
            WHEN time = '' THEN 'missing time'
            WHEN us IS NULL THEN 'time that is not {_quoted(source.time_format)}'
            WHEN us < 0 THEN 'negative time'
            WHEN us > {LAST_SECOND} * 1000000 THEN 'time after the year 9999'"""
    us = "place * 1000000" if columns.time is None else _microseconds(source.time_format)
    cells = ", ".join(map(cell, ("user", "item", "event", "time")))
    return f"""
        SELECT line, place, user, item, event, time, us::BIGINT AS us,
               CASE {branches} END AS reason
        FROM (SELECT *, {us} AS us FROM (SELECT line, place, {cells} FROM read))"""


def _microseconds(form: str) -> str:
    """SQL for the column ``time`` as microseconds since 1970; NULL if it does not parse."""
    if form in ("seconds", "milliseconds"):
        factor = 1_000_000 if form == "seconds" else 1_000
        # Beyond what a BIGINT holds, infinity included, it is the year 9999 that has passed.
        return (
            "CASE WHEN NOT contains(time, '_') AND NOT isnan(TRY_CAST(time AS DOUBLE)) THEN "
            f"round(greatest(least(TRY_CAST(time AS DOUBLE) * {factor}, 9e18), -9e18)) END"
        )
    if form == "iso":
        return "epoch_us(TRY_CAST(time AS TIMESTAMPTZ))"
    return f"epoch_us(try_strptime(time, '{_quoted(form)}')::TIMESTAMPTZ)"


def _check_pattern(store: Store, form: str) -> None:
    if form in ("seconds", "milliseconds", "iso"):
        return
    try:
        store.run(f"SELECT try_strptime('', '{_quoted(form)}')").fetchall()
    except duckdb.Error as error:
        raise InputError(f"setting 'events.time_format' is {form!r}: {error}") from error


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _among(column: str, texts: Sequence[str]) -> str:
    return f"{column} IN ({_listed(texts)})" if texts else "false"


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(f"'{_quoted(text)}'" for text in texts) or "NULL"
