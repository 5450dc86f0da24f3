"""Files that are made to fill the memory, and ids that are made to look like others."""

from __future__ import annotations

import ast
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from recbole_sid.errors import InputError
from recbole_sid.preparing import lines, sources, store
from tests.preparing.feeds import INTER, ITEM, jsonl_text, lines_of, make, write_feed
from tests.preparing.test_bad_input import Change, append, as_jsonl, both, event, put, replace

MB = 1 << 20


def peak_mb(action: Callable[[], Any]) -> tuple[Any, float]:
    """What ``action`` gives, and the most memory that Python held for it."""
    tracemalloc.start()
    try:
        return action(), tracemalloc.get_traced_memory()[1] / MB
    finally:
        tracemalloc.stop()


def packed(path: Path, piece: bytes, megabytes: int, begin: bytes = b"") -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(begin)
        for _ in range(megabytes):
            file.write(piece * (MB // len(piece)))


def refused(folder: Path, mapping: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        make(folder, mapping)
    assert len(str(caught.value)) < 5000
    assert not (folder / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_line_without_end_is_not_read_to_its_end(form: str, tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    packed(tmp_path / f"events.{form}.gz", b"x", 96)
    assert (tmp_path / f"events.{form}.gz").stat().st_size < MB
    mapping["events"]["files"] = f"events.{form}.gz"
    said, peak = peak_mb(lambda: refused(tmp_path, mapping))
    assert "line 1: longer than 16,777,216 bytes" in said
    assert peak < 64


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = write_feed(tmp_path)
    packed(tmp_path / "events.csv.gz", b"\n", 1, b"user,ad,type,time\n")
    mapping["events"]["files"] = "events.csv.gz"
    assert "hold no rows" in refused(tmp_path, mapping)  # small ones do no harm
    monkeypatch.setattr(lines, "FREE", MB // 8)
    assert "holds more than 200 times its own size" in refused(tmp_path, mapping)


def test_a_log_that_shrinks_well_is_no_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "FREE", 0)
    mapping = write_feed(tmp_path)
    text = (tmp_path / "events.csv").read_text()
    text += "".join(f"u1,a{n % 3},impression,{1700000000 + 60 * n}\n" for n in range(20_000))
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress(text.encode()))
    mapping["events"]["files"] = "events.csv.gz"
    make(tmp_path, mapping)
    assert lines_of(tmp_path, ".inter") == INTER


def test_a_row_of_lines_without_end_is_refused(tmp_path: Path) -> None:
    """Each cell is short, but a quoted line end goes on with the row."""
    mapping = write_feed(tmp_path)
    with (tmp_path / "events.csv").open("a") as file:
        file.write('"')
        file.writelines('","' + "y" * 99_000 + "\n" for _ in range(500))
    said, peak = peak_mb(lambda: refused(tmp_path, mapping))
    assert "a row of more than 16,777,216 bytes. Is a quote left open?" in said
    assert peak < 128


def test_a_million_columns_are_refused(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    names = ",".join(f"c{number}" for number in range(1_000_000))
    (tmp_path / "events.csv").write_text(f"user,ad,type,time,{names}\n")
    said = refused(tmp_path, mapping)
    assert "events.csv', line 1: 1,000,004 columns, but at most 65,536 are read" in said


def test_a_row_of_a_million_cells_is_counted(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    append("events.csv", "," * 1_000_000 + "\n")(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert report["events"]["rejected"] == {"wrong number of columns, not 4": 1}
    assert lines_of(tmp_path, ".inter") == INTER


def test_objects_of_ever_new_keys_are_not_remembered(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    rows = ({f"k{row}_{n}": 1 for n in range(500)} for row in range(200))
    as_jsonl("events", jsonl_text(list(rows)))(tmp_path, mapping)
    keys = sources._Keys(["events.jsonl"], ["user"])
    for row in (tmp_path / "events.jsonl").read_text().splitlines():
        keys.add(json.loads(row))
    assert len(keys.seen) <= sources.MOST_KEYS + 1
    assert make(tmp_path, mapping)["events"]["rejected"] == {"missing user id": 200}


def test_a_long_literal_is_counted_and_never_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = write_feed(tmp_path)
    good = "{'ad': 'a1', 'title': 'Tea cups'}\n{'ad': 'a2', 'title': 'Trail shoes'}\n"
    (tmp_path / "items.json").write_text(good + "{'ad': [" + "1," * 600_000 + "]}\n")
    mapping["items"].update(files="items.json", format="literals", absent="empty")
    parsed: list[int] = []

    def literal_eval(text: str) -> Any:
        parsed.append(len(text))
        return ast.literal_eval(text)

    monkeypatch.setattr(sources, "ast", SimpleNamespace(literal_eval=literal_eval))
    report = make(tmp_path, mapping)
    assert report["items"]["rejected"] == {"line of more than 1,048,576 characters": 1}
    assert parsed
    assert max(parsed) < 100


def test_rejected_rows_do_not_gather_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "REJECTED_HELD", 100)
    held: list[int] = []
    settle = store.Store.settle

    def watched(self: store.Store) -> None:
        held.append(len(self._rejected))
        settle(self)

    monkeypatch.setattr(store.Store, "settle", watched)
    mapping = write_feed(tmp_path)
    append("events.csv", "x\n" * 1050)(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert report["events"]["rejected"] == {"wrong number of columns, not 4": 1050}
    assert max(held) == 100
    assert len(lines_of(tmp_path, ".rejected.tsv")) == 1051


def test_a_long_cell_that_parquet_holds_once_for_all_rows_is_not_copied(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    file = tmp_path / "items.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_csv('{tmp_path}/items.csv', all_varchar=true) UNION ALL "
            "SELECT 'b' || n, repeat('x', 200000), NULL, NULL FROM range(1000) r(n)) "
            f"TO '{file}' (FORMAT parquet)"
        )
    assert file.stat().st_size < MB
    mapping["items"]["files"] = "items.parquet"
    report, peak = peak_mb(lambda: make(tmp_path, mapping))
    assert report["items"]["rejected"] == {"cell of more than 131,072 characters": 1000}
    assert lines_of(tmp_path, ".item") == ITEM
    assert peak < 64  # all of them are 200 MB


ODD_ID = "id with an invisible character"
ODD = {
    "a byte-order mark": "\ufeff",
    "a space of no width": "\u200b",
    "a mark of direction": "\u202e",
    "an isolate": "\u2066",
    "a soft hyphen": "\u00ad",
    "a control of Latin-1": "\u009f",
}


@pytest.mark.parametrize("name", ODD)
def test_an_id_with_what_cannot_be_seen_is_counted(name: str, tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    append("items.csv", f"a{ODD[name]}1,x,x,1\n")(tmp_path, mapping)
    append("events.csv", f"u{ODD[name]}1,a1,click,5\nu1,a{ODD[name]}1,click,5\n")(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert report["items"]["rejected"] == {f"item {ODD_ID}": 1}
    assert report["events"]["rejected"] == {f"item {ODD_ID}": 1, f"user {ODD_ID}": 1}
    assert lines_of(tmp_path, ".inter") == INTER
    assert lines_of(tmp_path, ".item") == ITEM


TWINS: dict[str, tuple[Change, str]] = {
    "users": (
        append("events.csv", "caf\u00e9,a1,click,5\ncafe\u0301,a2,click,5\n"),
        r"user ids are written in more than one Unicode form, and look the same: 'cafe\u0301' "
        r"and 'caf\xe9'. Write all ids in one form (NFC)",
    ),
    "items": (
        append("items.csv", "caf\u00e9,x,x,1\ncafe\u0301,y,x,1\n"), "item ids are written in more",
    ),
    "an item and its event": (
        both(
            append("items.csv", "caf\u00e9,x,x,1\n"),
            append("events.csv", "u1,cafe\u0301,click,5\n"),
        ),
        "item ids are written in more than one Unicode form",
    ),
    "the sign of Kelvin": (
        append("events.csv", "\u212a,a1,click,5\n"), r"the same: '\u212a' and 'K'. Write",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TWINS)
def test_ids_in_two_unicode_forms_are_refused(case: str, tmp_path: Path) -> None:
    change, message = TWINS[case]
    mapping = write_feed(tmp_path)
    change(tmp_path, mapping)
    assert message in refused(tmp_path, mapping)


def test_ids_in_one_form_are_kept(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    append("events.csv", "cafe\u0301,a1,click,5\nÄrger,a1,click,5\n用户,a1,click,5\n")(
        tmp_path, mapping
    )
    make(tmp_path, mapping)
    assert {"cafe\u0301\ta1\t5", "Ärger\ta1\t5", "用户\ta1\t5"} <= {*lines_of(tmp_path, ".inter")}


def test_numbers_that_no_float_holds(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    mapping["items"]["keep_all"] = True
    huge = "9" * 400
    append("items.csv", f"a7,x,x,{huge}\na8,x,x,١٢\na9,x,x,1e999\n")(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert report["items"]["prices_not_understood"] == 3
    assert [line.split("\t")[3] for line in lines_of(tmp_path, ".item")[-3:]] == ["", "", ""]


def test_times_beyond_the_calendar(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    times = ("infinity", "-infinity", "290000-01-01", "-4000-01-01", "1e305", "-1e305")
    rows = "".join(f"u1,a1,click,{time}\n" for time in times)
    both(
        replace("events.csv", "user,ad,type,time\nu1,a1,click,2024-05-01T10:00:00Z\n" + rows),
        put("events.time_format", "iso"),
    )(tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert sum(report["events"]["rejected"].values()) == len(times)
    assert lines_of(tmp_path, ".inter")[1:] == ["u1\ta1\t1714557600"]


def test_a_number_of_a_thousand_digits_as_an_id(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    as_jsonl("events", event(user=int("9" * 1000), ad="a1"))(tmp_path, mapping)
    make(tmp_path, mapping)
    assert "9" * 1000 + "\ta1\t5" in lines_of(tmp_path, ".inter")
