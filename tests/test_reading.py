"""Files whose texts pandas would read otherwise than they are written."""

import sys

import pandas as pd
import pytest
import recbole.config
import recbole.data
import recbole.data.dataset.dataset

import recbole_sid
from recbole_sid import datasets
from recbole_sid.config import Config
from recbole_sid.reading import read_data
from recbole_sid.sid.table import SemanticIDs
from tests.runs import SMALL, write_data

ODD = {
    "y0": '"open',
    "y1": "b",
    "y2": 'close"',
    "NA": "NA",
    "null": '"never closed',
    "None": "''",
    '"q': '2" nail',
}
ITEMS = [*ODD, *(f"z{n}" for n in range(13))]
USERS = ["NA", '"u', "nan", *(f"u{n}" for n in range(9))]


@pytest.fixture
def odd(tmp_path):
    """Settings for data in which users, items and titles are words and quotes of a csv file."""
    rows = [
        (user, ITEMS[(start + 2 * step) % len(ITEMS)], step)
        for start, user in enumerate(USERS)
        for step in range(8)
    ]
    titles = {item: ODD.get(item, f"Thing {item}") for item in ITEMS}
    written = write_data(tmp_path / "data", rows, titles)
    return {
        **SMALL,
        **written,
        "load_col": {**written["load_col"], "item": ["item_id", "title"]},
        "user_inter_num_interval": None,
        "item_inter_num_interval": None,
        "item_text_fields": ["title"],
        "cache_dir": str(tmp_path / "cache"),
        "output": str(tmp_path / "run"),
    }


def write_items(folder, *lines):
    """Settings of the dataset ``made`` with these lines as its item file."""
    written = write_data(folder, [("u", "a", 1), ("u", "b", 2)])
    (folder / "made" / "made.item").write_text("\n".join(lines) + "\n")
    return {**written, "load_col": None, "output": str(folder / "run")}


def test_all_users_items_and_titles_come_out_as_written(odd):
    dataset, _ = read_data(Config("TIGER", "made", config_dict=odd))
    assert set(dataset.field2id_token["item_id"][1:]) == set(ITEMS)
    assert set(dataset.field2id_token["user_id"][1:]) == set(USERS)
    # A sequential dataset holds a user's interactions but the first, each with what was before.
    assert dataset.inter_num == (8 - 1) * len(USERS)
    titles = dataset.field2id_token["title"][dataset.item_feat["title"].numpy()]
    given = dict(zip(dataset.field2id_token["item_id"], titles, strict=True))
    assert {item: given[item] for item in ODD} == ODD


def test_all_items_have_a_semantic_id(odd):
    result = recbole_sid.run("TIGER", "made", config_dict=odd)
    sids = SemanticIDs.load(f"{result['run_folder']}/sids.json")
    assert set(sids.tokens) == set(ITEMS)


def test_only_numbers_are_missing_by_a_word(tmp_path):
    settings = write_items(
        tmp_path,
        "item_id:token\ttitle:token\twords:token_seq\tprice:float\tvector:float_seq",
        "a\tnull\tNA\tNA\tnan",
        "b\t\t\t4\t1 2",
        "c\tx\tx None\t\t",
        "d\tx\tx\t8\t3",
    )
    dataset = datasets.create_dataset(Config("BPR", "made", config_dict=settings))
    items = dataset.item_feat.iloc[1:]  # the first row is the padding item
    assert dataset.id2token("item_id", items["item_id"]).tolist() == ["a", "b", "c", "d"]
    titles = items["title"].astype(int)
    assert dataset.id2token("title", titles).tolist() == ["null", "[PAD]", "x", "x"]
    words = [list(dataset.id2token("words", cell)) for cell in items["words"]]
    assert words == [["NA"], [], ["x", "None"], ["x"]]
    assert items["price"].tolist() == [6, 4, 6, 8]  # 6, the mean of 4 and 8, where it is missing
    assert [list(cell) for cell in items["vector"]] == [[], [1, 2], [], [3]]


def test_a_separator_at_the_end_of_rows_shifts_no_ids(tmp_path):
    settings = write_items(tmp_path, "item_id:token\ttitle:token", "a\tx\t", "b\ty\t")
    dataset = datasets.create_dataset(Config("BPR", "made", config_dict=settings))
    assert dataset.field2id_token["item_id"].tolist() == ["[PAD]", "a", "b"]
    assert dataset.field2id_token["title"].tolist() == ["[PAD]", "x", "y"]


def test_ordinary_files_are_read_as_by_stock_recbole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prog"])
    everything = {"load_col": None, "output": "run"}
    ours = datasets.create_dataset(Config("BPR", "ml-100k", config_dict=everything))
    stock = recbole.data.create_dataset(
        recbole.config.Config("BPR", "ml-100k", config_dict=everything)
    )
    assert ours.field2id_token.keys() == stock.field2id_token.keys()
    for field, tokens in stock.field2id_token.items():
        assert ours.field2id_token[field].tolist() == tokens.tolist()
    for name in ("inter_feat", "user_feat", "item_feat"):
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(stock, name))
    assert list(stock.item_feat) == ["item_id", "movie_title", "release_year", "class"]


def test_recbole_has_its_pandas_again_afterwards():
    module = recbole.data.dataset.dataset
    with datasets.texts_as_written():
        assert module.pd.DataFrame is pd.DataFrame
        assert module.pd is not pd
    assert module.pd is pd
    with pytest.raises(ZeroDivisionError), datasets.texts_as_written():
        raise ZeroDivisionError
    assert module.pd is pd
