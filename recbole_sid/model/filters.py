"""What the user's settings say may be ranked: when an item is there, and business rules.

The bounds of an item's time stand in columns of the item file, which is read by itself: neither
``load_col`` nor RecBole's types of the columns matter. The rules are a text file of raw item ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sid.errors import InputError, preview
from recbole_sid.generator.availability import Availability, Available
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.items.table import ItemTable
from recbole_sid.settings import build, require
from recbole_sid.times import seconds_of_cells

logger = logging.getLogger("recbole_sid")


@dataclass(frozen=True)
class FilterSettings:
    """What lists leave out; meanings and defaults in ``properties/overall.yaml``."""

    exclude_history: bool
    filter_unavailable: bool
    available_from_field: str | None
    available_until_field: str | None
    allowed_items: str | None

    def __post_init__(self) -> None:
        require(
            not self.filter_unavailable or bool(self.time_fields),
            "filter_unavailable",
            True,
            "False where no column says when an item is there",
            "Name one in available_from_field or available_until_field.",
        )

    @property
    def time_fields(self) -> list[str]:
        """The columns of the item file that are named."""
        named = (self.available_from_field, self.available_until_field)
        return [field for field in named if field is not None]


def check_filters(values: Mapping[str, Any]) -> None:
    """Refuse filters that cannot be read, before anything runs; ``values`` as elsewhere here.

    Raises:
        InputError: as :func:`read_bounds` and :func:`read_allowed`; or RecBole scales the times.
    """
    own = build(FilterSettings, values)
    if own.filter_unavailable:
        check_times_as_written(values, "filter_unavailable")
        read_bounds(values)
    if own.allowed_items is not None:
        read_allowed(own.allowed_items)


def check_times_as_written(values: Mapping[str, Any], key: str) -> None:
    """Refuse settings of RecBole that replace the seconds of TIME_FIELD, which ``key`` reads."""
    field = values["TIME_FIELD"]
    for name in ("normalize_field", "normalize_all"):
        value = values.get(name)
        if value is True or (isinstance(value, (list, tuple)) and field in value):
            raise InputError(
                f"setting '{name}' is {value!r}, which scales '{field}', but {key} needs its "
                f"seconds: leave '{field}' out of it"
            )


def read_bounds(values: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The first and the last second of every item of the item file, by raw id: float64 scalars.

    Empty cells, and columns that are not named, are NaN: no bound.

    Args:
        values: the flat settings; ``data_path`` is the dataset's own folder.

    Raises:
        InputError: no such file or column, or cells that are no numbers (counted, the first ten
            shown).
    """
    own = build(FilterSettings, values)
    path = Path(values["data_path"]) / f"{values['dataset']}.item"
    table = ItemTable.read(
        path, values["ITEM_ID_FIELD"], own.time_fields, values["field_separator"]
    )
    bounds = []
    for key in ("available_from_field", "available_until_field"):
        field = values[key]
        if field is None:
            bounds.append(np.full(len(table.tokens), np.nan))
        else:
            bounds.append(seconds_of_cells(table.columns[field], table.tokens, field, path))
    return dict(zip(table.tokens, zip(*bounds, strict=True), strict=True))


def read_allowed(path: str | Path) -> list[str]:
    """The raw item ids of ``allowed_items``, one a line; blank lines are passed over.

    Raises:
        InputError: the file cannot be read, or names no item.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"setting 'allowed_items' is '{path}', which cannot be read: {error}. Name a UTF-8 "
            "text file with one raw item id a line"
        ) from error
    tokens = [line for line in (line.removesuffix("\r") for line in text.split("\n")) if line]
    if not tokens:
        raise InputError(f"setting 'allowed_items' is '{path}', which names no item")
    return tokens


def availability(
    values: Mapping[str, Any], catalogue: Catalogue, tokens: Sequence[str]
) -> Availability | None:
    """What the settings allow of a catalogue; None where they leave nothing out.

    Args:
        values: the flat settings; ``data_path`` is the dataset's own folder.
        catalogue: of a generator; item ``i`` is ``tokens[i - 1]``.
        tokens: raw ids.

    Raises:
        InputError: a file does not fit (:func:`read_bounds`, :func:`read_allowed`), or none of the
            allowed items is in the catalogue. Allowed items that are not are counted in the log;
            items without a row in the item file have no bounds.
    """
    own = build(FilterSettings, values)
    if not own.filter_unavailable and own.allowed_items is None:
        return None
    allowed = since = until = None
    if own.allowed_items is not None:
        named = dict.fromkeys(read_allowed(own.allowed_items))
        known = [token in named for token in tokens]
        missing = sorted(set(named).difference(tokens))
        if not any(known):
            raise InputError(
                f"none of the {len(named):,} items of allowed_items '{own.allowed_items}' is in "
                f"the catalogue, for example {preview(missing)}: give raw item ids"
            )
        if missing:
            logger.warning(
                "allowed_items: %s of %s items are not in the catalogue: %s",
                f"{len(missing):,}",
                f"{len(named):,}",
                preview(missing),
            )
        allowed = torch.tensor([False, *known])
    if own.filter_unavailable:
        bounds = read_bounds(values)
        no_bound = (np.nan, np.nan)
        rows = np.array([no_bound, *(bounds.get(token, no_bound) for token in tokens)])
        since, until = torch.from_numpy(rows).unbind(dim=1)
    return Availability(catalogue, allowed, since, until)


class UnavailableItems:
    """What the lists of a split leave out by ``filter_unavailable`` and ``allowed_items``."""

    def __init__(self, config: Any, catalogue: Catalogue, tokens: Sequence[str]):
        values = config.final_config_dict
        self._availability = availability(values, catalogue, tokens)
        self._device = catalogue.node_of_item.device
        self._in_time: bool = config["filter_unavailable"]
        self._time_field: str = config["TIME_FIELD"]
        self._reported: set[int] = set()

    def start(self, split: Any) -> None:
        """Begin with the first row of ``split``."""
        self._id, self._done, self._missed = id(split), 0, 0

    def next_rows(self, interaction: Any, targets: Tensor) -> tuple[Available | None, Tensor]:
        """What a batch may be given, and its targets (B,), 0 where they are not available.

        Without a filter: None, and the targets as they are.
        """
        if self._availability is None:
            return None, targets
        times = interaction[self._time_field] if self._in_time else None
        available = self._availability.at(times)
        # A target that exclude_history has left out already is 0.
        here = available.items(targets.to(self._device)).to(targets.device)
        self._done += len(targets)
        self._missed += int((~here & (targets > 0)).sum())
        return available, torch.where(here, targets, 0)

    def report(self) -> None:
        """Say once for each split how many targets no list can hold."""
        if self._availability is None or not self._missed or self._id in self._reported:
            return
        self._reported.add(self._id)
        logger.info(
            "%s of %s targets are not available at their row's own time (filter_unavailable) or "
            "not among allowed_items; they count as misses",
            f"{self._missed:,}",
            f"{self._done:,}",
        )
