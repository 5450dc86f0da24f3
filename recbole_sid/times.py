"""Times as users write them, in seconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError, preview

# Seconds that a float64 still tells apart.
LATEST = 2**53


def as_seconds(value: Any) -> float | None:
    """Seconds from a number, a text with one, ISO text, or a date that yaml has read.

    A date is its midnight, and what names no zone is UTC.

    Returns:
        None where ``value`` is none of these, not finite, or beyond 2^53.
    """
    if isinstance(value, str):
        text = value.strip().strip("'\"")
        try:
            value = float(text)
        except ValueError:
            try:
                # Python 3.10 does not know the Z.
                zoned = f"{text[:-1]}+00:00" if text.endswith("Z") else text
                value = datetime.fromisoformat(zoned)
            except ValueError:
                return None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LATEST else None  # NaN fails the comparison


def seconds_of_cells(
    cells: Sequence[str], tokens: Sequence[str], field: str, file: Path
) -> np.ndarray:
    """Cells of the items ``tokens`` in the column ``field`` of ``file``: float64, NaN where empty.

    Raises:
        InputError: cells that are no finite numbers, counted, the first ten shown.
    """
    seconds = np.full(len(cells), np.nan)
    bad = []
    for row, cell in enumerate(cells):
        if not cell.strip():
            continue
        try:
            seconds[row] = float(cell)
        except ValueError:
            seconds[row] = np.nan
        if not np.isfinite(seconds[row]):
            bad.append(f"item {tokens[row]!r}: {cell!r}")
    if bad:
        raise InputError(
            f"item file '{file}', column '{field}': {len(bad):,} cells are no number of seconds: "
            f"{preview(bad)}. Write seconds, or leave a cell empty for no bound"
        )
    return seconds
