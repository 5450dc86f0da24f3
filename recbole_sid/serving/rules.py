"""Which items a finished run may recommend: the ids that are allowed, and each item's time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import recbole
import torch

from recbole_sid.errors import InputError, preview
from recbole_sid.generator.availability import Availability, Available
from recbole_sid.items.table import ItemTable
from recbole_sid.model.filters import read_allowed
from recbole_sid.serving.bundle import Bundle, Columns
from recbole_sid.times import as_seconds, seconds_of_cells

logger = logging.getLogger("recbole_sid")

# Columns of an export, in the order of its SIDs.
ALLOWED, SINCE, UNTIL = "allowed", "available_from", "available_until"


@dataclass(frozen=True, eq=False)
class Rules:
    """What the run itself says on its items; None where it says nothing.

    Attributes:
        allowed: bool (n_items,).
        since, until: float64 (n_items,), seconds; NaN where there is no bound.
    """

    allowed: np.ndarray | None
    since: np.ndarray | None
    until: np.ndarray | None

    @property
    def timed(self) -> bool:
        """Whether items come and go."""
        return self.since is not None or self.until is not None

    def filter(self, bundle: Bundle, allowed: np.ndarray | None = None) -> Filter:
        """The rules as the bundle's generator takes them.

        Args:
            allowed: bool (n_items,), which holds besides the run's own.
        """
        masks = [mask for mask in (self.allowed, allowed) if mask is not None]
        mask = None if not masks else np.logical_and.reduce(masks)
        if mask is not None and not mask.any():
            raise InputError(
                "none of the allowed items is among those that the run itself allows: its setting "
                "'allowed_items' holds besides. Allow others"
            )
        # Element 0 stands for the padding.
        tensors = [
            None if each is None else torch.from_numpy(np.insert(each, 0, 0)).to(bundle.device)
            for each in (mask, self.since, self.until)
        ]
        return Filter(self, Availability(bundle.generator.catalogue, *tensors), bool(masks))


@dataclass(frozen=True, eq=False)
class Filter:
    """Items that may be recommended, made ready for the search; requests may share it."""

    rules: Rules
    availability: Availability
    masked: bool  # whether items are forbidden whatever the time

    def at(self, seconds: float | None, n_rows: int) -> Available | None:
        """What may be ranked in a batch; None where nothing is left out."""
        if seconds is None and not self.masked:
            return None
        times = None if seconds is None else torch.full((n_rows,), seconds, dtype=torch.float64)
        return self.availability.at(times)


def item_rules(bundle: Bundle) -> Rules:
    """The rules of a run or an export.

    Those of a run stand in files of the data set and are read from there.

    Raises:
        InputError: a file that they are in is missing or malformed.
    """
    columns = item_columns(bundle)
    allowed, since, until = (columns.get(name) for name in (ALLOWED, SINCE, UNTIL))
    return Rules(
        None if allowed is None else np.array(allowed, dtype=bool),
        None if since is None else np.array(since, dtype=np.float64),
        None if until is None else np.array(until, dtype=np.float64),
    )


def item_columns(bundle: Bundle) -> Columns:
    """The columns of an export of the bundle, as plain values: None is no bound."""
    if bundle.columns is not None:
        return bundle.columns
    settings, tokens = bundle.settings, bundle.sids.tokens
    columns: dict[str, Sequence[Any]] = {}
    if (path := settings.get("allowed_items")) is not None:
        columns[ALLOWED] = mask_of(read_allowed(path), tokens, f"'{path}'").tolist()
    fields = {name: settings.get(f"{name}_field") for name in (SINCE, UNTIL)}
    named = {name: field for name, field in fields.items() if field is not None}
    if named:
        file = _item_file(settings)
        table = ItemTable.read(
            file, settings["ITEM_ID_FIELD"], named.values(), settings["field_separator"]
        ).aligned(tokens)
        for name, field in named.items():
            columns[name] = bounds_of(table, field, file)
    return columns


def _item_file(settings: Mapping[str, Any]) -> Path:
    """Where RecBole takes the item file from; it brings one data set along."""
    name = settings["dataset"]
    if name == "ml-100k":
        folder = Path(recbole.__file__).parent / "dataset_example"
    else:
        folder = Path(settings["data_path"])
    return folder / name / f"{name}.item"


def mask_of(ids: Iterable[str], tokens: Sequence[str], what: str) -> np.ndarray:
    """Which of the items ``tokens`` are among ``ids``: bool (n_items,); ``what`` names the ids.

    Raises:
        InputError: none is. Ids that are no items are counted in the log.
    """
    wanted = set(ids)
    mask = np.fromiter((token in wanted for token in tokens), bool, len(tokens))
    if not mask.any():
        raise InputError(
            f"none of the {len(wanted):,} allowed ids, {what}, is an item of the run: "
            f"{preview(sorted(map(str, wanted)))}. Give raw ids as in the .item file"
        )
    if strangers := len(wanted) - int(mask.sum()):
        logger.warning(
            "%s of the %s allowed ids, %s, are no items of the run",
            f"{strangers:,}",
            f"{len(wanted):,}",
            what,
        )
    return mask


def parse_time(value: Any, name: str = "now") -> float:
    """Seconds since 1970, as :func:`.as_seconds` reads them.

    Raises:
        InputError: it is no time.
    """
    seconds = as_seconds(value)
    if seconds is None:
        raise InputError(
            f"'{name}' is {value!r}, but must be seconds since 1970 or an ISO time such as "
            "2026-01-05 or 2026-01-05T12:00:00+02:00"
        )
    return seconds


def parse_now(bundle: Bundle, rules: Rules, now: Any) -> float | None:
    """The time of a request in seconds; None asks at no time.

    Raises:
        InputError: no time, as :func:`parse_time`; or a time where the run's items have none, or
            none where the run leaves out what is not available (``filter_unavailable``).
    """
    if now is None:
        if rules.timed and bundle.settings.get("filter_unavailable"):
            raise InputError(
                "the run leaves out items that are not available (filter_unavailable): give 'now', "
                "the time that counts"
            )
        return None
    if not rules.timed:
        raise InputError(
            f"'now' is {now!r}, but the run knows no times of its items (available_from_field, "
            "available_until_field): leave it out"
        )
    return parse_time(now)


def bounds_of(table: ItemTable, field: str, file: Path) -> list[float | None]:
    """The times in the column ``field`` of ``table``; None where there is no bound."""
    seconds = seconds_of_cells(table.columns[field], table.tokens, field, file)
    return [None if math.isnan(each) else each for each in seconds.tolist()]
