"""Whatever bytes a reader is given: it reads them, or there is one InputError.

``benchmarks/fuzz_readers.py`` gives the same readers more, for as long as one likes.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutated
from tests.fuzz.readers import readers, try_reader

NAMES = tuple(readers())
SLOW = 5  # inputs where each takes a database, else
FAST = 40


def repeatable(name: str):
    examples = SLOW if name.startswith("prepare") else FAST
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read(name: str) -> None:
    reader = readers()[name]
    for seed in reader.seeds:
        assert try_reader(reader, seed)
        assert try_reader(reader, seed, resealed=False)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    reader = readers()[name]

    @repeatable(name)
    @given(st.integers(0, 2**32), st.booleans())
    def damaged(seed: int, resealed: bool) -> None:
        rng = random.Random(seed)
        content = mutated(rng.choice(reader.seeds), rng, reader.seeds)
        try_reader(reader, content, resealed)

    damaged()


@pytest.mark.parametrize("name", NAMES)
def test_junk_is_read_or_refused(name: str) -> None:
    reader = readers()[name]

    @repeatable(name)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
    def junk(content: bytes) -> None:
        try_reader(reader, content)

    junk()
