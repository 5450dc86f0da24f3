"""The same feed and log in every format, and the same bytes at every run."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.parsing import read_yaml
from recbole_sid.preparing import sources
from recbole_sid.preparing.mapping import read_mapping
from recbole_sid.resources import resource_dir
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

Change = Callable[[Path, dict[str, Any]], object]


def typed(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Times and prices as numbers, and paths as lists."""
    return [
        {
            **row,
            **({"time": int(row["time"])} if "time" in row else {}),
            **({"path": row["path"].split(" > ")} if "path" in row else {}),
        }
        for row in rows
    ]


def tsv(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "items.tsv").write_text(csv_text(ITEMS, "\t"))
    mapping["items"]["files"] = "items.tsv"
    (folder / "events.txt").write_text(csv_text(EVENTS, "|"))
    mapping["events"].update(files="events.txt", format="csv", separator="|")


def json_lines(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "items.jsonl").write_text(jsonl_text(typed(ITEMS)))
    mapping["items"]["files"] = "items.jsonl"
    (folder / "events.json").write_text("\n" + jsonl_text(typed(EVENTS)) + "\n")
    mapping["events"]["files"] = "events.json"


def packed(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "items.jsonl.gz").write_bytes(gzip.compress(jsonl_text(ITEMS).encode()))
    mapping["items"]["files"] = "items.jsonl.gz"
    # gzip is seen by its content.
    (folder / "events.csv").write_bytes(gzip.compress(csv_text(EVENTS).encode()))


def parquet(folder: Path, mapping: dict[str, Any]) -> None:
    json_lines(folder, mapping)
    with duckdb.connect() as connection:
        for name, columns in (
            ("items.jsonl", "*"),
            ("events.json", "* REPLACE (make_timestamp(time * 1000000) AS time)"),
        ):
            target = folder / (Path(name).stem + ".parquet")
            connection.execute(
                f"COPY (SELECT {columns} FROM read_json('{folder / name}'))"
                f" TO '{target}' (FORMAT parquet)"
            )
    mapping["items"]["files"] = "items.parquet"
    mapping["events"].update(files="events.parquet", time_format="iso")


def objects_in_parts(folder: Path, mapping: dict[str, Any]) -> None:
    for number, row in enumerate(ITEMS):
        # No value, no key: the second file has no price.
        (folder / f"i{number}.jsonl").write_text(jsonl_text([{k: v for k, v in row.items() if v}]))
    mapping["items"]["files"] = ["i0.jsonl", "i[12].jsonl"]


def zoned(folder: Path, mapping: dict[str, Any]) -> None:
    pattern(folder, mapping)
    text = (folder / "events.csv").read_text().replace(" 22:", " 23:").replace("\n", " +0100\n")
    (folder / "events.csv").write_text(text.replace("time +0100", "time"))
    mapping["events"]["time_format"] += " %z"


def bare_quotes(folder: Path, mapping: dict[str, Any]) -> None:
    rows = [{**row, "title": f'"{row["title"]}'} for row in ITEMS]
    (folder / "items.csv").write_text(csv_text(rows))
    mapping["items"]["quotes"] = False


def repeated_items(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "items.csv").write_text(csv_text([*ITEMS, ITEMS[1], ITEMS[0], ITEMS[1]]))


def parts(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "log").mkdir()
    for number, row in enumerate(EVENTS):
        turned = dict(reversed(row.items()))  # each file has its own order of columns
        (folder / "log" / f"part-{number}.csv").write_text(csv_text([turned]))
    (folder / "log" / "part-9.csv").write_text("")
    mapping["events"]["files"] = "log/part-*.csv"


def windows(folder: Path, mapping: dict[str, Any]) -> None:
    for name, rows in (("items.csv", ITEMS), ("events.csv", EVENTS)):
        text = csv_text(rows).replace("\n", "\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode())


def no_header(folder: Path, mapping: dict[str, Any]) -> None:
    text = csv_text(EVENTS)
    (folder / "events.csv").write_text(text[text.index("\n") + 1 :])
    mapping["events"]["header"] = ["user", "ad", "type", "time"]


def milliseconds(folder: Path, mapping: dict[str, Any]) -> None:
    rows = [{**row, "time": row["time"] + "000"} for row in EVENTS]
    (folder / "events.csv").write_text(csv_text(rows))
    mapping["events"]["time_format"] = "milliseconds"


def pattern(folder: Path, mapping: dict[str, Any]) -> None:
    # 1,700,000,000 is 22:13:20 on 14 November 2023 in UTC.
    seconds = {1_700_000_000: "22:13:20", 1_700_000_050: "22:14:10", 1_700_000_060: "22:14:20",
               1_700_000_100: "22:15:00"}  # fmt: skip
    rows = [{**row, "time": "14/11/2023 " + seconds[int(row["time"])]} for row in EVENTS]
    (folder / "events.csv").write_text(csv_text(rows))
    mapping["events"]["time_format"] = "%d/%m/%Y %H:%M:%S"


FORMS: dict[str, Change] = {
    "csv": lambda *_: None,
    "tsv": tsv,
    "json lines": json_lines,
    "gzip": packed,
    "parquet": parquet,
    "several files": parts,
    "objects in parts": objects_in_parts,
    "repeated items": repeated_items,
    "bare quotes": bare_quotes,
    "windows": windows,
    "no header": no_header,
    "milliseconds": milliseconds,
    "a time pattern": pattern,
    "a time pattern with a zone": zoned,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same(form: str, tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    FORMS[form](tmp_path, mapping)
    report = make(tmp_path, mapping)
    assert lines_of(tmp_path, ".inter") == INTER
    # A double quote at the start of a cell becomes two single ones.
    assert [line.replace("''", "") for line in lines_of(tmp_path, ".item")] == ITEM
    assert report["items"]["quotes_replaced"] == (3 if form == "bare quotes" else 0)
    assert report["items"]["repeated_rows"] == (3 if form == "repeated items" else 0)
    assert report["items"]["items"] == 3
    assert report["events"]["rows"] == 5
    assert report["events"]["types"] == {"click": 3, "conversion": 1, "impression": 1}
    assert lines_of(tmp_path, ".rejected.tsv") == ["part\tfile\tline\treason\ttext"]


@pytest.mark.parametrize("form", ["csv", "json lines", "parquet"])
def test_blocks_make_no_difference(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = write_feed(tmp_path)
    FORMS[form](tmp_path, mapping)
    for name, value in (("BLOCK", 2), ("PARQUET_BLOCK", 2), ("CHARACTERS", 60)):
        monkeypatch.setattr(sources, name, value)
    report = make(tmp_path, mapping)
    assert lines_of(tmp_path, ".inter") == INTER
    assert lines_of(tmp_path, ".item") == ITEM
    assert report["events"]["types"] == {"click": 3, "conversion": 1, "impression": 1}


def test_other_encodings_and_columns(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    (tmp_path / "items.csv").write_bytes(
        "ad;a;b;c;d\na1;Café;x;\\N;1\na2;Öl;y;Z;2\n".encode("cp1252")
    )
    mapping["items"].update(
        encoding="cp1252",
        separator=";",
        missing=["\\N"],
        columns={"item_id": "ad", "text": ["a", "b"], "category": ["c", "b"],
                 "others": {"kind_2": "d"}},
    )  # fmt: skip
    make(tmp_path, mapping)
    assert lines_of(tmp_path, ".item") == [
        "item_id:token\ttext:token\tcategory:token\tkind_2:token",
        "a1\tCafé x\tx\t1",
        "a2\tÖl y\tZ > y\t2",
    ]
    config = (tmp_path / "out" / "ads" / "ads.yaml").read_text()
    assert "item_text_fields: [text, kind_2]" in config
    assert "[Kind 2: {kind_2}. ]" in config


def test_without_times_the_place_in_the_log_counts(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    del mapping["events"]["columns"]["time"]
    make(tmp_path, mapping)
    assert lines_of(tmp_path, ".inter")[1:] == ["u2\ta1\t1", "u1\ta1\t2", "u1\ta2\t3", "u2\ta2\t5"]


def test_running_again_gives_the_same_bytes(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    with (tmp_path / "events.csv").open("a") as file:
        file.write("u1,a1,click,-1\n,a1,click,1\n")
    # Many equal times: their order is that of the log.
    with (tmp_path / "events.csv").open("a") as file:
        file.writelines(f"u{n},a{n % 3 + 1},click,7\n" for n in range(5000))
    make(tmp_path, mapping)
    folder = tmp_path / "out" / "ads"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == [
        "ads.inter", "ads.item", "ads.rejected.tsv", "ads.report.json", "ads.yaml"
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"exists: --overwrite replaces it"):
        make(tmp_path, mapping)
    make(tmp_path, mapping, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    ties = [line.split("\t")[0] for line in lines_of(tmp_path, ".inter") if line.endswith("\t7")]
    assert ties == [f"u{n}" for n in range(5000)]


def test_little_memory_gives_the_same(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    make(tmp_path, mapping)
    first = lines_of(tmp_path, ".inter")
    make(tmp_path, mapping, memory_limit="60MB", temp_folder=tmp_path, overwrite=True)
    assert lines_of(tmp_path, ".inter") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ads.yaml", "events.csv", "items.csv", "out"
    ]  # fmt: skip


def test_the_shipped_mapping_is_a_mapping_and_shows_every_setting(tmp_path: Path) -> None:
    path = resource_dir("dataset_configs") / "ad_mapping.yaml"
    mapping = read_mapping(path)
    assert mapping.item_columns.written[-1] == "landing_page"
    shown = read_yaml(path)
    defaults = read_yaml(resource_dir("properties") / "prepare.yaml")
    for key in defaults:
        section, _, name = key.partition("_")
        assert name in {*shown[section], *(shown["items"] if section == "events" else ())}, key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "prepare needs --mapping FILE or --preset"),
        ({"mapping": "m.yaml", "preset": "taobao"}, "prepare needs --mapping FILE or --preset"),
        ({"mapping": "m.yaml"}, "'m.yaml' cannot be read"),
        ({"mapping": "m.yaml", "folder": "x"}, "--mapping takes no --folder"),
        ({"preset": "amazon-2015"}, "unknown preset 'amazon-2015'. Did you mean 'amazon-20"),
        ({"preset": "amazon-2014", "reviews": "r"}, "--preset=amazon-2014 needs --meta"),
        ({"preset": "taobao", "folder": "no"}, "'no' has no ad_feature.csv"),
        ({"preset": "amazon-2014", "reviews": "r", "meta": "m", "name": "a/b"}, "--name is 'a/b'"),
        ({"preset": "amazon-2014", "reviews": "r", "meta": "m"}, "there is no file 'm'"),
        (
            {"preset": "amazon-2014", "reviews": "r", "meta": "m", "memory_limit": "much"},
            "--memory_limit 'much' is not understood",
        ),
        (
            {"preset": "amazon-2014", "reviews": "r", "meta": "m", "temp_folder": "no"},
            "there is no folder 'no'",
        ),
    ],
)
def test_bad_arguments(given: dict[str, Any], message: str, tmp_path: Path,
                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        recbole_sid.prepare(tmp_path / "out", **given)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_it_says_that_duckdb_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = write_feed(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "recbole-sid\[prepare\]"'):
        make(tmp_path, mapping)
