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
