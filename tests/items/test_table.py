"""ItemTable: no text is lost, and bad files are refused with the line."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.limits import has_invisible

VALUES: dict[str, Any] = {
    "item_text_fields": ["title"],
    "item_category_field": "categories",
    "item_category_format": "quoted",
    "item_category_separator": ", ",
    "item_brand_field": None,
    "item_price_field": None,
}


def fields(**changes: Any) -> ItemFields:
    return settings.build(ItemFields, VALUES | changes)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "made.item"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


HEADER = "item_id:token\ttitle:token_seq\tprice:float\n"


def test_texts_are_kept_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + 'a\t"Quote  left open\t1.50\nNA\tNone\t\nc\tTürkçe, \\n\tNA\n')
    table = ItemTable.read(path, "item_id", ["price", "title"])
    assert table.tokens == ("a", "NA", "c")
    assert table.columns == {
        "price": ("1.50", "", "NA"),
        "title": ('"Quote  left open', "None", "Türkçe, \\n"),
    }


def test_bom_crlf_blank_lines_and_a_missing_last_newline(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + HEADER.encode().replace(b"\n", b"\r\n")
    table = ItemTable.read(
        write(tmp_path, content + b"a\tone\t1\r\n\r\nb\ttwo\t2"), "item_id", ["title", "price"]
    )
    assert table.tokens == ("a", "b")
    assert table.columns == {"title": ("one", "two"), "price": ("1", "2")}


def test_another_separator(tmp_path: Path) -> None:
    path = write(tmp_path, "title:token,item_id:token\nx,1\n")
    table = ItemTable.read(path, "item_id", ["title"], separator=",")
    assert (table.tokens, table.columns) == (("1",), {"title": ("x",)})


def test_bad_lines_are_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "a\tone\t1\nb\ttwo\n\tthree\t3\na\tfour\t4\n")
    with pytest.raises(InputError) as caught:
        ItemTable.read(path, "item_id", ["title"])
    message = str(caught.value)
    assert "3 bad lines" in message
    assert "line 3: 2 cells instead of 3" in message
    assert "line 4: the item id is empty" in message
    assert "line 5: item id 'a' is already on line 2" in message


def test_only_the_first_ten_bad_lines_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "x\n" * 12)
    with pytest.raises(InputError) as caught:
        ItemTable.read(path, "item_id", ["title"])
    message = str(caught.value)
    assert "12 bad lines" in message
    assert message.count("1 cells instead of 3") == 10
    assert "line 11:" in message
    assert "line 12:" not in message


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "a\tone\t1\n")
    with pytest.raises(InputError) as caught:
        ItemTable.read(path, "item_id", ["titel"])
    assert "no column 'titel'" in str(caught.value)
    assert "Did you mean 'title'" in str(caught.value)
    assert "'item_id', 'title', 'price'" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header cell ''"),
        (b"item_id\ttitle\na\tb\n", "header cell 'item_id'"),
        (b"item_id:token\ttitle:text\n", "header cell 'title:text'"),
        (b"item_id:token\titem_id:token\n", "'item_id' appears twice"),
        (b"item_id:token\n", "no column 'title'"),
        (b"item_id:token\ttitle:token\n", "no items"),
        (b"item_id:token\ttitle:token\na\t\xff\n", "line 2: not UTF-8"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ItemTable.read(write(tmp_path, content), "item_id", ["title"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no item file"):
        ItemTable.read(tmp_path / "none.item", "item_id", [])


CELL = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]))
TOKEN = CELL.map(lambda text: unicodedata.normalize("NFC", text)).filter(
    lambda text: text.strip() and not has_invisible(text)
)


@given(st.dictionaries(TOKEN, CELL, min_size=1))
def test_every_cell_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: dict) -> None:
    lines = "".join(f"{token}\t{text}\n" for token, text in rows.items())
    path = write(tmp_path_factory.mktemp("table"), "item_id:token\ttitle:token\n" + lines)
    table = ItemTable.read(path, "item_id", ["title"])
    assert dict(zip(table.tokens, table.columns["title"], strict=True)) == rows


@given(st.binary())
def test_junk_gives_a_table_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("table"), b"item_id:token\ttitle:token\n" + content)
    try:
        table = ItemTable.read(path, "item_id", ["title"])
    except InputError:
        return
    assert len(table.columns["title"]) == len(table.tokens) > 0


def test_aligned_orders_fills_and_counts() -> None:
    table = ItemTable(("a", "b", "c", "d"), {"title": ("A", "B", "C", "D")})
    aligned = table.aligned(["d", "x", "a"])
    assert aligned.tokens == ("d", "x", "a")
    assert aligned.columns == {"title": ("D", "", "A")}
    assert aligned.n_without_row == 1
    assert aligned.n_dropped == 2


def test_category_paths() -> None:
    cells = ("'Beauty', 'Men's'", "", "'Beauty'")
    table = ItemTable(("a", "b", "c"), {"categories": cells})
    assert table.category_paths(fields()) == [("Beauty", "Men's"), (), ("Beauty",)]


def test_malformed_category_paths_are_counted() -> None:
    table = ItemTable(("a", "b", "c"), {"categories": ("Beauty", "'Beauty'", "Hair")})
    with pytest.raises(InputError, match="2 malformed category paths; the first: item 'a'"):
        table.category_paths(fields())
    with pytest.raises(InputError, match="'item_category_field' is None"):
        table.category_paths(fields(item_category_field=None))


def test_columns_are_named_once() -> None:
    chosen = fields(item_text_fields=["title", "brand"], item_brand_field="brand")
    assert chosen.columns == ["title", "brand", "categories"]


@pytest.mark.parametrize(
    "changes",
    [
        {"item_text_fields": []},
        {"item_text_fields": ["title", "title"]},
        {"item_text_fields": [""]},
        {"item_text_fields": "title"},
        {"item_text_fields": ["item_text"]},
        {"item_text_fields": ["brand"], "item_brand_field": "maker"},
        {"item_category_format": "json"},
        {"item_category_separator": ""},
    ],
)
def test_settings_out_of_bounds(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"'{next(iter(changes))}' is"):
        fields(**changes)
