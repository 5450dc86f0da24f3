"""Summaries: the template, a column, and a language model that writes them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from recbole_sid import settings
from recbole_sid.checkpoint import Checkpoint, save_state
from recbole_sid.errors import InputError
from recbole_sid.items import summaries as module
from recbole_sid.items.summaries import (
    PROMPT,
    SummarySettings,
    first_sentence,
    summaries,
    summary_columns,
    template_summary,
    write_summaries,
)
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.precision import resolve_precision
from recbole_sid.resources import resource_dir

DEFAULTS = yaml.safe_load((resource_dir("properties") / "schema.yaml").read_text(encoding="utf-8"))
FIELDS = ItemFields(["title"], "path", "separator", ">", "maker", None)
NO_PATH = ItemFields(["title"], None, "plain", ", ", "maker", None)
TABLE = ItemTable(
    ("one", "two", "three"),
    {
        "path": ("Home > Kitchen > Cups", "Home > Bath", ""),
        "maker": ("Acme", "", "Acme"),
        "trade": ("Retail", "", ""),
        "written": ("A  cup.", "", ""),
    },
)
CUPS = "This is Cups in the category Kitchen of the Home industry."
BATH = "This is Bath, a category of the Home industry."
FILE = (
    "\ufeffitem_id:token\tpath:token_seq\tprice:float\tmaker:token\r\n"
    'a\tHome > Kitchen > Cups\t1.50\tAcme "x\r\n'
    "\r\n"
    "b\t\t2\t\r\n"
    "c\tHome > Kitchen > Cups\t\tOther\r\n"
    "d\tHome > Bath\t3\tAcme"
)


def build(**changes: Any) -> SummarySettings:
    return settings.build(SummarySettings, DEFAULTS | changes)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (((),), ""),
        (((), "", "Acme"), ""),
        ((("Home",),), "This is an item of the Home industry."),
        (((), "Retail", "Acme"), "This is an item of the Retail industry, by Acme."),
        ((("Home", "Bath"),), BATH),
        ((("Home",), "Retail"), "This is Home, a category of the Retail industry."),
        ((("Home", "Kitchen", "Cups"),), CUPS),
        (
            (("daily needs", "tableware", "drinkware", "mugs", "cups"), "retail", "Acme"),
            "This is cups (tableware, drinkware, mugs) in the category daily needs of the retail "
            "industry, by Acme.",
        ),
    ],
)
def test_the_template(arguments: tuple[Any, ...], sentence: str) -> None:
    assert template_summary(*arguments) == sentence


def test_the_template_writes_what_is_not_written() -> None:
    assert summaries(TABLE, FIELDS, build()) == [CUPS, BATH, ""]
    use = build(item_summary_field="written", item_industry_field="trade", item_summary_brand=True)
    assert summary_columns(FIELDS, use) == ["written", "path", "trade", "maker"]
    assert summaries(TABLE, FIELDS, use) == ["A cup.", BATH, ""]
    use = build(item_industry_field="trade", item_summary_brand=True)
    assert summaries(TABLE, FIELDS, use) == [
        "This is Cups (Kitchen) in the category Home of the Retail industry, by Acme.", BATH, "",
    ]  # fmt: skip


def test_a_column_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    use = build(item_summary_field="written")
    assert summary_columns(NO_PATH, use) == ["written"]
    with caplog.at_level(logging.INFO, "recbole_sid"):
        assert summaries(TABLE, NO_PATH, use) == ["A cup.", "", ""]
    assert "1 written, 0 by the template, 2 items have none" in caplog.text


def test_items_without_any_summary_are_refused() -> None:
    with pytest.raises(InputError, match=r"none of the 3 items has a summary.*item_summary_field"):
        summaries(TABLE, NO_PATH, build())
    with pytest.raises(InputError, match="'item_summary_field' is ''"):
        build(item_summary_field="")


# -- the column of a file --------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.item"
    path.write_bytes(FILE.encode())
    return path


def write(
    file: Path, fields: ItemFields = FIELDS, model: Path | None = None, **changes: Any
) -> int:
    options: Any = {
        "output": file.with_name("out.item"),
        "settings": build(),
        "max_tokens": 6,
    } | changes
    return write_summaries(
        file, fields=fields, model=model, id_field="item_id", progress=False, **options
    )


def column(path: Path) -> list[str]:
    return [line.split("\t")[-1] for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_template_writes_a_column_and_changes_nothing_else(file: Path) -> None:
    assert write(file) == 3
    assert file.with_name("out.item").read_bytes().decode() == (
        "item_id:token\tpath:token_seq\tprice:float\tmaker:token\tsummary:token_seq\n"
        f'a\tHome > Kitchen > Cups\t1.50\tAcme "x\t{CUPS}\n'
        "b\t\t2\t\t\n"
        f"c\tHome > Kitchen > Cups\t\tOther\t{CUPS}\n"
        f"d\tHome > Bath\t3\tAcme\t{BATH}\n"
    )
    assert file.read_bytes() == FILE.encode()
    table = ItemTable.read(file.with_name("out.item"), "item_id", ["summary"])
    assert summaries(table, NO_PATH, build(item_summary_field="summary"))[0] == CUPS


def test_into_the_same_file_once(file: Path) -> None:
    use = build(item_summary_field="short", item_summary_brand=True)
    assert write(file, output=file, settings=use) == 3
    assert column(file)[1].endswith('of the Home industry, by Acme "x.')
    with pytest.raises(InputError, match="has a column 'short' already"):
        write(file, output=file, settings=use)
    assert write(file, output=file) == 3
    assert column(file)[:2] == ["summary:token_seq", CUPS]


def test_a_separator_in_a_summary_is_no_separator(tmp_path: Path) -> None:
    file = tmp_path / "x.item"
    file.write_text("item_id:token,path:token_seq\na,x > b > c > d\n")
    assert write(file, separator=",") == 1
    assert file.with_name("out.item").read_text() == (
        "item_id:token,path:token_seq,summary:token_seq\n"
        "a,x > b > c > d,This is d (c) in the category b of the x industry.\n"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": NO_PATH}, "set item_category_field or item_industry_field"),
        ({"prompt": "Write."}, "'prompt' is 'Write.', but must be a text with {attributes}"),
        ({"batch_size": 0}, "'batch_size' is 0"),
        ({"max_tokens": 0}, "'max_tokens' is 0"),
        ({"output": Path("nowhere") / "x.item"}, "there is no folder 'nowhere'"),
        ({"model": Path("nowhere")}, "'nowhere' is not a folder with a config.json"),
    ],
)
def test_what_is_refused(file: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(file, **changes)
    assert [path.name for path in file.parent.iterdir()] == ["x.item"]


def test_a_file_without_attributes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text("item_id:token\tpath:token_seq\na\t\n")
    with pytest.raises(InputError, match=r"no item of .*x\.item' has a category"):
        write(tmp_path / "x.item")
    with pytest.raises(InputError, match="no item file"):
        write(tmp_path / "none.item")


# -- a language model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained GPT-2 over characters. It answers nonsense, but always the same."""
    folder = tmp_path_factory.mktemp("gpt2")
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    vocabulary = {"<end>": 0} | {letter: i for i, letter in enumerate(letters, start=1)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_embd=16, n_layer=1, n_head=2, n_positions=1024,
        bos_token_id=0, eos_token_id=0, initializer_range=1.0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def greedy(folder: Path, prompt: str, count: int) -> list[int]:
    """The likeliest next tokens, one by one."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_greedy_answers_in_batches(model: Path) -> None:
    prompts = ["A cup", "A much longer text on cups and saucers"]
    loaded, tokenizer = module._load(model, torch.float32, "cpu")
    expected = [
        first_sentence(tokenizer.decode(greedy(model, prompt, 6), skip_special_tokens=True))
        for prompt in prompts
    ]
    assert len(set(expected)) == 2
    assert module._generate(loaded, tokenizer, prompts, 6) == expected


def test_a_chat_template_wraps_the_prompt(model: Path) -> None:
    loaded, tokenizer = module._load(model, torch.float32, "cpu")
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    answer = tokenizer.decode(greedy(model, "[user]A cup>", 6), skip_special_tokens=True)
    assert module._generate(loaded, tokenizer, ["A cup"], 6) == [first_sentence(answer)]


def test_the_model_is_asked_once_for_equal_attributes(
    file: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_with(monkeypatch, ["It is for tea.", ""])
    assert write(file, model=model) == 3
    # The longer prompt goes first; where the answer is empty the template stands in.
    assert column(file.with_name("out.item")) == [
        "summary:token_seq", "It is for tea.", "", "It is for tea.", BATH,
    ]  # fmt: skip
    assert asked == [
        PROMPT.replace("{attributes}", "category path: Home > Kitchen > Cups"),
        PROMPT.replace("{attributes}", "category path: Home > Bath"),
    ]
    assert not list(file.parent.glob("*.training.pt"))


def test_a_real_model_end_to_end(file: Path, model: Path) -> None:
    assert write(file, model=model, prompt="{attributes}:", batch_size=1) == 3
    loaded, tokenizer = module._load(model, resolve_precision("auto", "cpu"), "cpu")
    prompts = ["category path: Home > Kitchen > Cups:", "category path: Home > Bath:"]
    cups, bath = (module._generate(loaded, tokenizer, [prompt], 6)[0] for prompt in prompts)
    assert cups
    assert bath
    assert column(file.with_name("out.item"))[1:] == [cups, "", cups, bath]


def test_goes_on_after_the_answers_that_were_written(
    file: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_now(self: Checkpoint, state: Any) -> None:
        save_state(self.path, {"of": self.path.name, "state": state()})

    monkeypatch.setattr(Checkpoint, "save_when_due", save_now)
    answer_with(monkeypatch, ["It is for tea."])  # and then fails
    with pytest.raises(StopIteration):
        write(file, model=model, batch_size=1)
    assert not file.with_name("out.item").exists()
    asked = answer_with(monkeypatch, ["It is for bathing."])
    write(file, model=model, batch_size=1)
    assert len(asked) == 1
    assert column(file.with_name("out.item"))[1:] == [
        "It is for tea.", "", "It is for tea.", "It is for bathing.",
    ]  # fmt: skip
    assert not list(file.parent.glob("*.training.pt"))
    # Another prompt has nothing to go on from.
    asked = answer_with(monkeypatch, ["One.", "Two."])
    write(file, model=model, batch_size=1, prompt="{attributes}")
    assert len(asked) == 2


def answer_with(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> list[str]:
    """Let the model give these answers; the list of prompts grows as they are asked."""
    asked: list[str] = []
    left = iter(answers)

    def generate(_model: Any, _tokenizer: Any, prompts: list[str], _count: int) -> list[str]:
        asked.extend(prompts)
        return [next(left) for _ in prompts]

    monkeypatch.setattr(module, "_generate", generate)
    return asked


def test_a_model_that_cannot_be_loaded(file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        write(file, model=tmp_path / "bad")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ""),
        ("\n  \n A  cup.\nMore", "A cup."),
        ("A cup. It holds tea.", "A cup."),
        ("By Dr. Who, 2.5 litres! Now.", "By Dr. Who, 2.5 litres!"),
        ("A cup without an end", "A cup without an end"),
        ("Really? yes.", "Really? yes."),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
