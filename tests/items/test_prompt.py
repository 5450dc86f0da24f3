"""The prompt template: placeholders, optional parts, escapes, empty texts."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.items.prompt import Prompt
from recbole_sid.items.table import ItemFields, ItemTable

FIELDS = ItemFields(
    item_text_fields=["title", "text"],
    item_category_field="categories",
    item_category_format="quoted",
    item_category_separator=", ",
    item_brand_field="maker",
    item_price_field=None,
)


def table(**cells: str) -> ItemTable:
    names = ["title", "text", "categories", "maker"]
    return ItemTable(("a",), {name: (cells.get(name, ""),) for name in names})


def render(template: str, **cells: str) -> str:
    return Prompt(template, FIELDS).render(table(**cells))[0]


FULL = {"title": "Soap", "text": "Red", "categories": "'Beauty', 'Bath'", "maker": "Acme"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{title}", "Soap"),
        ("{ title }!", "Soap!"),
        ("{item_text} by {brand}", "Soap Red by Acme"),
        ("{title}[. Category: {category}]", "Soap. Category: Beauty > Bath"),
        ("{title}[. Price: {price}]", "Soap"),
        ("{title} [[{brand}]] {{x}}", "Soap [Acme] {x}"),
        ("  {title}\n\t {brand} ", "Soap Acme"),
        ("[{title} of {brand}]", "Soap of Acme"),
    ],
)
def test_a_full_row(template: str, expected: str) -> None:
    assert render(template, **FULL) == expected


def test_a_part_vanishes_whole_when_one_placeholder_is_empty() -> None:
    template = "{title}[ by {brand}][ ({text}, {category})]."
    assert render(template, title="Soap", maker=" ", text="Red") == "Soap."
    assert render(template, title="Soap", maker="Acme") == "Soap by Acme."
    assert render(template, title="NA", text="Red", categories="'x'") == "NA (Red, x)."


def test_fields_are_the_columns_that_are_read() -> None:
    prompt = Prompt("{item_text}[ {category}] {title}[ {price}]", FIELDS)
    assert prompt.fields == ("title", "text", "categories")
    assert Prompt("{brand}", FIELDS).fields == ("maker",)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"unknown placeholder \{titel\}. Did you mean 'title'"),
        ("{maker}", "unknown placeholder"),
        ("{}", "unknown placeholder"),
        ("{title} {price}", "item_price_field is not set"),
        ("no placeholder", "must hold a placeholder"),
        ("", "must hold a placeholder"),
        ("{title", "at character 1, this bracket has no partner"),
        ("{title} }", "at character 9, this bracket has no partner"),
        ("{title}[ {brand}", "at character 8, this bracket has no partner"),
        ("{title}]", "at character 8, this bracket has no partner"),
        ("[{title}[ {brand}]]", "at character 9, brackets do not nest"),
        ("{title}[ new]", "at character 8, these brackets hold no placeholder"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prompt(template, FIELDS)


@given(st.text(alphabet="[]{}title "), st.text(alphabet="[]{} a"))
def test_junk_gives_a_text_or_an_input_error(template: str, title: str) -> None:
    try:
        text = render(template, title=title)
    except InputError:
        return
    assert text == " ".join(text.split()) != ""


@given(st.text())
def test_escaped_text_comes_back(text: str) -> None:
    escaped = "".join(char * 2 if char in "[]{}" else char for char in text)
    assert render(escaped + "|{title}", title="x") == " ".join((text + "|x").split())


def test_one_warning_counts_items_without_row_and_without_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    columns: dict[str, Any] = {name: ("",) * 3 for name in ("text", "categories", "maker")}
    columns["title"] = ("Soap", "", "Brush")
    items = ItemTable(("a", "b", "c"), columns).aligned(["x", "c", "b", "a", "y"])
    with caplog.at_level(logging.WARNING):
        texts = Prompt("Title: {title}", FIELDS).render(items)
    assert texts == ["", "Title: Brush", "", "Title: Soap", ""]
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 5 items have an empty prompt; 2 items have no row in the item file."
    ]


def test_no_warning_when_every_item_has_text(caplog: pytest.LogCaptureFixture) -> None:
    render("{title}", **FULL)
    assert not caplog.records


def test_an_empty_text_column_is_refused() -> None:
    with pytest.raises(InputError, match=r"empty text column: none of the 1 items .* 'title'"):
        render("Title: {title}", text="not used")
