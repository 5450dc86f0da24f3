"""The schema: which parts go in, in which order, and what is cut."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.items import schema
from recbole_sid.items.encoder import model_folder
from recbole_sid.items.images import ImageSettings, ItemImages
from recbole_sid.items.schema import (
    ItemInputs,
    SchemaSettings,
    cut_longest,
    item_inputs,
    schema_columns,
    schema_parts,
)
from recbole_sid.items.summaries import SummarySettings
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.resources import resource_dir

TEXT = (resource_dir("properties") / "schema.yaml").read_text(encoding="utf-8")
DEFAULTS = yaml.safe_load(TEXT)
FIELDS = ItemFields(["title", "text"], "path", "separator", ">", "maker", None)
WORDS = "Read this item: a b c d e f brand: category: industry: price: x y z > | 5"
TABLE = ItemTable(
    ("one", "two", "three"),
    {
        "title": ("a b  c", "d", ""),
        "text": ("e f", "", ""),
        "path": ("x > y", "z", ""),
        "maker": ("a", "", ""),
        "trade": ("b", "b", "b"),
        "cost": ("5", "5", "5"),
    },
)


def tokenizer(enclosed: bool = True) -> PreTrainedTokenizerFast:
    """One token a word."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *dict.fromkeys(WORDS.split())]
    vocabulary = {word: number for number, word in enumerate(names)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if enclosed:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", model_max_length=4
    )


def build(**changes: Any) -> SchemaSettings:
    changes = {"schema_instruction": "Read this item:", "schema_separator": " | "} | changes
    return settings.build(SchemaSettings, DEFAULTS | changes)


def words(inputs: ItemInputs, enclosed: bool = True) -> list[str]:
    hf = tokenizer(enclosed)
    rows = [inputs.token_ids[a:b] for a, b in zip(inputs.offsets, inputs.offsets[1:], strict=False)]
    return [" ".join(hf.convert_ids_to_tokens(row.tolist())) for row in rows]


def run(
    table: ItemTable = TABLE,
    fields: ItemFields = FIELDS,
    images: ItemImages | None = None,
    enclosed: bool = True,
    **changes: Any,
) -> ItemInputs:
    return item_inputs(table, fields, build(**changes), tokenizer(enclosed), images)


def images(mask: list[list[int]]) -> ItemImages:
    there = np.array(mask, bool)
    return ItemImages(np.ones((*there.shape, 2), np.float32), there)


def test_the_yaml_file_holds_each_setting_once_and_nothing_else() -> None:
    classes = (SchemaSettings, ImageSettings, SummarySettings)
    assert set(DEFAULTS) == {key for cls in classes for key in settings.keys(cls)}
    for cls in classes:
        settings.build(cls, DEFAULTS)
    assert all(line.startswith("# ") or "# (" in line for line in TEXT.splitlines() if line)


def test_all_parts_in_the_order_of_the_paper() -> None:
    inputs = run()
    assert words(inputs) == [
        "[CLS] Read this item: | a b c | e f | category: x > y | brand: a [SEP]",
        "[CLS] Read this item: | d | category: z [SEP]",
        "[CLS] Read this item: [SEP]",
    ]
    assert inputs.token_ids.dtype == np.int32
    assert inputs.offsets.dtype == np.int64
    assert inputs.offsets.tolist() == [0, 20, 30, 35]
    assert inputs.images is None
    assert inputs.image_mask is None
    assert inputs.image_position.tolist() == [0, 0, 0]


def test_chosen_parts_in_the_chosen_order() -> None:
    inputs = run(schema_fields=["brand", "title", "industry"], item_industry_field="trade")
    assert words(inputs) == [
        "[CLS] brand: a | a b c | industry: b [SEP]",
        "[CLS] d | industry: b [SEP]",
        "[CLS] industry: b [SEP]",
    ]


def test_a_tokenizer_without_start_and_end_and_no_instruction() -> None:
    assert words(run(enclosed=False, schema_instruction=" "), enclosed=False) == [
        "a b c | e f | category: x > y | brand: a", "d | category: z", "",
    ]  # fmt: skip


def test_parts_and_columns() -> None:
    # `path` is the category and a text field: once, as the category.
    fields = ItemFields(["title", "path"], "path", "plain", ", ", None, "cost")
    parts = schema_parts(build(item_industry_field="trade"), fields)
    assert [(part.name, part.column, part.cut) for part in parts] == [
        ("instruction", None, False),
        ("images", None, False),
        ("title", "title", True),
        ("industry", "trade", False),
        ("category", "path", False),
        ("price", "cost", False),
    ]
    assert schema_columns(build(), fields) == ["title", "path", "cost"]
    assert schema_columns(build(schema_fields=["images", "price"]), fields) == ["cost"]
    as_text = build(schema_fields=["path"])
    assert schema_parts(as_text, fields) == [("path", "path", True)]
    # Without a column of the brand, `brand` may be a text like any other.
    brand_as_text = ItemFields(["brand"], None, "plain", ", ", None, None)
    assert schema_parts(build(schema_fields=["brand"]), brand_as_text) == [("brand", "brand", True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_fields": ["titel"]}, r"'titel'.*Did you mean 'title'"),
        ({"schema_fields": ["price"]}, "'price', which is no part. Set item_price_field"),
        ({"schema_fields": []}, "one or more names"),
        ({"schema_fields": ["title", "title"]}, "each once"),
        ({"schema_max_length": 0}, "at least 1"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schema_parts(build(**changes), FIELDS)


@pytest.mark.parametrize("name", ["images", "instruction", "industry"])
def test_a_text_field_may_not_be_called_like_another_part(name: str) -> None:
    fields = ItemFields([name], None, "plain", ", ", None, None)
    with pytest.raises(InputError, match=f"without '{name}'.*Rename the column"):
        schema_parts(build(item_industry_field="trade"), fields)


def test_the_longest_text_is_cut_and_nothing_else() -> None:
    # [CLS], instruction, category, brand and [SEP] have 1 + 3 + 5 + 3 + 1 = 13 tokens, the texts,
    # with their separators, 4 and 3.
    whole = "[CLS] Read this item: | a b c | e f | category: x > y | brand: a [SEP]"
    assert words(run(schema_max_length=20))[0] == whole
    assert words(run(schema_max_length=19))[0] == whole.replace(" b c", " b")
    # Of two texts of equal length, 3 and 3, the later one loses.
    assert words(run(schema_max_length=18))[0] == whole.replace(" b c", " b").replace(" e f", " e")
    assert words(run(schema_max_length=17))[0] == whole.replace(" b c", "").replace(" e f", " e")
    # A text that is cut away leaves no separator.
    assert words(run(schema_max_length=13))[0] == (
        "[CLS] Read this item: | category: x > y | brand: a [SEP]"
    )


def test_fixed_parts_that_do_not_fit_are_refused() -> None:
    message = r"1 items .* item 'one' has 15 tokens and images, but schema_max_length is 14.*Raise"
    with pytest.raises(InputError, match=message):
        run(schema_max_length=14, images=images([[1, 1], [0, 0], [0, 0]]))


def test_images_have_their_place_and_count() -> None:
    given = images([[1, 1], [1, 0], [0, 0]])
    inputs = run(images=given)
    assert words(inputs) == words(run())
    assert inputs.image_position.tolist() == [4, 4, 4]  # behind [CLS] and the instruction
    assert inputs.images is given.vectors
    assert inputs.image_mask is given.mask
    # Two of 10 places, and then of 8, go to the images of item one.
    inputs = run(images=given, schema_max_length=10, schema_fields=["title", "text", "images"])
    assert words(inputs)[0] == "[CLS] a b c | e f [SEP]"
    assert inputs.image_position.tolist() == [7, 2, 1]
    inputs = run(images=given, schema_max_length=8, schema_fields=["title", "text", "images"])
    assert words(inputs)[0] == "[CLS] a b | e [SEP]"
    assert inputs.image_position.tolist() == [5, 2, 1]
    # The schema decides whether they are used.
    inputs = run(images=given, schema_fields=["title"])
    assert inputs.images is None


def test_items_that_say_nothing_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "recbole_sid"):
        run(schema_max_length=17)
    assert "1 of 3 items have no text, attribute or image." in caplog.text
    assert "10.7 tokens an item and 17 at most; the text of 1 of 3 items is cut" in caplog.text
    empty = ItemTable(("one",), {name: (" ",) for name in TABLE.columns})
    with pytest.raises(InputError, match="none of the 1 items has a text"):
        run(empty)
    assert words(run(empty, images=images([[1]]))) == ["[CLS] Read this item: [SEP]"]


def test_small_calls_of_the_tokenizer_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    monkeypatch.setattr(schema, "CHARACTERS_A_CALL", 5)
    parts = run()
    assert parts.token_ids.tolist() == whole.token_ids.tolist()
    assert parts.offsets.tolist() == whole.offsets.tolist()


def test_minilm_reads_what_it_would_read_of_one_text() -> None:
    from transformers import AutoTokenizer

    minilm = AutoTokenizer.from_pretrained(model_folder("minilm"))
    inputs = item_inputs(TABLE, FIELDS, build(schema_separator="\n"), minilm, None)
    text = "Read this item: a b c e f category: x > y brand: a"
    assert inputs.token_ids[: inputs.offsets[1]].tolist() == minilm(text)["input_ids"]


def cut_by_hand(lengths: list[int], room: int) -> list[int]:
    lengths = list(lengths)
    while sum(lengths) > room:
        longest = max(range(len(lengths)), key=lambda i: (lengths[i], i))
        lengths[longest] -= 1
    return lengths


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1), st.data())
def test_cutting_takes_token_by_token_from_the_longest(rows: list[list[int]], data: Any) -> None:
    room = [data.draw(st.integers(0, 30)) for _ in rows]
    kept = cut_longest(np.array(rows), np.array(room))
    assert kept.tolist() == [cut_by_hand(*pair) for pair in zip(rows, room, strict=True)]


def test_cutting_without_any_text() -> None:
    assert cut_longest(np.zeros((2, 0), np.int64), np.array([0, 5])).shape == (2, 0)
