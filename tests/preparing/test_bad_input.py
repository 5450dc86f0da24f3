"""Every malformed input gets its clear error, or is left out and counted with its reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_sid.errors import InputError
from tests.preparing.feeds import EVENTS, INTER, ITEM, ITEMS, jsonl_text, lines_of, make, write_feed

Change = Callable[[Path, dict[str, Any]], object]


def append(name: str, text: str | bytes) -> Change:
    """Lines behind those of a file."""
    raw = text.encode() if isinstance(text, str) else text

    def change(folder: Path, _: dict[str, Any]) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes() + raw)

    return change


def replace(name: str, text: str | bytes) -> Change:
    """Another content of a file."""
    raw = text.encode() if isinstance(text, str) else text
    return lambda folder, _: (folder / name).write_bytes(raw)


def put(key: str, value: Any) -> Change:
    """Another value in the mapping."""

    def change(_: Path, mapping: dict[str, Any]) -> None:
        *parts, last = key.split(".")
        for part in parts:
            mapping = mapping[part]
        mapping[last] = value

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path, mapping: dict[str, Any]) -> None:
        for one in changes:
            one(folder, mapping)

    return change


def as_jsonl(part: str, lines: str) -> Change:
    """The items or events as JSON lines, and further lines."""
    rows = ITEMS if part == "items" else EVENTS
    return both(
        lambda folder, _: (folder / f"{part}.jsonl").write_text(jsonl_text(rows) + lines),
        put(f"{part}.files", f"{part}.jsonl"),
    )


def event(**values: Any) -> str:
    return json.dumps({"user": "u9", "ad": "a1", "type": "click", "time": 5} | values) + "\n"


ONE_MB = "x" * 1_000_000
COUNTED: dict[str, tuple[Change, str, str, int, int]] = {
    # change, part, reason, how many, line of the first
    "wrong encoding": (append("items.csv", b"a9,caf\xe9,x,1\n"), "items", "not utf-8", 1, 5),
    "wrong encoding in the log": (
        append("events.csv", b"\xff,a1,click,5\n"), "events", "not utf-8", 1, 7,
    ),
    "a NUL character": (append("items.csv", "a9,a\0b,x,1\n"), "items", "a NUL character", 1, 5),
    "too few columns": (
        append("items.csv", "a9,x\n"), "items", "wrong number of columns, not 4", 1, 5,
    ),
    "too many columns": (
        append("events.csv", "u1,a1,click,5,6\n"),
        "events", "wrong number of columns, not 4", 1, 7,
    ),
    "an id twice": (
        append("items.csv", "a1,Other,x,1\n"),
        "items", "item id seen before, with other values", 1, 5,
    ),
    "no item id": (append("items.csv", " ,Other,x,1\n"), "items", "missing item id", 1, 5),
    "no user id": (append("events.csv", ",a1,click,5\n"), "events", "missing user id", 1, 7),
    "no item id in the log": (
        append("events.csv", "u1, ,click,5\n"), "events", "missing item id", 1, 7,
    ),
    "no event type": (append("events.csv", "u1,a1,,5\n"), "events", "missing event type", 1, 7),
    "unknown event type": (
        append("events.csv", "u1,a1,clik,5\nu1,a2,Click,5\n"),
        "events", "unknown event type", 2, 7,
    ),
    "no time": (append("events.csv", "u1,a1,click,\n"), "events", "missing time", 1, 7),
    "negative time": (append("events.csv", "u1,a1,click,-1\n"), "events", "negative time", 1, 7),
    "time in words": (
        append("events.csv", "u1,a1,click,noon\n"), "events", "time that is not seconds", 1, 7,
    ),
    "a time that is no number": (
        append("events.csv", "u1,a1,click,nan\n"), "events", "time that is not seconds", 1, 7,
    ),
    "milliseconds as seconds": (
        append("events.csv", "u1,a1,click,1700000000000\nu1,a1,click,inf\nu1,a1,click,1e400\n"),
        "events", "time after the year 9999", 3, 7,
    ),
    "a date that does not exist": (
        both(
            replace("events.csv", "".join([
                "user,ad,type,time\n",
                "u1,a1,click,2023-11-14T22:13:20Z\nu2,a1,click,2023-11-14 23:14:10+01:00\n",
                "u2,a2,click,2023-11-14T22:14:10\nu1,a2,click,2023-11-14 22:15:00\n",
                "u1,a2,click,2023-02-30\n",
            ])),
            put("events.time_format", "iso"),
        ),
        "events", "time that is not iso", 1, 6,
    ),
    "an id that reads as missing": (
        append("events.csv", "NULL,a1,click,5\nnan,a1,click,5\n"),
        "events", "user id that RecBole reads as missing", 2, 7,
    ),
    "an item id that reads as missing": (
        append("items.csv", "NA,x,x,1\n"), "items", "item id that RecBole reads as missing", 1, 5,
    ),
    "an id with a line end": (
        append("items.csv", '"a\n9",x,x,1\n'),
        "items", "item id with a tab, line end or control character", 1, 5,
    ),
    "an id with a tab": (
        append("events.csv", "u\t1,a1,click,5\n"),
        "events", "user id with a tab, line end or control character", 1, 7,
    ),
    "an id with a quote": (
        append("events.csv", '"""u1",a1,click,5\n'),
        "events", "user id that begins with a double quote", 1, 7,
    ),
    "a 1 MB title": (
        append("items.csv", f"a9,{ONE_MB},x,1\n"),
        "items", "cell of more than 131,072 characters", 1, 5,
    ),
    "a 1 MB title in JSON": (
        as_jsonl("items", json.dumps({"ad": "a9", "title": ONE_MB}) + "\n"),
        "items", "cell of more than 131,072 characters", 1, 4,
    ),
    "a 1 MB user id": (
        as_jsonl("events", event(user=ONE_MB)),
        "events", "cell of more than 131,072 characters", 1, 6,
    ),
    "a quote left open": (
        append("items.csv", 'a9,"x,x,1\n'), "items", "a quote that is never closed", 1, 5,
    ),
    "text behind a quote": (
        append("items.csv", 'a9,"x"y,x,1\n'), "items", "malformed quotes or line ends", 1, 5,
    ),
    "broken JSON": (as_jsonl("events", '{"user": \n'), "events", "not JSON", 1, 6),
    "deep JSON": (as_jsonl("events", "[" * 100_000 + "\n"), "events", "not JSON", 1, 6),
    "JSON that is no object": (
        as_jsonl("events", "[1]\n5\n"), "events", "not an object of names and values", 2, 6,
    ),
    "half a character": (
        as_jsonl("items", '{"ad": "a9", "title": "\\ud83d"}\n'),
        "items", "a character that is only half given", 1, 4,
    ),
    "a list as an id": (
        as_jsonl("events", event(user=["u1"])),
        "events", "an id that is neither text nor a whole number", 1, 6,
    ),
    "a fraction as an id": (
        as_jsonl("items", '{"ad": 1.5, "title": "x"}\n{"ad": true, "title": "x"}\n'),
        "items", "an id that is neither text nor a whole number", 2, 4,
    ),
    "an object as a title": (
        as_jsonl("items", '{"ad": "a9", "title": {"en": "x"}}\n'),
        "items", "a value that is neither text nor a number", 1, 4,
    ),
    "a deep list as a title": (
        as_jsonl("items", '{"ad": "a9", "title": ' + "[" * 800 + "]" * 800 + "}\n"),
        "items", "a value that is neither text nor a number", 1, 4,
    ),
    "a missing key": (as_jsonl("events", '{"ad": "a1"}\n'), "events", "missing user id", 1, 6),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTED)
def test_a_bad_row_is_counted_and_written_down(case: str, tmp_path: Path) -> None:
    change, part, reason, count, line = COUNTED[case]
    mapping = write_feed(tmp_path)
    change(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert report[part]["rejected"] == {reason: count}
    other = "events" if part == "items" else "items"
    assert report[other]["rejected"] == {}
    good = len(ITEMS) if part == "items" else sum(report["events"]["types"].values())
    assert report[part]["rows"] == good + count
    header, *rows = [row.split("\t") for row in lines_of(tmp_path, ".rejected.tsv")]
    assert header == ["part", "file", "line", "reason", "text"]
    assert [(row[0], row[3]) for row in rows] == [(part, reason)] * count
    assert rows[0][2] == str(line)
    assert all(Path(row[1]).is_file() and len(row) == 5 and len(row[4]) < 300 for row in rows)
    # What is good is there as without the bad row.
    assert lines_of(tmp_path, ".inter") == INTER
    assert lines_of(tmp_path, ".item") == ITEM

    with pytest.raises(InputError) as caught:
        make(tmp_path, mapping, strict=True, overwrite=True)
    assert f"line {line}: {reason}" in str(caught.value)


def no_file(folder: Path, _: dict[str, Any]) -> None:
    (folder / "events.csv").unlink()


def broken_gzip(folder: Path, mapping: dict[str, Any]) -> None:
    whole = gzip.compress((folder / "events.csv").read_bytes())
    (folder / "events.csv.gz").write_bytes(whole[:-12])
    mapping["events"]["files"] = "events.csv.gz"


def half_gzip(folder: Path, mapping: dict[str, Any]) -> None:
    broken_gzip(folder, mapping)
    whole = (folder / "events.csv.gz").read_bytes()
    (folder / "events.csv.gz").write_bytes(whole[:20] + b"\x99" * 20 + whole[40:])


def no_gzip(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "events.csv").rename(folder / "events.csv.gz")
    mapping["events"]["files"] = "events.csv.gz"


REFUSED: dict[str, tuple[Change, str]] = {
    "a missing file": (no_file, "'events.files': there is no file '"),
    "a pattern without files": (put("events.files", "log-*.csv"), "there is no file '"),
    "a file twice": (put("events.files", ["events.csv", "e*.csv"]), "names files twice"),
    "an empty file": (replace("items.csv", ""), "'items.files' hold no rows"),
    "an empty log": (replace("events.csv", ""), "'events.files' hold no rows"),
    "a header alone": (replace("events.csv", "user,ad,type,time\n"), "hold no rows"),
    "a missing column": (put("items.columns.title", "titel"), "no column 'titel'. Did you mean"),
    "a missing column of JSON": (
        both(as_jsonl("events", ""), put("events.columns.time", "tme")), "no column 'tme'. Did",
    ),
    "a column twice": (
        replace("events.csv", "user,ad,ad,type,time\nu,a1,a2,click,5\n"), "has 2 columns 'ad'",
    ),
    "the wrong separator": (put("events.separator", ";"), "has no column 'user'"),
    "broken gzip": (broken_gzip, "breaks off or is damaged after line"),
    "damaged gzip": (half_gzip, "breaks off or is damaged after line"),
    "gzip by name only": (no_gzip, "is called .gz, but is not a gzip file"),
    "UTF-16": (
        replace("items.csv", "ad,title\na1,x\n".encode("utf-16")), "is UTF-16: convert it",
    ),
    "no Parquet": (put("items.format", "parquet"), "cannot be read as Parquet"),
    "a list of JSON": (
        both(replace("events.csv", "[\n{}\n]"), put("events.format", "jsonl")),
        "is one JSON list",
    ),
    "an unknown format": (
        lambda folder, mapping: (
            (folder / "events.csv").rename(folder / "events.log"),
            mapping["events"].update(files="events.log"),
        ),
        "set 'events.format' to csv, tsv, jsonl or parquet",
    ),
    "no good row": (
        replace("events.csv", "user,ad,type,time\nu1,a1,click,x\n"),
        "none of the 1 rows of 'events.files' can be used; the first: '",
    ),
    "no event of a type to keep": (
        replace("events.csv", "user,ad,type,time\nu1,a1,impression,5\n"),
        "none of the 1 events is of a type in 'events.keep'",
    ),
    "no event of a known item": (
        replace("items.csv", "ad,title,path,price\nother,x,x,1\n"),
        "none of the 4 events is of an item in the table, whose first id is 'other'",
    ),
    "nothing left": (put("minimum.user", 3), "no interaction is left of 4, since no user has"),
    "an unknown key": (put("items.colums", {}), "unknown key 'items.colums'. Did you mean"),
    "an unknown section": (put("event", {}), "unknown section 'event'. Did you mean 'events'"),
    "an unknown role": (put("items.columns.tilte", "x"), "'items.columns.tilte'. Did you mean"),
    "no id": (
        lambda _, mapping: mapping["items"]["columns"].pop("item_id"),
        "has no value for 'items.columns.item_id'",
    ),
    "no files": (put("items.files", None), "has no value for 'items.files'"),
    "a section of text": (put("events.columns", "user"), "'events.columns' must hold 'key: value'"),
    "a wrong type": (put("minimum.user", "many"), "'minimum.user' is 'many', but must be a whole"),
    "a negative minimum": (put("minimum.item", -1), "'minimum.item' is -1, but must be at least 0"),
    "an unknown choice": (put("events.repeated", "frist"), "'events.repeated' is 'frist'"),
    "no types to keep": (put("events.keep", []), "the event types that count"),
    "types without a column": (put("events.columns.event", None), "empty without a column"),
    "a type to keep and ignore": (put("events.ignore", ["click"]), "not in events.keep"),
    "a positive type that is not kept": (
        put("events.positive", ["clik", "click"]),
        "'events.positive' is ['clik'], but must be event types that are in events.keep: "
        "['click', 'conversion']. Add them there, or leave them out here",
    ),
    "a positive type that is ignored": (
        put("events.positive", ["impression"]), "'events.positive' is ['impression'], but must be",
    ),
    "positive types without a column": (
        both(put("events.columns.event", None), put("events.keep", []), put("events.ignore", []),
             put("events.positive", ["click"])),
        "'events.positive' is ['click'], but must be event types that are in events.keep: []",
    ),
    "no time format": (put("events.time_format", "unix"), "'events.time_format' is 'unix'"),
    "a bad time pattern": (put("events.time_format", "%Q"), "Failed to parse format specifier"),
    "an unknown encoding": (put("items.encoding", "utf-9"), "'items.encoding' is 'utf-9'"),
    "a wide encoding": (put("items.encoding", "utf-16"), "'items.encoding' is 'utf-16'"),
    "a long separator": (put("items.separator", "||"), "'items.separator' is '||'"),
    "a header of twice the same": (put("items.header", ["a", "a"]), "'items.header' is"),
    "ids alone": (put("items.columns", {"item_id": "ad"}), "more than id, price and image"),
    "a name that means something": (
        put("items.columns.others", {"brand": "x"}), "that means nothing else",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_prepared_is_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    mapping = write_feed(tmp_path)
    change(tmp_path, mapping)
    with pytest.raises(InputError) as caught:
        make(tmp_path, mapping)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_first_ten_bad_rows_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapping = write_feed(tmp_path)
    append("events.csv", "u1,a1,click,-1\n" * 12)(tmp_path, mapping)
    make(tmp_path, mapping)
    shown = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert shown[0] == "12 bad rows of events; the first 10:"
    assert len(shown) == 11
    assert shown[1].endswith("events.csv', line 7: negative time: u1 | a1 | click | -1")
    assert len(lines_of(tmp_path, ".rejected.tsv")) == 13


def test_reading_goes_on_behind_a_bad_row(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    rows = 'a4,"x"y,x,1\na5,Lamp,x,1\na6,"two\nlines",x,1\na7,Pot\na8,Pan,x,1\n'
    append("items.csv", rows)(tmp_path, mapping)
    mapping["items"]["keep_all"] = True
    report = make(tmp_path, mapping)
    assert [line.split("\t")[:2] for line in lines_of(tmp_path, ".item")[4:]] == [
        ["a5", "Lamp"], ["a6", "two lines"], ["a8", "Pan"]
    ]  # fmt: skip
    # a6 takes two lines.
    assert [row.split("\t")[2] for row in lines_of(tmp_path, ".rejected.tsv")[1:]] == ["5", "9"]
    assert report["items"]["rows"] == 3 + 5
