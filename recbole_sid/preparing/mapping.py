"""The mapping: which columns of which files mean what, as typed settings from a small yaml file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbole_sid import settings
from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.settings import require

SECTIONS = ("items", "events", "minimum")
# Columns of the item file in their order, behind the id; ``others`` follow.
ITEM_ROLES = ("title", "text", "industry", "category", "brand", "advertiser", "price", "image")
# Of a further column: part of the item's text, or carried along as a name or a number.
OTHER_TYPES = ("text", "token", "float")
# Names that mean something else in a prompt or schema.
_RESERVED = {*ITEM_ROLES, "item_id", "item_text", "instruction", "images"}

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "literals"]


@dataclass(frozen=True)
class ItemColumns:
    """The source columns of an item; ``text`` and ``category`` may be several, in order.

    ``others`` has for each further column of the item file the name of a source column, or a
    dictionary of its ``column`` and ``type``, one of ``OTHER_TYPES``.
    """

    item_id: str
    title: str | None
    text: str | list[str] | None
    industry: str | None
    category: str | list[str] | None
    brand: str | None
    advertiser: str | None
    price: str | None
    image: str | None
    others: dict | None

    def __post_init__(self) -> None:
        for name, column in (self.others or {}).items():
            key = f"items.columns.others.{name}"
            known = isinstance(name, str) and re.fullmatch(r"\w+", name) is not None
            require(
                known and name not in _RESERVED,
                "items.columns.others",
                name,
                "a name of letters, digits and _ that means nothing else",
            )
            if isinstance(column, dict) and set(column) == {"column", "type"}:
                kind = column["type"]
                require(kind in OTHER_TYPES, f"{key}.type", kind, " or ".join(OTHER_TYPES))
                column = column["column"]
            require(
                isinstance(column, str),
                key,
                column,
                "the name of a column, or {column: …, type: …}",
            )

    def sources(self, role: str) -> list[str]:
        """The source columns of a role or of one of ``others``; none if it has none."""
        if role in _RESERVED:
            named = getattr(self, role)
            return [named] if isinstance(named, str) else list(named or [])
        other = (self.others or {})[role]
        return [other if isinstance(other, str) else other["column"]]

    def type_of(self, name: str) -> str:
        """The type of a written column, one of ``OTHER_TYPES``."""
        if name in _RESERVED:
            return "float" if name == "price" else "text"
        other = (self.others or {})[name]
        return "text" if isinstance(other, str) else other["type"]

    @property
    def written(self) -> list[str]:
        """The columns of the item file behind the id."""
        return [*(role for role in ITEM_ROLES if self.sources(role)), *(self.others or {})]


@dataclass(frozen=True)
class EventColumns:
    """The source columns of an event. Without ``time``, its place in the log takes that place."""

    user_id: str
    item_id: str
    event: str | None
    time: str | None


@dataclass(frozen=True)
class Source:
    """Files, and how they are read; the settings are explained in ``properties/prepare.yaml``."""

    files: str | list[str]
    format: Format
    separator: str | None
    quotes: bool
    header: list[str] | None
    encoding: str
    missing: list[str]


@dataclass(frozen=True)
class ItemSource(Source):
    """The table of items; the settings are explained in ``properties/prepare.yaml``."""

    html: bool
    absent: Literal["refuse", "empty"]
    category_separator: str
    keep_all: bool

    def __post_init__(self) -> None:
        _check_reading("items", self)
        separator = self.category_separator
        require(separator != "", "items.category_separator", separator, "at least one character")


@dataclass(frozen=True)
class EventSource(Source):
    """The log of events; the settings are explained in ``properties/prepare.yaml``."""

    keep: list[str]
    ignore: list[str]
    positive: list[str]
    time_format: str
    repeated: Literal["first", "last", "all"]
    only_known_items: bool

    def __post_init__(self) -> None:
        _check_reading("events", self)
        both = sorted({*self.keep} & {*self.ignore})
        require(not both, "events.ignore", both, "event types that are not in events.keep")
        others = sorted({*self.positive} - {*self.keep})
        require(
            not others,
            "events.positive",
            others,
            f"event types that are in events.keep: {self.keep}",
            "Add them there, or leave them out here",
        )
        require(
            self.time_format in ("seconds", "milliseconds", "iso") or "%" in self.time_format,
            "events.time_format",
            self.time_format,
            "seconds, milliseconds, iso, or a pattern such as '%d/%m/%Y %H:%M'",
        )


@dataclass(frozen=True)
class Minimum:
    """The least numbers of interactions; 0 and 1 drop nothing."""

    user: int
    item: int
    core: bool

    def __post_init__(self) -> None:
        for key, value in (("minimum.user", self.user), ("minimum.item", self.item)):
            require(value >= 0, key, value, "at least 0")


@dataclass(frozen=True)
class DataMapping:
    """Everything that ``prepare`` needs to know of the data."""

    items: ItemSource
    item_columns: ItemColumns
    events: EventSource
    event_columns: EventColumns
    minimum: Minimum

    def __post_init__(self) -> None:
        typed = self.event_columns.event is not None
        require(
            typed == bool(self.events.keep),
            "events.keep",
            self.events.keep,
            "the event types that count" if typed else "empty without a column for event",
            "Name the column under events.columns" if not typed else "",
        )
        written = self.item_columns.written
        require(
            any(name != "image" and self.item_columns.type_of(name) != "float" for name in written),
            "items.columns",
            ["item_id", *written],
            "more than id, price and image, or numbers: title, text, category, brand, others …",
        )


def read_mapping(path: str | Path) -> DataMapping:
    """The mapping in a yaml file; relative file names are taken from its folder.

    Raises:
        InputError: an unknown key (with the nearest known one), a missing or bad value.
    """
    values = read_yaml(path, "mapping")
    folder = Path(path).parent
    for section in ("items", "events"):
        part = values.get(section)
        if isinstance(part, dict) and isinstance(part.get("files"), (str, list)):
            named = part["files"]
            names = [named] if isinstance(named, str) else named
            part["files"] = [str(folder / n) if isinstance(n, str) else n for n in names]
    return build_mapping(values, str(path))


def build_mapping(values: Mapping[str, Any], name: str) -> DataMapping:
    """The mapping in ``values``, nested as in the yaml file; ``name`` is what errors call it."""
    given = _flat(values, name)
    columns: dict[type, str] = {
        ItemColumns: "items.columns.",
        EventColumns: "events.columns.",
    }
    parts: dict[type, str] = {ItemSource: "items.", EventSource: "events.", Minimum: "minimum."}
    known = [key for cls, prefix in (columns | parts).items() for key in settings.keys(cls, prefix)]
    for key in given:
        if key not in known:
            raise InputError(
                f"mapping '{name}': unknown key '{key}'.{did_you_mean(key, known)} Known: "
                f"{', '.join(known)}"
            )
    needed = (
        *("items.files", "items.columns.item_id"),
        *("events.files", "events.columns.user_id", "events.columns.item_id"),
    )
    for key in needed:
        if given.get(key) in (None, [], ""):
            raise InputError(f"mapping '{name}' has no value for '{key}', which is needed")
    defaults = read_yaml(resource_dir("properties") / "prepare.yaml")
    filled: dict[str, Any] = {
        **{key.replace("_", ".", 1): value for key, value in defaults.items()},
        **{key: None for cls, prefix in columns.items() for key in settings.keys(cls, prefix)},
        **given,
    }
    return DataMapping(
        settings.build(ItemSource, filled, "items."),
        settings.build(ItemColumns, filled, "items.columns."),
        settings.build(EventSource, filled, "events."),
        settings.build(EventColumns, filled, "events.columns."),
        settings.build(Minimum, filled, "minimum."),
    )


def _flat(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``{"items": {"columns": {"title": …}}}`` as ``{"items.columns.title": …}``."""

    def walk(prefix: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in part.items():
            full = f"{prefix}.{key}"
            if full in ("items.columns", "events.columns"):
                yield from walk(full, section(full, value))
            else:
                yield full, value

    def section(key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise InputError(f"mapping '{name}': '{key}' must hold 'key: value' lines")
        return value

    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in SECTIONS:
            raise InputError(
                f"mapping '{name}': unknown section '{key}'.{did_you_mean(key, SECTIONS)} Known: "
                f"{', '.join(SECTIONS)}"
            )
        flat.update(walk(key, section(key, value)))
    return flat


def _check_reading(section: str, source: Source) -> None:
    separator, encoding = source.separator, source.encoding
    require(
        separator is None or (len(separator) == 1 and separator not in '"\r\n'),
        f"{section}.separator",
        separator,
        "one character, but no quote and no line end",
    )
    try:
        plain = "\n,a".encode(codecs.lookup(encoding).name) == b"\n,a"
    except (LookupError, UnicodeError, TypeError):
        plain = False
    require(
        plain,
        f"{section}.encoding",
        encoding,
        "an encoding whose line ends are those of ASCII, such as utf-8, latin-1 or gb18030",
        "Convert files of another one to UTF-8",
    )
    header = source.header
    require(
        header is None or (len(header) > 0 and len(set(header)) == len(header)),
        f"{section}.header",
        header,
        "~ or the names of all columns, each once",
    )
