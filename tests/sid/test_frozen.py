"""What a table and what is made of it cannot be changed; tables are equal to themselves only."""

from __future__ import annotations

from copy import copy
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from recbole_sid.sid.append import append_codes
from recbole_sid.sid.reassign import RandomCosts
from recbole_sid.sid.space import CodeSpace, EqualCosts
from recbole_sid.sid.trie import Trie

from .tables import table

SIDS = table({"x": [0, 3], "y": [1, 0]}, (2, 4))
BOOKS = (np.zeros((2, 1), np.float32), np.zeros((4, 1), np.float32))
BY_IDENTITY = [SIDS, SIDS.groups, Trie.from_sids(SIDS), CodeSpace(BOOKS[0], BOOKS, True)]
EQUAL = EqualCosts((2, 4))
OTHERS = [
    EQUAL,
    RandomCosts(EQUAL, (2, 4), np.random.default_rng(0)),
    append_codes(SIDS, ("z",), np.array([[0, 0]], np.int32)),
]


@pytest.mark.parametrize("value", [*BY_IDENTITY, *OTHERS], ids=lambda value: type(value).__name__)
def test_no_field_can_be_set(value: Any) -> None:
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize("value", BY_IDENTITY, ids=lambda value: type(value).__name__)
def test_equal_is_the_same(value: Any) -> None:
    other = copy(value)
    assert value != other
    assert len({value, other}) == 2
