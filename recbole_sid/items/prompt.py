"""The prompt: a template that turns the columns of an item into one text."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.items.table import ALL_TEXT, ItemFields, ItemTable

logger = logging.getLogger("recbole_sid")

_TOKENS = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{[^{}\[\]]*\}|[\[\]{}]|[^\[\]{}]+")


@dataclass(frozen=True)
class PromptSettings:
    """The template. Default: ``properties/items.yaml``; grammar: :class:`Prompt`."""

    prompt_template: str


@dataclass(frozen=True)
class _Segment:
    """A run of the template; ``optional`` if it stood in square brackets.

    ``parts`` are pairs (text, is_placeholder).
    """

    optional: bool
    parts: tuple[tuple[str, bool], ...]

    @property
    def placeholders(self) -> list[str]:
        return [text for text, is_placeholder in self.parts if is_placeholder]

    def render(self, values: dict[str, str]) -> str:
        if self.optional and not all(values[name] for name in self.placeholders):
            return ""
        return "".join(values[text] if is_name else text for text, is_name in self.parts)


class Prompt:
    """A parsed template.

    ``{column}`` stands for a column of ``item_text_fields``, ``{item_text}`` for all of them
    joined by a space, ``{category}`` for the category path joined by " > ", ``{brand}`` and
    ``{price}`` for the columns of ``item_brand_field`` and ``item_price_field``. A part in square
    brackets is left out whole when one of its placeholders is empty, or when it names a category,
    brand or price for which no column is set. ``[[``, ``]]``, ``{{`` and ``}}`` stand for single
    brackets. Example::

        {title}[ by {brand}][. Category: {category}][. Price: {price}]

    Attributes:
        template: the template as given.
        fields: the columns that the prompt reads, each once.

    Raises:
        InputError: malformed brackets, an unknown placeholder, or ``{category}``, ``{brand}`` or
            ``{price}`` outside square brackets without a column for it.
    """

    def __init__(self, template: str, fields: ItemFields) -> None:
        self.template = template
        self._item_fields = fields
        self._segments = _parse(template)
        used = list(dict.fromkeys(name for part in self._segments for name in part.placeholders))
        if not used:
            raise InputError(
                f"setting 'prompt_template' is {template!r}, but must hold a placeholder such as "
                f"{{{fields.item_text_fields[0]}}}"
            )
        self._sources = {name: self._columns_of(name) for name in used}
        for segment in self._segments:
            for name in segment.placeholders:
                if not segment.optional and not self._sources[name]:
                    raise InputError(
                        f"setting 'prompt_template' holds {{{name}}}, but item_{name}_field is "
                        f"not set. Set it, or put the part in square brackets: [{{{name}}}]"
                    )
        self.fields = tuple(
            dict.fromkeys(column for columns in self._sources.values() for column in columns)
        )

    def render(self, table: ItemTable) -> list[str]:
        """One text an item, (n,), with runs of white space collapsed to one space.

        An item whose placeholders are all empty gets the empty text, whatever else the template
        says. One warning counts such items and those without a row in the file.

        Raises:
            InputError: every text is empty, or a category path is malformed.
        """
        values = {name: self._values(name, table) for name in self._sources}
        texts = []
        for row in zip(*values.values(), strict=True):
            by_name = dict(zip(values, row, strict=True))
            if any(row):
                text = "".join(segment.render(by_name) for segment in self._segments)
                texts.append(" ".join(text.split()))
            else:
                texts.append("")
        n_empty = texts.count("")
        if n_empty == len(texts):
            raise InputError(
                f"empty text column: none of the {len(texts)} items has text in "
                f"{preview(self.fields)}. Set item_text_fields and prompt_template to columns "
                "that hold text, or give your own vectors with item_embedding_file"
            )
        if n_empty:
            logger.warning(
                "%d of %d items have an empty prompt; %d items have no row in the item file.",
                n_empty,
                len(texts),
                table.n_without_row,
            )
        return texts

    def _columns_of(self, name: str) -> list[str]:
        """The columns behind a placeholder; empty for a role without a column."""
        fields = self._item_fields
        if name == ALL_TEXT:
            return fields.item_text_fields
        column = fields.roles.get(name)
        if column is not None:
            return [column]
        if name in fields.item_text_fields:
            return [name]
        if name in fields.roles:
            return []
        known = [*fields.item_text_fields, ALL_TEXT, *fields.roles]
        raise InputError(
            f"setting 'prompt_template' holds the unknown placeholder {{{name}}}."
            f"{did_you_mean(name, known)} Known are {preview(known, count=50)}; a further column "
            "must be named in item_text_fields"
        )

    def _values(self, name: str, table: ItemTable) -> list[str]:
        """What stands for the placeholder, (n,), stripped."""
        if name == "category" and self._item_fields.item_category_field is not None:
            return [" > ".join(path) for path in table.category_paths(self._item_fields)]
        columns = [table.columns[column] for column in self._sources[name]]
        if not columns:
            return [""] * len(table.tokens)
        return [" ".join(cells).strip() for cells in zip(*columns, strict=True)]


def _parse(template: str) -> list[_Segment]:
    """Split the template at its square brackets."""
    segments = []
    parts: list[tuple[str, bool]] = []
    opened: int | None = None  # where the open square bracket stands
    for match in _TOKENS.finditer(template):
        token = match.group()
        if token in ("[[", "]]", "{{", "}}"):
            parts.append((token[0], False))
        elif token == "[" and opened is None:
            segments.append(_Segment(False, tuple(parts)))
            parts, opened = [], match.start()
        elif token == "]" and opened is not None:
            segment = _Segment(True, tuple(parts))
            if not segment.placeholders:
                raise _malformed(template, opened, "these brackets hold no placeholder")
            segments.append(segment)
            parts, opened = [], None
        elif token in ("[", "]", "{", "}"):
            reason = "brackets do not nest" if token == "[" else "this bracket has no partner"
            raise _malformed(template, match.start(), reason)
        elif token.startswith("{"):
            parts.append((token[1:-1].strip(), True))
        else:
            parts.append((token, False))
    if opened is not None:
        raise _malformed(template, opened, "this bracket has no partner")
    segments.append(_Segment(False, tuple(parts)))
    return segments


def _malformed(template: str, position: int, reason: str) -> InputError:
    return InputError(
        f"setting 'prompt_template' is {template!r}: at character {position + 1}, {reason}. "
        "Double a bracket to mean the bracket itself: [[ ]] {{ }}"
    )
