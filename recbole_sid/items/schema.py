"""The schema: instruction, texts, attributes and images of an item as one sequence of tokens.

UniSID (arXiv 2602.10445) feeds one backbone with [instruction ; images ; text ; attributes] and
learned tokens behind them. This module makes what comes before the learned tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.items.images import ItemImages
from recbole_sid.items.ragged import blocks, ranges, starts_of
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.settings import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("recbole_sid")

INSTRUCTION, IMAGES = "instruction", "images"
# Text in one call of the tokenizer, whose answer is many times larger than the token ids.
CHARACTERS_A_CALL = 1 << 20


@dataclass(frozen=True)
class SchemaSettings:
    """What of an item goes in. Defaults and meanings: ``properties/schema.yaml``.

    The order of the paper is instruction, image, text, attributes. It leaves open the wording of
    the instruction, what separates the parts, and how long an input may be.
    """

    schema_instruction: str
    schema_fields: list[str] | None
    schema_separator: str
    schema_max_length: int
    item_industry_field: str | None

    def __post_init__(self) -> None:
        names, length = self.schema_fields, self.schema_max_length
        require(
            names is None or (len(names) > 0 and len(set(names)) == len(names)),
            "schema_fields",
            names,
            "~ or one or more names, each once",
        )
        require(length >= 1, "schema_max_length", length, "at least 1")


class Part(NamedTuple):
    """One part of the sequence.

    Attributes:
        name: as in ``schema_fields``.
        column: of the item table; None for instruction and images.
        cut: whether it is a text, which may be cut; an attribute is written ``name: value``.
    """

    name: str
    column: str | None
    cut: bool


class ItemInputs(NamedTuple):
    """The inputs of n items, rows as those of the item table.

    Attributes:
        token_ids: int32 (total,), the tokens of one item after those of another.
        offsets: int64 (n + 1,); the tokens of row i are ``token_ids[offsets[i]:offsets[i + 1]]``.
        images: float32 (n, m, d), or None if there are none.
        image_mask: bool (n, m), True for an image that is there.
        image_position: int32 (n,), after how many tokens the images stand; 0 without images.
    """

    token_ids: np.ndarray
    offsets: np.ndarray
    images: np.ndarray | None
    image_mask: np.ndarray | None
    image_position: np.ndarray


def schema_parts(settings: SchemaSettings, fields: ItemFields) -> list[Part]:
    """The parts in their order; those of ``schema_fields: ~`` are all there are.

    A column that is an attribute and a text field too is an attribute.

    Raises:
        InputError: a name in ``schema_fields`` is unknown or has no column, or a text field is
            called like something else.
    """
    texts = fields.item_text_fields
    roles = {"industry": settings.item_industry_field, **fields.roles}
    for name, column in {INSTRUCTION: None, IMAGES: None, **roles}.items():
        taken = name in (INSTRUCTION, IMAGES) or column not in (None, name)
        require(
            name not in texts or not taken,
            "item_text_fields",
            texts,
            f"without {name!r}, which is another part of the schema",
            "Rename the column",
        )
    columns = {name: column for name, column in roles.items() if column is not None}
    plain = [name for name in texts if name not in columns.values()]
    parts = {name: Part(name, name, True) for name in texts}
    parts |= {name: Part(name, column, False) for name, column in columns.items()}
    parts |= {name: Part(name, None, False) for name in (INSTRUCTION, IMAGES)}
    wanted = settings.schema_fields
    if wanted is None:
        wanted = [INSTRUCTION, IMAGES, *plain, *columns]
    for name in wanted:
        if name not in parts:
            remedy = (
                f"Set item_{name}_field to its column, or leave it out"
                if name in roles
                else f"Known are {preview(parts, count=50)}; a further column must be named in "
                f"item_text_fields.{did_you_mean(name, parts)}"
            )
            raise InputError(f"setting 'schema_fields' names {name!r}, which is no part. {remedy}")
    return [parts[name] for name in wanted]


def schema_columns(settings: SchemaSettings, fields: ItemFields) -> list[str]:
    """The columns of the item table that the schema reads, each once."""
    columns = [part.column for part in schema_parts(settings, fields)]
    return list(dict.fromkeys(column for column in columns if column is not None))


def item_inputs(
    table: ItemTable,
    fields: ItemFields,
    settings: SchemaSettings,
    hf_tokenizer: PreTrainedTokenizerBase,
    images: ItemImages | None,
) -> ItemInputs:
    """The tokens and images of all items.

    An attribute is written ``name: value``, a category path with " > " between its names; an empty
    one is left out. The model's own start and end tokens enclose the sequence.

    An input of more than ``schema_max_length`` tokens and images is cut in the texts alone: token
    by token, always at the end of the text that is the longest by then (the later one of equals).

    Args:
        table: n items, with the columns of :func:`schema_columns`.
        hf_tokenizer: of the backbone.
        images: of the same items, rows as in ``table``; used if the schema has the part ``images``.

    Raises:
        InputError: no item has any text, attribute or image; a category path is malformed; an
            input is too long without any text.
    """
    parts = schema_parts(settings, fields)
    if all(part.name != IMAGES for part in parts):
        images = None
    n_items = len(table.tokens)
    values = [_values(part, table, fields, settings) for part in parts]
    _check_any(parts, values, images, n_items)

    texts, rows = _distinct(values, settings.schema_separator)  # rows: (n, P)
    flat, lengths = _encoded(texts, hf_tokenizer)
    starts = starts_of(lengths)[rows]  # (n, P)
    wanted = lengths[rows]  # (n, P)
    before, after = _own_tokens(hf_tokenizer)
    n_images = np.zeros(n_items, np.int64) if images is None else images.mask.sum(axis=1)
    cut = np.array([part.cut for part in parts])
    bound = settings.schema_max_length
    room = bound - len(before) - len(after) - n_images - wanted[:, ~cut].sum(axis=1)  # (n,)
    _check_room(table.tokens, room, bound)
    kept = wanted.copy()  # (n, P)
    kept[:, cut] = cut_longest(wanted[:, cut], room)

    ends = np.cumsum(kept, axis=1) + len(before)  # (n, P), within the item
    totals = len(before) + kept.sum(axis=1) + len(after)
    offsets = starts_of(totals)
    token_ids = np.empty(offsets[-1], np.int32)
    for place, token in enumerate(before):
        token_ids[offsets[:-1] + place] = token
    for place, token in enumerate(reversed(after), start=1):
        token_ids[offsets[1:] - place] = token
    for part in range(len(parts)):
        target = offsets[:-1] + ends[:, part] - kept[:, part]
        token_ids[ranges(target, kept[:, part])] = flat[ranges(starts[:, part], kept[:, part])]

    position = np.zeros(n_items, np.int32)
    if images is not None:
        position[:] = ends[:, [part.name for part in parts].index(IMAGES)]
    logger.info(
        "Item inputs: %.1f tokens an item and %d at most; the text of %d of %d items is cut",
        totals.mean(),
        totals.max(),
        int((kept < wanted).any(axis=1).sum()),
        n_items,
    )
    vectors, mask = (None, None) if images is None else images
    return ItemInputs(token_ids, offsets, vectors, mask, position)


def cut_longest(lengths: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Lengths (n, T) cut until a row sums to at most ``room`` (n,), both whole and not negative.

    The longest one loses a token, and again, the later one of equals: so all that are cut end up
    at one length or, for the first of them, one more.
    """
    n_rows, n_texts = lengths.shape
    least_first = np.sort(lengths, axis=1)
    whole = np.zeros((n_rows, n_texts + 1), np.int64)  # sum of the k shortest
    np.cumsum(least_first, axis=1, out=whole[:, 1:])
    level = np.full(n_rows, np.iinfo(np.int64).max)
    for k in reversed(range(n_texts)):
        # If the k shortest stay whole, the others share what is left.
        share = (room - whole[:, k]) // (n_texts - k)
        level = np.where(share < least_first[:, k], share, level)
    kept = np.minimum(lengths, level[:, None])
    cut = kept < lengths
    spare = np.where(cut.any(axis=1), room - kept.sum(axis=1), 0)
    return kept + (cut & (np.cumsum(cut, axis=1) <= spare[:, None]))


def _values(
    part: Part, table: ItemTable, fields: ItemFields, settings: SchemaSettings
) -> list[str]:
    """What the part says of every item, (n,), with runs of white space collapsed."""
    n_items = len(table.tokens)
    if part.name == INSTRUCTION:
        return [" ".join(settings.schema_instruction.split())] * n_items
    if part.column is None:
        return [""] * n_items
    if part.name == "category" and not part.cut:
        cells: Sequence[str] = [" > ".join(path) for path in table.category_paths(fields)]
    else:
        cells = table.columns[part.column]
    values = [" ".join(cell.split()) for cell in cells]
    return values if part.cut else [f"{part.name}: {value}" if value else "" for value in values]


def _check_any(
    parts: list[Part], values: list[list[str]], images: ItemImages | None, n_items: int
) -> None:
    """Some items say something; those that do not are counted."""
    known = np.zeros(n_items, bool) if images is None else images.mask.any(axis=1)
    for part, column in zip(parts, values, strict=True):
        if part.column is not None:
            known |= np.fromiter(map(bool, column), bool, n_items)
    if not known.any():
        raise InputError(
            f"none of the {n_items} items has a text, an attribute or an image in "
            f"{preview(part.name for part in parts)}. Set item_text_fields and schema_fields to "
            "columns that hold text"
        )
    if not known.all():
        logger.warning(
            "%d of %d items have no text, attribute or image.", int((~known).sum()), n_items
        )


def _distinct(values: list[list[str]], separator: str) -> tuple[list[str], np.ndarray]:
    """The texts to encode, each once, and which of them stands for what, (n, P).

    A text begins with the separator unless its part is the first one of the item, and is cut with
    it: what is cut away whole leaves no separator behind.
    """
    number = {"": 0}
    rows = np.empty((len(values[0]), len(values)), np.int64)
    begun = [False] * len(values[0])
    for part, column in enumerate(values):
        texts = [
            separator + value if value and first else value
            for value, first in zip(column, begun, strict=True)
        ]
        rows[:, part] = [number.setdefault(text, len(number)) for text in texts]
        begun = [first or value != "" for value, first in zip(column, begun, strict=True)]
    return list(number), rows


def _encoded(
    texts: list[str], hf_tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all texts, int32 (total,), and how many each text has, int64 (texts,)."""
    flat, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    for start, end in blocks(sizes, CHARACTERS_A_CALL):
        ids = hf_tokenizer(
            texts[start:end],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # longer than the model reads: it is cut here
        )["input_ids"]
        lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
        flat.append(np.fromiter(chain.from_iterable(ids), np.int32))
    return np.concatenate(flat), np.concatenate(lengths)


def _own_tokens(hf_tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text, and behind it."""
    bare = hf_tokenizer("a", add_special_tokens=False)["input_ids"]
    enclosed = hf_tokenizer("a")["input_ids"]
    start = next(i for i in range(len(enclosed)) if enclosed[i : i + len(bare)] == bare)
    return enclosed[:start], enclosed[start + len(bare) :]


def _check_room(tokens: tuple[str, ...], room: np.ndarray, bound: int) -> None:
    """Whatever may not be cut fits."""
    if (room < 0).any():
        worst = int(room.argmin())
        raise InputError(
            f"{int((room < 0).sum())} items are too long without any text; item {tokens[worst]!r} "
            f"has {bound - int(room[worst])} tokens and images, but schema_max_length is {bound}. "
            "Raise it, shorten schema_instruction, or leave parts out of schema_fields"
        )
