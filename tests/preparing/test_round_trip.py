"""What is written is read alike by RecBole's reader and by ours, and trains as it is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES
from recbole.data import create_dataset

from recbole_sid.config import Config
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.preparing.values import READ_AS_MISSING, clean, id_problem, price_text
from recbole_sid.settings import build
from tests.preparing.feeds import jsonl_text, lines_of, make, write_feed

TITLES = [
    '"Quoted" cups',
    'Screen, 12" wide',
    '"',
    '""',
    "Tabs\tand\nline\r\nends\x0band\x00more",
    "O'Neill's #1 \\ \\t mug",
    "  much   space  ",
    "NA",
    "Tschüß 杯子 🍵 \u2028 separator",
    "a,b;c|d",
    "[1] {x}",
    "x" * 131_072,
]


def test_texts_are_the_same_for_both_readers(tmp_path: Path) -> None:
    mapping = write_feed(tmp_path)
    rows = [
        {"ad": f"#{n} 'ad'", "title": title, "path": ["Home > Kitchen", "", "'Cups'"], "price": 2.5}
        for n, title in enumerate(TITLES)
    ]
    (tmp_path / "items.jsonl").write_text(jsonl_text(rows))
    log = [{"user": f"u {n % 3}", "ad": row["ad"], "type": "click", "time": 5 + n}
           for n, row in enumerate(rows)]  # fmt: skip
    (tmp_path / "events.jsonl").write_text(jsonl_text(log))
    mapping["items"]["files"], mapping["events"]["files"] = "items.jsonl", "events.jsonl"
    report = make(tmp_path, mapping)
    assert report["items"]["rejected"] == {}
    assert report["items"]["quotes_replaced"] == 3

    folder = tmp_path / "out"
    config_file = str(folder / "ads" / "ads.yaml")
    everything = {
        "data_path": str(folder),
        "load_col": {"inter": "*", "item": "*"},
        "MAX_ITEM_LIST_LENGTH": 5,
    }
    config = Config("SASRec", "ads", [config_file], everything)
    dataset = create_dataset(config)
    tokens = dataset.field2id_token["item_id"][1:]
    assert sorted(tokens) == sorted(row["ad"] for row in rows)
    assert set(dataset.field2id_token["user_id"][1:]) == {"u 0", "u 1", "u 2"}

    own = Config("TIGER", "ads", [config_file], {"data_path": str(folder)})
    fields = build(ItemFields, own.final_config_dict)
    table = ItemTable.read(folder / "ads" / "ads.item", "item_id", fields.columns).aligned(tokens)
    # Row 0 is padding.
    titles = dataset.item_feat["title"].to_numpy().astype(int)[1:]
    read = dict(zip(tokens, dataset.field2id_token["title"][titles], strict=True))
    ours = dict(zip(tokens, table.columns["title"], strict=True))
    # RecBole takes the word NA for nothing; our reader, which reads the texts, does not.
    missing = f"#{TITLES.index('NA')} 'ad'"
    assert (read.pop(missing), ours.pop(missing)) == ("[PAD]", "NA")
    assert read == ours
    assert [ours[f"#{n} 'ad'"] for n in (0, 1, 2, 3, 4, 5, 6)] == [
        "''Quoted'' cups", 'Screen, 12" wide', "''", "''''", "Tabs and line ends and more",
        "O'Neill's #1 \\ \\t mug", "much space",
    ]  # fmt: skip
    assert set(table.category_paths(fields)) == {("Home / Kitchen", "'Cups'")}
    assert set(dataset.item_feat["price"][1:]) == {2.5}


def test_the_yaml_file_trains_a_model(tmp_path: Path, cache: str) -> None:
    import recbole_sid

    mapping = write_feed(tmp_path)
    rows = [{"ad": f"a{n}", "title": f"Thing {n}", "path": "x", "price": "1"} for n in range(12)]
    (tmp_path / "items.jsonl").write_text(jsonl_text(rows))
    log = [{"user": f"u{u}", "ad": f"a{(u + 5 * n) % 12}", "type": "click", "time": n}
           for u in range(10) for n in range(6)]  # fmt: skip
    (tmp_path / "events.jsonl").write_text(jsonl_text(log))
    mapping["items"]["files"], mapping["events"]["files"] = "items.jsonl", "events.jsonl"
    mapping["minimum"] = {"user": 5, "item": 5}
    make(tmp_path, mapping)
    folder = tmp_path / "out"
    result = recbole_sid.run(
        "TIGER",
        "ads",
        config_file_list=[str(folder / "ads" / "ads.yaml")],
        config_dict={
            "data_path": str(folder), "cache_dir": cache, "output": str(tmp_path / "run"),
            "tokenizer": "random", "tokenizer_codebook_size": 4, "tokenizer_levels": 2,
            "epochs": 1, "hidden_size": 16, "inner_size": 16, "n_heads": 2, "head_size": 8,
            "encoder_layers": 1, "decoder_layers": 1, "precision": "float32", "topk": [5],
            "valid_metric": "NDCG@5", "show_progress": False,
        },
    )  # fmt: skip
    assert "ndcg@5" in result["test_result"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1))
def test_any_cells_are_read_alike(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "x.item"
    tokens = [f"i{n}" for n in range(len(texts))]
    cleaned = [clean(text, with_html=False) for text in texts]
    lines = [f"{token}\t{text}" for token, text in zip(tokens, cleaned, strict=True)]
    header = "item_id:token\ttitle:token"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8", newline="\n")
    ours = ItemTable.read(path, "item_id", ["title"])
    assert ours.columns["title"] == tuple(cleaned)
    # As RecBole's dataset calls it.
    read = pd.read_csv(path, delimiter="\t", dtype=str, encoding="utf-8", engine="python")
    assert read["item_id:token"].tolist() == tokens
    values = read["title:token"].where(read["title:token"].notna(), None).tolist()
    assert values == [None if text in {*READ_AS_MISSING, ""} else text for text in cleaned]


def test_the_words_that_read_as_missing_are_those_of_pandas() -> None:
    assert {*READ_AS_MISSING, ""} == set(STR_NA_VALUES)
    assert all(id_problem(word, "user") for word in STR_NA_VALUES)


@pytest.mark.parametrize(
    ("text", "price"),
    [("$1,299.00", "1299.00"), ("12", "12"), (" .5 ", ".5"), ("9.99 EUR", "9.99"), ("€ 3", "3"),
     ("from 12.0", None), ("$5 - $9", None), ("-3", None), ("1.2.3", None), ("12,99", None),
     ("nan", None), ("1e3", None)],
)  # fmt: skip
def test_prices(text: str, price: str | None) -> None:
    assert price_text(text) == price


def test_html_is_decoded_and_its_tags_dropped(tmp_path: Path) -> None:
    assert clean("Salt &amp; pepper<br/>mills, 3 < 5 &quot;x&quot;", with_html=True) == (
        'Salt & pepper mills, 3 < 5 "x"'
    )
    assert clean("Salt &amp; pepper", with_html=False) == "Salt &amp; pepper"
    mapping = write_feed(tmp_path)
    text = (tmp_path / "items.csv").read_text().replace("Tea cups", "&quot;Tea&quot; cups<br>")
    (tmp_path / "items.csv").write_text(text)
    mapping["items"]["html"] = True
    make(tmp_path, mapping)
    assert lines_of(tmp_path, ".item")[1].split("\t")[1] == "''Tea'' cups"
