"""Bounds that hold while a file is read, and ids that look like others."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from recbole_sid import limits
from recbole_sid.errors import InputError
from recbole_sid.histories import read_histories
from recbole_sid.items.interactions import check_rows
from recbole_sid.items.table import ItemTable

HEADER = "item_id:token\ttitle:token\n"
INTER = "user_id:token\titem_id:token\ttimestamp:float"
COLUMNS = INTER.split("\t")


class Watched(io.BytesIO):
    """How much is asked for at once."""

    most = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0
        self.most = max(self.most, size)
        return super().readline(size)


def test_lines_come_whole_and_no_more_than_the_bound_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LONGEST_LINE", 5)
    file = Watched(b"abcd\n\nabcde\nnever read")
    lines = limits.bounded_lines(file, "the file")
    assert [next(lines), next(lines)] == [(1, b"abcd\n"), (2, b"\n")]
    with pytest.raises(InputError, match="the file, line 3: longer than 5 bytes"):
        next(lines)
    assert file.most == 6
    assert file.tell() == 12


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A line of 64 GB that takes no room on the disk."""
    path = tmp_path / "made.item"
    path.write_text(HEADER)
    with path.open("r+b") as file:
        file.truncate(64 << 30)
    return path


def test_a_file_of_one_endless_line_is_refused_at_once(sparse: Path) -> None:
    with pytest.raises(InputError, match=r"made\.item', line 2: longer than 16,777,216 bytes"):
        ItemTable.read(sparse, "item_id", ["title"])
    with pytest.raises(InputError, match=r"made\.item', line 2: longer than 16,777,216 bytes"):
        check_rows(sparse, ["item_id:token"], "\t")
    histories = sparse.rename(sparse.with_suffix(".jsonl"))
    histories.write_text('{"user": "u", "history": []}\n')
    with histories.open("r+b") as file:
        file.truncate(64 << 30)
    with pytest.raises(InputError, match="line 2: longer than 16,777,216 bytes"):
        read_histories(histories)


def test_a_million_columns_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "made.item"
    path.write_text("\t".join(f"c{n}:token" for n in range(1_000_000)) + "\n")
    message = "line 1: 1,000,000 columns, but at most 65,536 are read"
    with pytest.raises(InputError, match=message):
        ItemTable.read(path, "item_id", [])
    with pytest.raises(InputError, match=message):
        check_rows(path, ["item_id:token"], "\t")


def test_many_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "made.item"
    names = [f"c{n}" for n in range(limits.MOST_COLUMNS)]
    path.write_text("\t".join(f"{name}:token" for name in names) + "\n" + "\t".join(names) + "\n")
    table = ItemTable.read(path, "c0", ["c65535"])
    assert (table.tokens, table.columns) == (("c0",), {"c65535": ("c65535",)})
    with pytest.raises(InputError) as caught:
        ItemTable.read(path, "item_id", [])
    assert "its columns are 'c0', 'c1'" in str(caught.value)
    assert len(str(caught.value)) < 2000


ODD = {
    "a NUL": ("a\0", "line 3: a NUL character"),
    "a mark of direction": ("a\u202eb", r"line 3: item id 'a\u202eb' holds an invisible character"),
    "a byte-order mark": ("\ufeffa", r"line 3: item id '\ufeffa' holds an invisible character"),
    "a decomposed twin": (
        "cafe\u0301", r"line 3: item id 'cafe\u0301' is 'caf\xe9' in another form",
    ),
    "the sign of Kelvin": ("\u212a", r"line 3: item id '\u212a' is 'K' in another form"),
    "a long id twice": ("x" * 500, f"line 4: item id '{'x' * 79}…' is already on line 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_id_in_the_item_file_is_named(name: str, tmp_path: Path) -> None:
    token, message = ODD[name]
    again = f"{token}\tz\n" if "twice" in name else ""
    path = tmp_path / "made.item"
    path.write_text(f"{HEADER}caf\u00e9\tx\n{token}\ty\n{again}", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        ItemTable.read(path, "item_id", ["title"])
    assert message in str(caught.value)


def test_ids_of_other_scripts_and_titles_of_any_kind_are_kept(tmp_path: Path) -> None:
    rows = {"e\u0301": "\u202eodd\ufeff", "用户": "a\u200db", "\U0001f600": "\u0085"}
    path = tmp_path / "made.item"
    lines = "".join(f"{token}\t{title}\n" for token, title in rows.items())
    path.write_text(HEADER + lines, encoding="utf-8")
    table = ItemTable.read(path, "item_id", ["title"])
    assert dict(zip(table.tokens, table.columns["title"], strict=True)) == rows


ROWS = {
    "a NUL": ("u\0\ti1\t5", "line 3: a NUL character"),
    "too many cells": ("u\ti1\t5\t6", "line 3: 4 cells instead of 3"),
    "infinity": ("u\ti1\t-inf", "line 3: '-inf' is not a finite number"),
    "more than a float holds": ("u\ti1\t1e999", "line 3: '1e999' is not a finite number"),
    "a mark of direction": ("u\ti\u200f1\t5", r"line 3: 'i\u200f1' holds an invisible character"),
    "a twin": ("A\u030a\ti1\t5", r"line 3: 'A\u030a' is '\xc5' in another form"),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_odd_interaction_is_named(name: str, tmp_path: Path) -> None:
    row, message = ROWS[name]
    path = tmp_path / "made.inter"
    path.write_text(f"{INTER}\n\u00c5\ti1\t4\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        check_rows(path, COLUMNS, "\t")
    assert f"made.inter' has 1 bad lines: {message}" in str(caught.value)


def test_interactions_that_recbole_reads_pass(tmp_path: Path) -> None:
    path = tmp_path / "made.inter"
    rows = ["u\ti\t5", "", "u\ti", "u\ti\t-5.5\t", "u\ti\tNaN", "u\ti\t", '"u\ti\t4102444800']
    path.write_text("\ufeff" + "\n".join([INTER, *rows]), encoding="utf-8")
    check_rows(path, COLUMNS, "\t")


def test_only_columns_that_are_read_count(tmp_path: Path) -> None:
    path = tmp_path / "made.inter"
    path.write_text(f"{INTER}\tnote:token\tweight:float\nu\ti\t5\t\u202e\tinf\n", encoding="utf-8")
    check_rows(path, COLUMNS, "\t")
    with pytest.raises(InputError, match="holds an invisible character"):
        check_rows(path, [*COLUMNS, "note:token"], "\t")


def test_bad_interactions_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "made.inter"
    path.write_text(f"{INTER}\n" + "u\ti\tinf\n" * 12)
    with pytest.raises(InputError, match=r"has 12 bad lines: .*line 11: .*; …\. Correct"):
        check_rows(path, COLUMNS, "\t")
