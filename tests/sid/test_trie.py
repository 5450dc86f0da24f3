"""The trie holds exactly the SIDs of the table, and is small."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid.trie import Trie

from .tables import base_tables, shuffled, table


def enumerate_leaves(trie: Trie) -> list[tuple[tuple[int, ...], list[int]]]:
    """Walk the trie from the root: (SID, rows) of every leaf, depth first."""
    frontier: list[tuple[tuple[int, ...], int]] = [((), 0)]
    for depth in range(trie.n_levels):
        frontier = [
            ((*prefix, int(code)), int(child))
            for prefix, node in frontier
            for code, child in zip(*trie.children(depth, node), strict=True)
        ]
    assert [leaf for _, leaf in frontier] == list(range(trie.n_leaves))
    return [(prefix, trie.items(leaf).tolist()) for prefix, leaf in frontier]


def test_by_hand() -> None:
    sids = table({"9": [2, 0], "b": [0, 1], "10": [2, 0], "c": [0, 3], "d": [2, 1]}, (3, 4))
    trie = Trie.from_sids(sids)
    assert [codes.tolist() for codes in trie.codes] == [[0, 2], [1, 3, 0, 1]]
    assert [start.tolist() for start in trie.child_start] == [[0, 2], [0, 2, 4]]
    assert trie.max_children == (2, 2)
    # The leaf (2, 0) holds "10" (row 2) before "9" (row 0): raw-token order.
    assert trie.leaf_items.tolist() == [1, 3, 2, 0, 4]
    assert trie.leaf_start.tolist() == [0, 1, 2, 4, 5]
    assert trie.leaf_of_item.tolist() == [2, 0, 2, 1, 3]
    codes, nodes = trie.children(1, 1)
    assert (codes.tolist(), nodes.tolist()) == ([0, 1], [2, 3])
    # 4-byte numbers: codes 2 + 4, child starts 2 + 3, leaf starts 5, items 5.
    assert trie.nbytes == 4 * 21


@given(base_tables(), st.sampled_from(["none", "dedup"]))
def test_it_enumerates_exactly_the_items(base: SemanticIDs, rule: str) -> None:
    sids = apply_collision(base, rule)
    trie = Trie.from_sids(sids)
    expected: dict[tuple[int, ...], list[int]] = {}
    for row in sorted(range(sids.n_items), key=sids.tokens.__getitem__):
        expected.setdefault(tuple(sids.codes[row].tolist()), []).append(row)
    leaves = enumerate_leaves(trie)
    assert leaves == sorted(expected.items())
    for leaf, (_, rows) in enumerate(leaves):
        assert trie.leaf_of_item[rows].tolist() == [leaf] * len(rows)
    for depth in range(trie.n_levels):
        n_nodes = len(trie.child_start[depth]) - 1
        widths = [len(trie.children(depth, node)[0]) for node in range(n_nodes)]
        assert trie.max_children[depth] == max(widths)
        assert min(widths) > 0


@given(base_tables(), st.integers(0, 9))
def test_row_order_changes_only_the_row_numbers(base: SemanticIDs, seed: int) -> None:
    moved = shuffled(base, seed)
    one, other = Trie.from_sids(base), Trie.from_sids(moved)
    for a, b in zip(one.codes + one.child_start, other.codes + other.child_start, strict=True):
        assert a.tolist() == b.tolist()
    assert [base.tokens[row] for row in one.leaf_items] == [
        moved.tokens[row] for row in other.leaf_items
    ]


def test_a_large_table_takes_few_bytes_an_item() -> None:
    # 50,000 items over 64^3 codes crowd the levels as a million items do over 256^3 and more.
    n, size = 50_000, 64
    codes = np.random.default_rng(0).integers(0, size, (n, 3), dtype=np.int32)
    base = SemanticIDs(tuple(map(str, range(n))), codes, (size,) * 3, "none", {})
    trie = Trie.from_sids(apply_collision(base, "dedup"))
    assert trie.n_levels == 4
    assert trie.n_leaves == n
    assert trie.nbytes <= 24 * n
    assert {array.dtype for array in (*trie.codes, *trie.child_start)} == {np.dtype(np.int32)}
