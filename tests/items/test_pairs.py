"""The settings of pairs, and which of them reach which source."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.items.pairs import Interactions, PairSettings, item_pairs
from recbole_sid.resources import resource_dir

TEXT = (resource_dir("properties") / "pairs.yaml").read_text(encoding="utf-8")
DEFAULTS = yaml.safe_load(TEXT)
# Users 0 and 1 have items 0 and 1, users 2 and 3 items 1, 2 and 3, user 4 items 0, 1, 2 and 3.
ROWS = Interactions(
    np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]),
    np.array([0, 1, 0, 1, 1, 2, 3, 1, 2, 3, 0, 1, 2, 3]),
)
VECTORS = np.array([[1, 0], [0, 1], [3, 4], [1, 0]], np.float32)


def build(**changes) -> PairSettings:
    return settings.build(PairSettings, DEFAULTS | changes)


def find(vectors: np.ndarray | None = None, seed: int = 0, **changes):
    return item_pairs(build(**changes), ROWS, 4, vectors, seed=seed, progress=False)


def row(pairs, item: int) -> tuple[list[int], list[float]]:
    part = slice(pairs.offsets[item], pairs.offsets[item + 1])
    return pairs.items[part].tolist(), pairs.scores[part].tolist()


def test_the_yaml_file_holds_each_setting_once_and_nothing_else():
    assert sorted(DEFAULTS) == sorted(settings.keys(PairSettings))
    assert build().pair_source == "swing"
    assert all(line.startswith("# ") or "# (" in line for line in TEXT.splitlines())


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("pair_source", "clicks", "swing"),
        ("pair_neighbours", 0, "at least 1"),
        ("pair_swing_alpha", 0, "above 0"),
        ("pair_swing_alpha", float("inf"), "finite"),
        ("pair_swing_alpha", float("nan"), "finite"),
        ("pair_max_users", 1, "at least 2"),
        ("pair_max_users", None, "a whole number"),
        ("pair_max_items", 1, "at least 2 or ~"),
        ("pair_min_cosine", 1.1, "0 to 1"),
        ("pair_min_cosine", -0.1, "0 to 1"),
    ],
)
def test_settings_out_of_bounds(key: str, value: object, bound: str):
    with pytest.raises(InputError, match=f"'{key}' is .*{bound}"):
        build(**{key: value})


def test_swing_and_its_settings():
    # Item 0: users 0, 1, 4 share item 1, with w = 1/√2, 1/√2, 1/2 and overlaps of 2.
    expected = 1 / 2 / 3 + 2 / (2 * np.sqrt(2)) / 3
    items, scores = row(find(), 0)
    assert items == [1]
    assert scores == pytest.approx([expected])
    assert row(find(pair_swing_alpha=2.5), 0)[1] == pytest.approx([expected * 3 / 4.5])
    assert row(find(pair_max_items=3), 0)[1] == pytest.approx([1 / 2 / 3])  # without user 4
    assert find(pair_neighbours=1).counts.tolist() == [1, 1, 1, 1]


def test_cooccurrence():
    assert row(find(pair_source="cooccurrence"), 1) == ([0, 2, 3], [3, 3, 3])
    assert row(find(pair_source="cooccurrence", pair_max_items=2), 1) == ([0], [2])


@pytest.mark.parametrize("source", ["swing", "cooccurrence"])
def test_the_cap_and_the_seed_reach_the_source(source: str):
    found = {find(pair_source=source, pair_max_users=2, seed=s).fingerprint() for s in range(9)}
    assert len(found) > 1
    assert find(pair_source=source).fingerprint() not in found


def test_text():
    pairs = find(VECTORS, pair_source="text")
    assert row(pairs, 0) == ([3, 2], pytest.approx([1.0, 0.6]))
    assert row(pairs, 1) == ([2], pytest.approx([0.8]))
    assert row(find(VECTORS, pair_source="text", pair_min_cosine=0.7), 0)[0] == [3]
    assert row(find(VECTORS, pair_source="text", pair_neighbours=1), 2)[0] == [1]


@pytest.mark.parametrize(("vectors", "given"), [(None, "no"), (VECTORS[:3], "3")])
def test_text_needs_vectors(vectors: np.ndarray | None, given: str):
    with pytest.raises(InputError, match=f"each of 4 items, but {given} vectors are given"):
        find(vectors, pair_source="text")
