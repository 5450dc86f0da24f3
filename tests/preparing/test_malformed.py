"""Malformed input beyond ``test_bad_input``: refused, left out and counted, or made good.

Together the two files are the list of what ``prepare`` may be given. Nothing on it ends in a
traceback, and what is made good is said here too.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from recbole_sid.errors import InputError
from recbole_sid.preparing import atomic, prepare
from tests.preparing.feeds import (
    EVENTS,
    INTER,
    ITEM,
    ITEMS,
    csv_text,
    jsonl_text,
    lines_of,
    make,
    write_feed,
)
from tests.preparing.test_bad_input import Change, append, as_jsonl, both, event, put, replace


def as_parquet(damage: slice | None, rows: str = "") -> Change:
    """The events as Parquet, of which a part is overwritten; ``None`` cuts the file in half."""

    def change(folder: Path, mapping: dict[str, Any]) -> None:
        file = folder / "events.parquet"
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT * FROM read_csv('{folder}/events.csv', all_varchar=true) {rows}) "
                f"TO '{file}' (FORMAT parquet)"
            )
        raw = bytearray(file.read_bytes())
        if damage is None:
            del raw[len(raw) // 2 :]
        else:
            raw[damage] = b"\xff" * len(raw[damage])
        file.write_bytes(raw)
        mapping["events"]["files"] = file.name

    return change


def gzipped(begin: int, end: int, instead: bytes) -> Change:
    """The events packed, with other bytes in a place (counted from the end)."""

    def change(folder: Path, _: dict[str, Any]) -> None:
        whole = gzip.compress((folder / "events.csv").read_bytes())
        place, rest = len(whole) + begin, len(whole) + end
        (folder / "events.csv").write_bytes(whole[:place] + instead + whole[rest:])

    return change


def folder_for_file(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "feed.csv").mkdir()
    mapping["items"]["files"] = "feed.csv"


def lone_returns(text: str) -> str:
    return text.replace("\n", "\r")


MANY = [f"c{number}" for number in range(10_000)]
WIDE = f"user,ad,type,time,{','.join(MANY)}\nu1,a1,click,5{',x' * len(MANY)}\n"

REFUSED: dict[str, tuple[Change, str]] = {
    "UTF-16 without a mark": (
        replace("items.csv", csv_text(ITEMS).encode("utf-16-le")),
        "items.csv', line 1, the names of the columns: a NUL character. Set the encoding",
    ),
    "an archive": (replace("events.csv", b"PK\3\4\x14\0\0\0"), "events.csv', line 1, the names"),
    "a table of another program": (
        replace("items.csv", b"\xd0\xcf\x11\xe0" * 99), "the columns: not utf-8. Set the encoding",
    ),
    "carriage returns alone": (
        replace("events.csv", lone_returns(csv_text(EVENTS))),
        "events.csv' ends its lines by a carriage return alone",
    ),
    "carriage returns alone in JSON": (
        both(
            replace("events.csv", lone_returns(jsonl_text(EVENTS))),
            put("events.format", "jsonl"),
        ),
        "events.csv' ends its lines by a carriage return alone",
    ),
    "a folder in place of a file": (folder_for_file, "feed.csv' is a folder. Name its files: '"),
    "half a Parquet file": (as_parquet(None), "events.parquet' cannot be read as Parquet: "),
    "damaged Parquet": (as_parquet(slice(20, 60)), "events.parquet' cannot be read as Parquet: "),
    "Parquet without rows": (as_parquet(slice(0), "LIMIT 0"), "'events.files' hold no rows"),
    "gzip with a wrong sum": (gzipped(-8, -4, b"\0\0\0\0"), "is damaged after line 0: CRC check"),
    "something behind gzip": (gzipped(0, 0, b"more"), "is damaged after line 0: Not a gzipped"),
    "a missing one of 10,000 columns": (
        both(replace("events.csv", WIDE), put("events.columns.user_id", "usr")),
        "has no column 'usr'. Did you mean 'user'? Its columns: 'user', 'ad', 'type', 'time', 'c0'",
    ),
    "names in the file and in the mapping": (
        put("items.header", ["ad", "title", "path", "price"]),
        "items.csv', line 1 holds the names of the columns: leave the setting 'header'",
    ),
    "a number for files": (put("events.files", [5]), "'events.files' is [5], but must be text"),
    "no columns": (put("events.columns", None), "'events.columns' must hold 'key: value' lines"),
    "a text for a list": (put("events.keep", "click"), "'events.keep' is 'click', but must be a"),
    "a fraction for a number": (put("minimum.user", 1.5), "'minimum.user' is 1.5, but must be a"),
    "a list for a section": (put("minimum", [1]), "'minimum' must hold 'key: value' lines"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    mapping = write_feed(tmp_path)
    change(tmp_path, mapping)
    with pytest.raises(InputError) as caught:
        make(tmp_path, mapping)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 2000
    assert not (tmp_path / "out").exists()


COUNTED: dict[str, tuple[Change, str, str, int, int]] = {
    # change, part, reason, how many, line of the first
    "a key twice": (
        as_jsonl("events", '{"user":"u1","user":"u2","ad":"a1","type":"click","time":5}\n'),
        "events", "a key that an object has twice", 1, 6,
    ),
    "a key twice inside": (
        as_jsonl("items", '{"ad":"a9","title":{"x":1,"x":2}}\n'),
        "items", "a key that an object has twice", 1, 4,
    ),
    "a truth as a time": (
        as_jsonl("events", event(time=True)), "events", "time that is not seconds", 1, 6,
    ),
    "a number as an event type": (
        as_jsonl("events", event(type=3)), "events", "unknown event type", 1, 6,
    ),
    "an object as a time": (
        as_jsonl("events", event(time={"seconds": 5})),
        "events", "a value that is neither text nor a number", 1, 6,
    ),
    "a time of 4,000 digits": (
        as_jsonl("events", event(time="9" * 4000)), "events", "time after the year 9999", 1, 6,
    ),
    "a number of 5,000 digits": (
        as_jsonl("events", '{"user": ' + "9" * 5000 + "}\n"), "events", "not JSON", 1, 6,
    ),
    "digits of another kind": (
        append("events.csv", "u1,a1,click,1_000\nu1,a1,click,0x10\nu1,a1,click,١٢\n"),
        "events", "time that is not seconds", 3, 7,
    ),
    "a carriage return inside a row": (
        append("events.csv", "u1,a1,click\r,5\n"),
        "events", "malformed quotes or line ends", 1, 7,
    ),
    "a control character in an id": (
        append("items.csv", "a\x019,x,x,1\na9\x7f,x,x,1\n"),
        "items", "item id with a tab, line end or control character", 2, 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTED)
def test_a_bad_row_is_counted(case: str, tmp_path: Path) -> None:
    change, part, reason, count, line = COUNTED[case]
    mapping = write_feed(tmp_path)
    change(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert report[part]["rejected"] == {reason: count}
    _, *rows = [row.split("\t") for row in lines_of(tmp_path, ".rejected.tsv")]
    assert [(row[0], row[3]) for row in rows] == [(part, reason)] * count
    assert rows[0][2] == str(line)
    assert all(len(row) == 5 and len(row[4]) < 300 for row in rows)
    assert lines_of(tmp_path, ".inter") == INTER
    assert lines_of(tmp_path, ".item") == ITEM


def click(user: str, time: str = "5") -> str:
    return f"{user},a1,click,{time}\n"


CELL = '"say ""hi""\tthere\nand\r\nthere"'
GOOD: dict[str, tuple[Change, str, str, str]] = {
    # change, file, a line that is there, what the log says
    "quotes, tabs and line ends in a cell": (
        append("items.csv", f"a9,{CELL},x,1\n"), ".item", 'a9\tsay "hi" there and there\tx\t1', "",
    ),
    "a category with empty steps": (
        append("items.csv", "a9,x, > a >  > b > ,1\n"), ".item", "a9\tx\ta > b\t1", "",
    ),
    "a category of separators alone": (
        append("items.csv", "a9,x, >  > ,1\n"), ".item", "a9\tx\t\t1", "",
    ),
    "a price that is no number": (append("items.csv", "a9,x,x,nan\n"), ".item", "a9\tx\tx\t", ""),
    "a price without end": (append("items.csv", "a9,x,x,inf\n"), ".item", "a9\tx\tx\t", ""),
    "a price below zero": (append("items.csv", "a9,x,x,-5\n"), ".item", "a9\tx\tx\t", ""),
    "a price with its currency": (
        append("items.csv", 'a9,x,x,"€ 1,299.50"\n'), ".item", "a9\tx\tx\t1299.50", "",
    ),
    "NaN in JSON": (
        as_jsonl("items", '{"ad": "a9", "title": "x", "price": NaN}\n'), ".item", "a9\tx\t\t", "",
    ),
    "the same row again": (append("items.csv", "a9,x,x,1\na9,x,x,1\n"), ".item", "a9\tx\tx\t1", ""),
    "ids with spaces": (append("events.csv", click(" u 7 ")), ".inter", "u 7\ta1\t5", ""),
    "ids with colons": (append("events.csv", click("u:7")), ".inter", "u:7\ta1\t5", ""),
    "numbers and text as one id": (
        as_jsonl("events", event(user=7) + event(user="7", ad="a2")), ".inter", "7\ta2\t5", "",
    ),
    "10,000 columns": (replace("events.csv", WIDE), ".inter", "u1\ta1\t5", ""),
    "no line end at the end": (append("events.csv", click("u7")[:-1]), ".inter", "u7\ta1\t5", ""),
    "empty lines": (append("events.csv", "\n\r\n" + click("u7")), ".inter", "u7\ta1\t5", ""),
    "a time in the far future": (
        append("events.csv", click("u7", "95617584000")), ".inter", "u7\ta1\t95617584000",
        "1 of the events come after the year 2099: are the times in 'time' as",
    ),
    "seconds as milliseconds": (
        put("events.time_format", "milliseconds"), ".inter", "u1\ta1\t1700000",
        "All events come before the year 1980 as milliseconds: if 'time' holds seconds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_can_be_read_is_made_good(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, ending, line, said = GOOD[case]
    mapping = write_feed(tmp_path)
    mapping["items"]["keep_all"] = True
    change(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert line in lines_of(tmp_path, ending)
    assert report["items"]["rejected"] == report["events"]["rejected"] == {}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [said in warning for warning in warnings] == [True] * bool(said)
    odd = ("a price that is no number", "a price without end", "a price below zero")
    assert report["items"]["prices_not_understood"] == (case in odd)
    assert report["items"]["repeated_rows"] == (case == "the same row again")


def test_recbole_reads_the_odd_ids(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    ids = ["u 7", "u:7", "u,7", "u'7", "u\\7", "u|7", "#7", "7", "07", "ü\u20287", "-", "true"]
    append("events.csv", "".join(f'"{name}",a1,click,5\n' for name in ids))(tmp_path, mapping)
    make(tmp_path, mapping)
    # As recbole/data/dataset/dataset.py reads an atomic file.
    table = pd.read_csv(
        tmp_path / "out" / "ads" / "ads.inter", delimiter="\t", engine="python", dtype=str
    )
    assert set(ids) <= set(table["user_id:token"])
    assert len(table) == 4 + len(ids)


MAPPINGS = {
    "a key twice": ("items:\n  files: a\n  files: b\n", "found 'files' twice"),
    "a section twice": ("items: {}\nevents: {}\nitems: {}\n", "found 'items' twice"),
    "no yaml": ("items: [", "is not valid yaml"),
    "a list": ("- items\n", "must hold 'key: value' lines"),
    "nothing": ("", "has no value for 'items.files'"),
    "bytes": ("\udcff", "cannot be read"),
    "code": ("items: !!python/object/apply:os.getcwd []\n", "is not valid yaml"),
}


@pytest.mark.parametrize("case", MAPPINGS)
def test_a_broken_mapping_is_refused(case: str, tmp_path: Path) -> None:
    text, message = MAPPINGS[case]
    path = tmp_path / "ads.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "out", path)
    assert message in str(caught.value)


def test_a_mapping_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        prepare(tmp_path / "out", tmp_path)


@pytest.mark.parametrize("given", ["-1", "0", "1", "10%", "5 bananas", "1GB; DROP", "nan", ""])
def test_a_memory_limit_without_sense_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not understood: write it as 500MB or 2GB"):
        make(tmp_path, write_feed(tmp_path), memory_limit=given)


@pytest.mark.parametrize("given", ["0GB", "1KB"])
def test_a_memory_limit_that_is_too_low_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too little for this data: raise --memory_limit"):
        make(tmp_path, write_feed(tmp_path), memory_limit=given)


def test_an_output_that_takes_no_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = write_feed(tmp_path)
    (tmp_path / "ads.yaml").write_text(json.dumps(mapping))
    for output in ("items.csv", "items.csv/below"):
        with pytest.raises(
            InputError, match=r"items.csv' is a file, but --output must be a folder"
        ):
            prepare(tmp_path / output, tmp_path / "ads.yaml")
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(InputError, match="no files may be written in '"):
            make(tmp_path, mapping)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_inter", full)
    with pytest.raises(InputError, match=r"cannot be written: .*No space left on device"):
        make(tmp_path, mapping)
    assert not (tmp_path / "out" / "ads").exists()
