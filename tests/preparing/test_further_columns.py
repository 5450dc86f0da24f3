"""Further columns of the item file with a type: part of the text, or carried along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_sid.errors import InputError
from recbole_sid.parsing import read_yaml
from tests.preparing.feeds import lines_of, make, write_feed

FEED = """ad,title,path,price,page,deal,ends
a1,Tea cups,household > tableware,12.50,/cups,d7,1700000100
a2,Trail shoes,sports > shoes,,/shoes,d8,
a3,Espresso machine,household > kitchen,99,/espresso,,{ends}
"""


def write(folder: Path, ends: str = "1.7e9", **others: Any) -> dict[str, Any]:
    mapping = write_feed(folder)
    (folder / "items.csv").write_text(FEED.format(ends=ends))
    mapping["items"]["keep_all"] = True
    mapping["items"]["columns"]["others"] = {
        "page": "page",
        "deal": {"column": "deal", "type": "token"},
        "until": {"column": "ends", "type": "float"},
    } | others
    return mapping


def test_types_of_further_columns(tmp_path: Path) -> None:
    report = make(tmp_path, write(tmp_path))
    assert lines_of(tmp_path, ".item") == [
        "item_id:token\ttitle:token\tcategory:token\tprice:float\tpage:token\tdeal:token\t"
        "until:float",
        "a1\tTea cups\thousehold > tableware\t12.50\t/cups\td7\t1700000100",
        "a2\tTrail shoes\tsports > shoes\t\t/shoes\td8\t",
        "a3\tEspresso machine\thousehold > kitchen\t99\t/espresso\t\t1.7e9",
    ]
    config = read_yaml(tmp_path / "out" / "ads" / "ads.yaml")
    # Names and numbers are no part of the text.
    assert config["item_text_fields"] == ["title", "page"]
    assert "{page}" in config["prompt_template"]
    assert "deal" not in config["prompt_template"]
    assert "until" not in config["prompt_template"]
    assert report["settings"]["item_columns"]["others"]["deal"] == {
        "column": "deal",
        "type": "token",
    }


@pytest.mark.parametrize("ends", ["soon", "nan", "inf", "1_000", "1e999", "2026-01-01", "0x10"])
def test_what_is_no_number_makes_a_bad_row(tmp_path: Path, ends: str) -> None:
    mapping = write(tmp_path, ends)
    report = make(tmp_path, mapping)
    assert report["items"]["rejected"] == {"a value of 'until' that is not a number": 1}
    assert [line.split("\t")[0] for line in lines_of(tmp_path, ".item")[1:]] == ["a1", "a2"]
    with pytest.raises(InputError, match="line 4: a value of 'until' that is not a number"):
        make(tmp_path, mapping, overwrite=True, strict=True)


@pytest.mark.parametrize("ends", ["-5", "0.25", ".5", "7.", "+1E3", " 12 "])
def test_numbers_stay_as_they_are_written(tmp_path: Path, ends: str) -> None:
    make(tmp_path, write(tmp_path, ends))
    assert lines_of(tmp_path, ".item")[3].split("\t")[-1] == ends.strip()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"column": "ends", "type": "int"}, "others.until.type' is 'int', but must be text or tok"),
        ({"column": "ends"}, "but must be the name of a column, or {column: …, type: …}"),
        ({"column": ["ends"], "type": "float"}, "but must be the name of a column"),
        ({"column": "ends", "type": "float", "unit": "s"}, "but must be the name of a column"),
        (7, "but must be the name of a column"),
    ],
)
def test_what_a_further_column_must_be(tmp_path: Path, other: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path, write(tmp_path, until=other))


def test_numbers_alone_say_nothing_of_an_item(tmp_path: Path) -> None:
    mapping = write(tmp_path)
    until = {"until": {"column": "ends", "type": "float"}}
    mapping["items"]["columns"] = {"item_id": "ad", "price": "price", "others": until}
    with pytest.raises(InputError, match="more than id, price and image, or numbers"):
        make(tmp_path, mapping)


def test_without_a_text_a_name_takes_its_place(tmp_path: Path) -> None:
    mapping = write(tmp_path)
    deal = {"deal": {"column": "deal", "type": "token"}}
    mapping["items"]["columns"] = {"item_id": "ad", "others": deal}
    make(tmp_path, mapping)
    config = read_yaml(tmp_path / "out" / "ads" / "ads.yaml")
    assert config["item_text_fields"] == ["deal"]
    assert "{deal}" in config["prompt_template"]
