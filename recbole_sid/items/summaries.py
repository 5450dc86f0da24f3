"""Summaries: one sentence an item, which a tokenizer may learn to reconstruct.

UniSID (arXiv 2602.10445) has a frozen language model write them from the industry and the category
path of an ad. They must name what is advertised, its industry and its first-level category. Here a
template writes the same facts, or :func:`write_summaries` asks a local language model.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError
from recbole_sid.files import written_whole
from recbole_sid.items.images import model_identity
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.limits import LONGEST_LINE
from recbole_sid.precision import resolve_precision
from recbole_sid.settings import require

logger = logging.getLogger("recbole_sid")

COLUMN = "summary"
PROMPT = """Write one short English sentence that sums up an advertised item.
It must name the item, its industry and its first-level category, the first name of the path.
If it follows from the attributes, add for whom the item is, what speaks for it, or what is offered.
Do not describe a picture, do not quote text from one, and give no model number.

{attributes}

Sentence:"""
# The end of a sentence: behind a word, not an abbreviation, and before the next sentence.
_END = re.compile(r"(?<=\w\w\w)[.!?](?=\s+[A-Z\"'“]|\s*$)")

Row = tuple[tuple[str, ...], str, str]  # category path, industry, brand


@dataclass(frozen=True)
class SummarySettings:
    """Where summaries come from. Defaults and meanings: ``properties/schema.yaml``."""

    item_summary_field: str | None
    item_summary_brand: bool
    item_industry_field: str | None

    def __post_init__(self) -> None:
        column = self.item_summary_field
        require(column != "", "item_summary_field", column, "the name of a column or ~")


def template_summary(category: tuple[str, ...], industry: str = "", brand: str = "") -> str:
    """One sentence on an item; empty without category and industry.

    The item is named by the last name of its category path. Without an industry, the first name of
    the path stands for it, and the second one is the first-level category.
    """
    if not industry:
        industry, category = "".join(category[:1]), category[1:]
    by = f", by {brand}" if brand else ""
    if not industry:
        return ""
    if not category:
        return f"This is an item of the {industry} industry{by}."
    first, between, item = category[0], category[1:-1], category[-1]
    if len(category) == 1:
        return f"This is {item}, a category of the {industry} industry{by}."
    kinds = f" ({', '.join(between)})" if between else ""
    return f"This is {item}{kinds} in the category {first} of the {industry} industry{by}."


def summary_columns(fields: ItemFields, settings: SummarySettings) -> list[str]:
    """The columns of the item table that :func:`summaries` reads, each once."""
    columns = [settings.item_summary_field, *_attribute_columns(fields, settings)]
    return list(dict.fromkeys(column for column in columns if column is not None))


def summaries(table: ItemTable, fields: ItemFields, settings: SummarySettings) -> list[str]:
    """One summary an item, (n,): that of the summary column, else the template's.

    An item gets the empty text where its cell of the summary column, if there is one, is empty,
    and it has neither category nor industry.

    Args:
        table: n items, with the columns of :func:`summary_columns`.

    Raises:
        InputError: no column is set that a summary can come from, or every summary is empty.
    """
    written = [""] * len(table.tokens)
    if settings.item_summary_field is not None:
        written = [" ".join(cell.split()) for cell in table.columns[settings.item_summary_field]]
    rows = _attributes(table, fields, settings)
    found = [text or template_summary(*row) for text, row in zip(written, rows, strict=True)]
    if not any(found):
        raise InputError(
            f"none of the {len(found)} items has a summary, a category or an industry: set "
            "item_summary_field, item_category_field or item_industry_field to columns that hold "
            "text"
        )
    logger.info(
        "Summaries: %d written, %d by the template, %d items have none",
        sum(map(bool, written)),
        sum(map(bool, found)) - sum(map(bool, written)),
        found.count(""),
    )
    return found


def write_summaries(
    item_file: Path,
    output: Path,
    fields: ItemFields,
    settings: SummarySettings,
    model: str | Path | None,
    *,
    id_field: str,
    separator: str = "\t",
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    max_tokens: int = 48,
    prompt: str = PROMPT,
    progress: bool = True,
) -> int:
    """Write ``item_file`` with a column of summaries behind the others, whole or not at all.

    The column is ``item_summary_field``, else ``summary``. Items with the same industry and
    category path (and brand, with ``item_summary_brand``) have the same summary, so a language
    model is asked once for each of these. It goes on after those that a killed process had written
    by then (into a file beside ``output``).

    Args:
        output: may be ``item_file`` itself; an existing file is replaced.
        model: folder of a causal language model with safetensors weights, which answers greedily;
            None for the template. Where its answer is empty the template stands in, counted in the
            log.
        id_field, separator: as for :meth:`ItemTable.read`.
        batch_size: prompts in one batch.
        max_tokens: of one answer; only its first sentence is kept.
        prompt: holds ``{attributes}``, which stands for lines like ``category path: a > b``.

    Returns:
        How many items got a summary; those without category and industry have an empty cell.

    Raises:
        InputError: a malformed item file, one that has the column already, no column that a summary
            can come from, or a model that cannot be loaded.
    """
    if fields.item_category_field is None and settings.item_industry_field is None:
        raise InputError(
            "summaries are written from the category path or the industry of an item: set "
            "item_category_field or item_industry_field"
        )
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        require(value >= 1, name, value, "at least 1")
    require("{attributes}" in prompt, "prompt", prompt, "a text with {attributes} in it")
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {str(output.parent)!r} to write summaries into")
    column = settings.item_summary_field or COLUMN
    _refuse_twice(item_file, column, separator)
    table = ItemTable.read(item_file, id_field, _attribute_columns(fields, settings), separator)
    rows = _attributes(table, fields, settings)
    of_row = {row: template_summary(*row) for row in dict.fromkeys(rows)}
    distinct = [row for row, summary in of_row.items() if summary]
    if not distinct:
        raise InputError(
            f"no item of {str(item_file)!r} has a category or an industry. Set "
            "item_category_field or item_industry_field to columns that hold text"
        )
    checkpoint = None
    if model is not None:
        prompts = [prompt.replace("{attributes}", _described(*row)) for row in distinct]
        folder = Path(model).expanduser()
        answers, checkpoint = _ask(
            prompts, folder, output, device, batch_size, max_tokens, progress
        )
        n_empty = answers.count("")
        if n_empty:
            logger.warning(
                "%d of %d answers are empty: the template stands in.", n_empty, len(answers)
            )
        of_row |= {row: answer for row, answer in zip(distinct, answers, strict=True) if answer}
    found = [of_row[row] for row in rows]
    _write(item_file, output, column, separator, found)
    if checkpoint is not None:
        checkpoint.finish()
    n_written = sum(map(bool, found))
    logger.info("Summaries: %d of %d items have one, in %s", n_written, len(found), output)
    return n_written


def _attribute_columns(fields: ItemFields, settings: SummarySettings) -> list[str]:
    """The columns of category, industry and, if it is asked for, brand."""
    brand = fields.item_brand_field if settings.item_summary_brand else None
    named = [fields.item_category_field, settings.item_industry_field, brand]
    return [column for column in named if column is not None]


def _attributes(table: ItemTable, fields: ItemFields, settings: SummarySettings) -> list[Row]:
    n_items = len(table.tokens)
    brand = fields.item_brand_field if settings.item_summary_brand else None

    def cells(column: str | None) -> list[str]:
        if column is None:
            return [""] * n_items
        return [" ".join(cell.split()) for cell in table.columns[column]]

    paths: list[tuple[str, ...]] = [()] * n_items
    if fields.item_category_field is not None:
        paths = table.category_paths(fields)
    return list(zip(paths, cells(settings.item_industry_field), cells(brand), strict=True))


def _described(category: tuple[str, ...], industry: str, brand: str) -> str:
    """The attributes as the language model sees them."""
    named = {"industry": industry, "category path": " > ".join(category), "brand": brand}
    return "\n".join(f"{name}: {value}" for name, value in named.items() if value)


def _refuse_twice(item_file: Path, column: str, separator: str) -> None:
    """The column is not there yet. A file that cannot be read is left to the item table."""
    if not item_file.is_file():
        return
    with item_file.open("rb") as file:
        header = file.readline(LONGEST_LINE).decode("utf-8-sig", errors="replace")
    if column in (cell.partition(":")[0] for cell in header.rstrip("\r\n").split(separator)):
        raise InputError(
            f"item file {str(item_file)!r} has a column {column!r} already: remove it, or name "
            "another one with item_summary_field"
        )


def _ask(
    prompts: list[str],
    folder: Path,
    output: Path,
    device: torch.device | str,
    batch_size: int,
    max_tokens: int,
    progress: bool,
) -> tuple[list[str], Checkpoint]:
    """The first sentence of the model's answer to each prompt, and what to finish once written."""
    if not (folder / "config.json").is_file():
        raise InputError(
            f"language model {str(folder)!r} is not a folder with a config.json. Give the local "
            "folder of a causal language model, or none for the template"
        )
    dtype = resolve_precision("auto", device)
    identity = [str(dtype), str(max_tokens), *model_identity(folder), *prompts]
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()
    checkpoint = Checkpoint(output.with_name(f"{output.name}-{key[:16]}.summaries"))
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    state = checkpoint.load("cpu")
    answers: list[str] = [] if state is None else state["answers"]  # in this order
    done = len(answers)
    if done > 0:
        logger.info("Summaries: resuming after %d answers", done)
    model, tokenizer = _load(folder, dtype, device)
    with tqdm(total=len(prompts), initial=done, desc="summaries", disable=not progress) as bar:
        for start in range(done, len(prompts), batch_size):
            batch = [prompts[row] for row in order[start : start + batch_size]]
            answers.extend(_generate(model, tokenizer, batch, max_tokens))
            checkpoint.save_when_due(lambda: {"answers": answers})
            bar.update(len(batch))
    in_order = [""] * len(prompts)
    for row, answer in zip(order, answers, strict=True):
        in_order[row] = answer
    return in_order, checkpoint


def _load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> tuple[Any, Any]:
    """The model and its tokenizer, which pads at the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"language model {str(folder)!r} cannot be loaded as a causal language model with "
            f"safetensors weights ({error})"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"the tokenizer of language model {str(folder)!r} has neither a padding token nor an "
            "end token. Name one of them in its tokenizer_config.json"
        )
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _generate(model: Any, tokenizer: Any, prompts: list[str], max_tokens: int) -> list[str]:
    from transformers import GenerationConfig

    chat = tokenizer.chat_template is not None
    if chat:
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
    # A chat template writes the special tokens itself.
    inputs = tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=not chat)
    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=model.generation_config.eos_token_id,
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs, generation_config=greedy)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return [first_sentence(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def first_sentence(text: str) -> str:
    """The first sentence of the first line that is not empty, with single spaces."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    line = next(filter(None, lines), "")
    end = _END.search(line)
    return line[: end.end()] if end else line


def _write(
    item_file: Path, output: Path, column: str, separator: str, found: Sequence[str]
) -> None:
    """Copy the file line by line, each row with its summary; blank lines are no rows."""
    cells = iter([f"{column}:token_seq", *(text.replace(separator, " ") for text in found)])
    with (
        written_whole(output) as temporary,
        item_file.open(encoding="utf-8-sig", newline="\n") as lines,
        temporary.open("w", encoding="utf-8", newline="\n") as copy,
    ):
        for line in lines:
            row = line.removesuffix("\n").removesuffix("\r")
            if row:
                copy.write(f"{row}{separator}{next(cells)}\n")
