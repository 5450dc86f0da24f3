from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pytest

from recbole_sid.errors import InputError
from recbole_sid.times import as_seconds, seconds_of_cells


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (-3.5, -3.5),
        ("1767225600", 1767225600.0),
        ("2026-01-01", 1767225600.0),
        (" '2026-01-01T00:00:10Z' ", 1767225610.0),
        ("2026-01-01T02:00:00+02:00", 1767225600.0),
        (datetime.date(2026, 1, 1), 1767225600.0),
        (datetime.datetime(2026, 1, 1, 0, 0, 1), 1767225601.0),
        (2**53, float(2**53)),
    ],
)
def test_times_by_hand(value, seconds):
    assert as_seconds(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "soon", "2026-13-01", "nan", "inf", float("nan"), 2**53 + 2, True, None, [1]]
)
def test_what_is_no_time(value):
    assert as_seconds(value) is None


def test_cells():
    found = seconds_of_cells(["5", " ", "-1.5"], ["a", "b", "c"], "end", Path("x.item"))
    np.testing.assert_array_equal(found, [5, np.nan, -1.5])
    message = (
        "item file 'x.item', column 'end': 3 cells are no number of seconds: "
        "\"item 'b': 'soon'\", \"item 'c': 'inf'\", \"item 'd': 'nan'\""
    )
    with pytest.raises(InputError, match=re.escape(message)):
        seconds_of_cells(["5", "soon", "inf", "nan"], ["a", "b", "c", "d"], "end", Path("x.item"))
