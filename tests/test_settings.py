from __future__ import annotations

from dataclasses import dataclass

import pytest

from recbole_sid.errors import InputError
from recbole_sid.settings import build


@dataclass(frozen=True)
class Loose:
    columns: dict[str, int] | list[str] | None
    plain: dict | int


def test_messages_name_mappings_in_plain_words():
    with pytest.raises(InputError, match=r"must be a mapping or a list of text values or empty"):
        build(Loose, {"columns": 3, "plain": 1})
    with pytest.raises(InputError, match=r"must be a mapping or a whole number$"):
        build(Loose, {"columns": None, "plain": "x"})


def test_mappings_are_taken_as_they_are():
    assert build(Loose, {"columns": {"a": 1}, "plain": {}}) == Loose({"a": 1}, {})


@dataclass(frozen=True)
class Numbers:
    rate: float
    count: int


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": float("nan"), "count": 1}, "'rate' is nan, but must be finite"),
        ({"rate": float("inf"), "count": 1}, "'rate' is inf, but must be finite"),
        ({"rate": 10**399, "count": 1}, "'rate' is 1000.*…, but must be finite"),
        ({"rate": 1, "count": 2**63}, "'count' is 9223372036854775808, but must be a whole"),
        ({"rate": 1, "count": "x" * 10_000}, "'count' is 'x{199}…, but must be a whole number"),
    ],
)
def test_numbers_beyond_what_is_computed_with_are_refused(values, said):
    with pytest.raises(InputError, match=said):
        build(Numbers, values)
    assert build(Numbers, {"rate": 10**300, "count": -(2**62)}).rate == 1e300
