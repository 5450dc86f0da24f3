"""Random SID tables for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from recbole_sid.sid.table import SemanticIDs

# Any text that UTF-8 can hold: quotes, tabs, NUL, other scripts.
tokens = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


@st.composite
def base_tables(draw: st.DrawFn) -> SemanticIDs:
    """A table with collision "none"; few codes, so that collisions are common."""
    names = draw(st.lists(tokens, min_size=1, max_size=25, unique=True))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    rows = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    codes = draw(st.lists(rows, min_size=len(names), max_size=len(names)))
    array = np.array(codes, dtype=np.int32).reshape(len(names), len(sizes))
    return SemanticIDs(tuple(names), array, tuple(sizes), "none", {"made": "by hypothesis"})


def shuffled(sids: SemanticIDs, seed: int) -> SemanticIDs:
    """The same table with its rows in another order."""
    rows = np.random.default_rng(seed).permutation(sids.n_items)
    return sids.aligned([sids.tokens[row] for row in rows])


def by_token(sids: SemanticIDs) -> dict[str, list[int]]:
    return dict(zip(sids.tokens, sids.codes.tolist(), strict=True))


def table(codes: dict[str, list[int]], sizes: tuple[int, ...]) -> SemanticIDs:
    return SemanticIDs(
        tuple(codes), np.array(list(codes.values()), dtype=np.int32), sizes, "none", {}
    )
