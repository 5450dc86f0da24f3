"""A split at two times, for RecBole's classes of data sets: its own models and ours share it.

Rows before the first time train, from there on and before the second they validate, and from the
second on they test. A row of a sequential model is a target with its user's history, and goes by
the target's time: its history holds what came before it, whatever split that was in. The user's
first interaction has no history and is no row. A row of a general model is an interaction.

RecBole keeps times as 32-bit floats, and the two times are rounded in the same way: no row from one
of the times on gets into the split before it, but one shortly before (up to 64 seconds, today) may
get into the split after it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.utils import FeatureType

from recbole_sid.errors import InputError
from recbole_sid.model.filters import check_times_as_written
from recbole_sid.settings import require
from recbole_sid.times import as_seconds

_FORM = (
    "two times, [T1, T2], each a number of seconds or a text such as 2026-01-05 or "
    "2026-01-05T12:30:00 (UTC unless it says otherwise)"
)


def parse_times(value: Any) -> tuple[float, float] | None:
    """The two times of ``split_times`` in seconds; None where it is empty.

    Raises:
        InputError: these are not two times, or the first is not before the second.
    """
    if value is None:
        return None
    # A list with dates that are not quoted comes as a text from the command line.
    parts = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
    good = isinstance(parts, (list, tuple)) and len(parts) == 2
    require(good, "split_times", value, _FORM)
    found = [seconds for part in parts if (seconds := as_seconds(part)) is not None]
    require(len(found) == 2, "split_times", value, _FORM)
    first, second = found
    require(first < second, "split_times", value, "two times of which the first is earlier")
    return first, second


def replaced_arguments(given: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, Any]:
    """``eval_args`` under ``split_times``, which stands in the place of their split.

    Args:
        given: the user's settings.
        final: all settings.

    Raises:
        InputError: the user gives a split or an order of his own too, or splits that are made.
    """
    arguments = given.get("eval_args") or {}
    for key, replaced in (("split", None), ("order", "TO")):
        found = arguments.get(key) if isinstance(arguments, Mapping) else None
        if found not in (None, replaced):
            raise InputError(
                f"settings 'split_times' and 'eval_args: {key}' ({found!r}) are both given, but "
                "split_times splits by time: leave one of them out"
            )
    for key in ("benchmark_filename", "dataloaders_save_path"):
        if final.get(key):
            raise InputError(
                f"settings 'split_times' and '{key}' are both given, but files that are split "
                "already cannot be split again: leave one of them out"
            )
    if not final.get("TIME_FIELD"):
        raise InputError("setting 'split_times' needs the column of times: set TIME_FIELD")
    check_times_as_written(final, "split_times")
    arguments = final["eval_args"] if isinstance(final["eval_args"], Mapping) else {}
    return {**arguments, "split": None, "order": "TO"}


def split_at(dataset: Any, times: tuple[float, float]) -> Any:
    """A data set of RecBole as one that splits itself at ``times`` when it is built."""
    return _restore(type(dataset), {**vars(dataset), "split_times": times})


class _SplitAtTimes(Dataset):
    """A data set of RecBole that is split at two times; stands before one of its subclasses."""

    split_times: tuple[float, float]

    def build(self) -> list[Any]:
        """The training, the validation and the test split, each in the order of time.

        Raises:
            InputError: there are no times, no row is before the first one or from the second one
                on, or the times lie beyond the data.
        """
        if self.field2type.get(self.time_field) is not FeatureType.FLOAT:
            raise InputError(
                f"setting 'split_times' needs the times of the interactions, but there is no "
                f"column '{self.time_field}:float' among those that are loaded: name it in "
                "TIME_FIELD and in load_col"
            )
        span = self.inter_feat[self.time_field]
        first, last = float(span.min()), float(span.max())
        self._change_feat_format()
        self.sort(by=self.time_field)
        times = self.inter_feat[self.time_field].numpy()
        bounds = np.array(self.split_times, dtype=times.dtype)
        split = np.searchsorted(bounds, times, side="right")  # 0, 1 or 2 for each row
        self._check(np.bincount(split, minlength=3), first, last)
        self._drop_unused_col()
        return [self.copy(self.inter_feat[torch.from_numpy(split == part)]) for part in range(3)]

    def _check(self, counts: np.ndarray, first: float, last: float) -> None:
        begin, end = self.split_times
        data = f"the interactions go from {spelled(first)} to {spelled(last)}"
        for time in (begin, end):
            if not first <= time <= last:
                raise InputError(
                    f"setting 'split_times' has {spelled(time)}, but {data}: choose times between"
                )
        if not counts[0]:
            raise InputError(
                f"setting 'split_times' leaves nothing to train on before {spelled(begin)}: "
                f"{data}, and a row of a sequential model needs an interaction before it. Choose "
                "a later first time"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # A class that is made at run time is found again by the one that it was made of.
        return _restore, (type(self).__mro__[2], dict(vars(self)))


def _restore(stock: type, values: dict[str, Any]) -> Any:
    """An object of the class that splits itself, with these attributes."""
    restored: Any = object.__new__(_class_of(stock))
    vars(restored).update(values)
    return restored


@cache
def _class_of(stock: type) -> type:
    return type(stock.__name__, (_SplitAtTimes, stock), {"__module__": __name__})


def spelled(seconds: float) -> str:
    """Seconds, and the time that they are in UTC where it has a year of four digits."""
    try:
        time = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.15g}"
    return f"{seconds:.15g} ({time:%Y-%m-%dT%H:%M:%S}Z)"
