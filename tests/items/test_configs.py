"""The defaults and the data set files fill the settings and fit the data at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import recbole
import yaml

from recbole_sid import settings
from recbole_sid.items.encoder import EncoderSettings
from recbole_sid.items.prompt import Prompt, PromptSettings
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.items.vectors import VectorSettings

ROOT = Path(__file__).parents[2]
DEFAULTS = yaml.safe_load((ROOT / "properties" / "items.yaml").read_text())
SCHEMA = yaml.safe_load((ROOT / "properties" / "schema.yaml").read_text())
DATASETS = ["ml-100k", "beauty", "Amazon_Beauty", "office", "ad", "synthetic-ads"]
ALL = (ItemFields, PromptSettings, EncoderSettings, VectorSettings)


def config(dataset: str) -> dict[str, Any]:
    path = ROOT / "dataset_configs" / f"{dataset}.yaml"
    return DEFAULTS | SCHEMA | yaml.safe_load(path.read_text())


def test_the_defaults_are_exactly_the_settings() -> None:
    assert set(DEFAULTS) == {key for cls in ALL for key in settings.keys(cls)}
    for cls in ALL:
        settings.build(cls, DEFAULTS)
    Prompt(DEFAULTS["prompt_template"], settings.build(ItemFields, DEFAULTS))


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_data_set_sets_known_keys_and_a_valid_prompt(dataset: str) -> None:
    values = config(dataset)
    recbole_keys = {"USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "load_col"}
    others = {"tokenizer_codebook_size", "generative"} if dataset == "ml-100k" else recbole_keys
    assert set(values) - set(DEFAULTS) - set(SCHEMA) == others
    if dataset != "ml-100k":
        assert values["load_col"] == {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id"],
        }
    fields = settings.build(ItemFields, values)
    assert set(Prompt(values["prompt_template"], fields).fields) <= set(fields.columns)


def test_ml_100k() -> None:
    values = config("ml-100k")
    fields = settings.build(ItemFields, values)
    folder = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    table = ItemTable.read(folder / "ml-100k.item", "item_id", fields.columns)
    texts = Prompt(values["prompt_template"], fields).render(table)
    assert len(texts) == 1682
    assert texts[0] == "Toy Story (1995). Genres: Animation Children's Comedy"
    assert table.category_paths(fields)[0] == ("Animation", "Children's", "Comedy")


MADE = {
    "beauty": (
        "item_id:token\ttitle:token\tcategories:token_seq\tprice:float\tbrand:token\n"
        "1\tRose Water\t'Beauty', 'Women\\'s', 'Creams, Gels & Lotions'\t5.04\t\n",
        "Rose Water. Category: Beauty > Women's > Creams, Gels & Lotions. Price: 5.04",
    ),
    "office": (
        "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\tprice:float\t"
        "description:token_seq\n"
        "1\tRed Pen\tOffice, Pens\tAcme\t\tWrites in red\n",
        "Red Pen by Acme. Category: Office > Pens. Writes in red",
    ),
    "ad": (
        "item_id:token\ttitle:token\ttext:token\tindustry:token\tcategory:token\tbrand:token\t"
        "advertiser:token\tprice:float\timage:token\n"
        "1\tTea cups\tSet of six\thome\ttableware > cups\t\tTea House\t9.90\t1.jpg\n",
        "Tea cups. Set of six. Advertiser: Tea House. Industry: home. "
        "Category: tableware > cups. Price: 9.90",
    ),
}


@pytest.mark.parametrize("dataset", MADE)
def test_a_made_row_of_each_data_set(tmp_path: Path, dataset: str) -> None:
    content, expected = MADE[dataset]
    (tmp_path / "made.item").write_text(content)
    values = config(dataset)
    fields = settings.build(ItemFields, values)
    table = ItemTable.read(tmp_path / "made.item", "item_id", fields.columns)
    assert Prompt(values["prompt_template"], fields).render(table) == [expected]
