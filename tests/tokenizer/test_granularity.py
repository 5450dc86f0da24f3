from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.granularity import Granularity, GranularitySettings, granularity

DEFAULTS = {
    "levels": 3,
    "codebook_size": 256,
    "granularity_source": "category",
    "granularity_drop_above": 0.95,
    "granularity_min_categories": 1,
    "granularity_clusters": [8, 256],
    "granularity_near_neighbours": 1,
    "granularity_near_cosine": 0.9,
}


def found(categories, vectors, *, seed: int = 0, **changes) -> Granularity:
    configured = GranularitySettings(**{**DEFAULTS, **changes})
    return granularity(categories, vectors, configured, seed=seed, progress=False)


def at(*degrees: float) -> np.ndarray:
    """Vectors in the plane at these angles; their lengths differ and must not matter."""
    angles = np.deg2rad(degrees)
    lengths = 1 + np.arange(len(degrees))[:, None]
    return (lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def apart(n: int) -> np.ndarray:
    """Vectors that are near to none of the others."""
    return np.eye(n, dtype=np.float32)


def groups(labels: np.ndarray) -> set[frozenset[int]]:
    """The groups of a level."""
    return {
        frozenset(np.flatnonzero(labels == label).tolist())
        for label in np.unique(labels)
        if label >= 0
    }


def sets(*members: set[int]) -> set[frozenset[int]]:
    return {frozenset(group) for group in members}


# Item 6 has no path, and nothing is left of item 7's once Shop, on 7 of 7 paths, is dropped (7 of 8
# items would be 87.5 %).
PATHS = [
    ("Shop", "A", "x"),  # 0°
    ("Shop", "A", "x"),  # 10°: nearest to item 0 and the other way round, cos 10° = 0.985
    ("Shop", "A", "y"),  # 40°: nearest to item 3, but item 3 is nearer to item 4
    ("Shop", "A"),  # 46°
    ("Shop", "B", "x"),  # 49°
    ("Shop", "B", "x"),  # 120°: nearest to item 6 and the other way round, but cos 30° = 0.866
    (),  # 150°
    ("Shop",),  # 250°
]
VECTORS = at(0, 10, 40, 46, 49, 120, 150, 250)


def test_by_hand():
    labels, description = found(PATHS, VECTORS)
    assert labels.dtype == np.int64
    assert groups(labels[:, 0]) == sets({0, 1, 2, 3}, {4, 5})
    # x of A and x of B are two categories; y of A, and A alone, have one item each.
    assert groups(labels[:, 1]) == sets({0, 1}, {4, 5})
    assert groups(labels[:, 2]) == sets({0, 1}, {3, 4})
    assert description == [
        "level 1: category path to depth 1 of 2 (without Shop): 2 groups, the largest of 4; "
        "6 of 8 items have a positive",
        "level 2: category path to depth 2 of 2 (without Shop): 2 groups, the largest of 2; "
        "4 of 8 items have a positive",
        "level 3: mutual nearest neighbours with a cosine of 0.9 or more: 2 groups, the largest of "
        "2; 4 of 8 items have a positive",
    ]


@pytest.mark.parametrize(("least", "depth"), [(2, 1), (3, 2), (4, 2), (5, 2)])
def test_level_1_goes_down_until_there_are_enough_categories(least: int, depth: int) -> None:
    # At depth 1 there are A and B, at depth 2 A > x, A > y, A alone and B > x; 5 there are nowhere.
    labels, description = found(PATHS, VECTORS, granularity_min_categories=least)
    assert description[0].startswith(f"level 1: category path to depth {depth} of 2")
    assert description[1].startswith("level 2: category path to depth 2 of 2")
    assert (groups(labels[:, 0]) == groups(labels[:, 1])) is (depth == 2)


def test_labels_count_from_zero_and_singles_have_none():
    labels = found(PATHS, VECTORS).labels
    for level in labels.T:
        kept = level[level >= 0]
        assert sorted(set(kept)) == list(range(kept.max() + 1))
        assert np.bincount(kept).min() >= 2


@pytest.mark.parametrize(("drop_above", "left"), [(0.8, {0, 1, 2, 3}), (0.79, {0, 1})])
def test_a_name_is_dropped_above_the_share_only(drop_above, left):
    # Shop is on 4 of 5 paths: 80 %. Without it, level 1 is a (items 0 and 1), b, c and d.
    paths = [("Shop", "a"), ("Shop", "a"), ("Shop", "b"), ("Shop", "c"), ("d",)]
    labels = found(paths, apart(5), granularity_drop_above=drop_above).labels
    assert groups(labels[:, 0]) == sets(left)


def test_a_name_twice_on_a_path_counts_once():
    paths = [("a", "a"), ("a", "b"), ("c", "b"), ("c", "b")]  # b is on 3 of 4 paths, a on 2
    labels = found(paths, apart(4), granularity_drop_above=0.75).labels
    assert groups(labels[:, 0]) == sets({0, 1}, {2, 3})


def test_a_short_path_is_a_category_of_its_own_further_down():
    paths = [("a",), ("a",), ("a", "x"), ("a", "x"), ("b",)]
    labels = found(paths, apart(5)).labels
    assert groups(labels[:, 0]) == sets({0, 1, 2, 3})
    assert groups(labels[:, 1]) == sets({0, 1}, {2, 3})


# All words of five letters of two, each twice: 2, 4, 8, 16 and 32 categories at depths 1 … 5.
LETTERS = ["a1 b1", "a2 b2", "a3 b3", "a4 b4", "a5 b5"]
WORDS = 2 * list(product(*map(str.split, LETTERS)))


@pytest.mark.parametrize(
    ("levels", "sizes"),
    [
        (1, []),
        (2, [2]),
        (3, [2, 32]),
        (4, [2, 8, 32]),  # one factor: 2 · 4 · 4
        (5, [2, 4, 16, 32]),  # factor 2.52: nearest to 5.04 is 4, to 12.7 is 16
        (6, [2, 4, 8, 16, 32]),
    ],
)
def test_categories_grow_by_one_factor(levels, sizes):
    labels = found(WORDS, apart(64), levels=levels).labels
    assert labels.shape == (64, levels)
    assert [len(groups(level)) for level in labels.T] == [*sizes, 0]


def test_the_nearest_number_is_meant_as_a_ratio():
    # 2, 4, 20 and 50 categories. The middle of three levels wants 10: 20 is twice that, 4 is less
    # than half, although the difference to 4 is smaller.
    leaves = np.arange(100) % 50
    paths = list(zip(leaves // 25, leaves * 4 // 50, leaves * 20 // 50, leaves, strict=True))
    labels = found([tuple(map(str, path)) for path in paths], apart(100), levels=4).labels
    assert [len(groups(level)) for level in labels.T] == [2, 20, 50, 0]


def test_fewer_depths_than_levels():
    labels = found([("a",), ("a",), ("b",)], apart(3)).labels
    assert groups(labels[:, 0]) == groups(labels[:, 1]) == sets({0, 1})


@pytest.mark.parametrize(
    ("neighbours", "near"), [(1, {0, 1, 2}), (2, {0, 1, 2}), (3, {0, 1, 2, 3})]
)
def test_copies_take_places_among_the_nearest(neighbours, near):
    # Item 3 is nearest to each of three copies, but two of a copy's places are its copies'.
    vectors = at(0, 0, 0, 5)
    vectors[:3] = vectors[0]
    labels = found(None, vectors, levels=1, granularity_near_neighbours=neighbours).labels
    assert groups(labels[:, 0]) == sets(near)


def test_zeros_are_near_to_nothing():
    vectors = np.array([[0, 0], [0, 0], [1, 0], [1, 0]], np.float32)
    assert groups(found(None, vectors, levels=1).labels[:, 0]) == sets({2, 3})


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 12),
    copied=st.integers(0, 4),
    neighbours=st.integers(1, 4),
    cosine=st.sampled_from([0.1, 0.5, 0.9]),
    seed=st.integers(0, 2**16),
)
def test_near_items_against_every_pair(n, copied, neighbours, cosine, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 3)).astype(np.float32)
    vectors = np.concatenate([vectors, vectors[rng.integers(n, size=copied)]])
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = (unit @ unit.T).round(9)  # so that copies are equally near
    np.fill_diagonal(cosines, -2)
    kth = -np.sort(-cosines, axis=1)[:, min(neighbours, len(unit) - 1) - 1]
    near = (cosines >= kth[:, None]) & (cosines >= cosine)
    near &= near.T
    expected, reached = set(), set()
    for item in range(len(unit)):
        group, added = set(), {item}
        while added:
            group |= added
            added = set(np.flatnonzero(near[list(group)].any(axis=0)).tolist()) - group
        if item not in reached and len(group) > 1:
            expected.add(frozenset(group))
        reached |= group
    labels = found(
        None,
        vectors,
        levels=1,
        granularity_near_neighbours=neighbours,
        granularity_near_cosine=cosine,
    ).labels
    assert groups(labels[:, 0]) == expected


def test_clusters_are_nested():
    # Two bundles, each of two tight ones of five vectors: 0° and 20°, 120° and 140°.
    centres = np.repeat([0, 20, 120, 140], 5)
    vectors = at(*(centres + np.tile([-2, -1, 0, 1, 2], 4)))
    labels, description = found(
        None, vectors, granularity_source="clusters", granularity_clusters=[2, 4]
    )
    fives = [set(range(start, start + 5)) for start in (0, 5, 10, 15)]
    assert groups(labels[:, 0]) == sets(fives[0] | fives[1], fives[2] | fives[3])
    assert groups(labels[:, 1]) == sets(*fives)
    assert description[0] == (
        "level 1: k-means of the vectors, in place of category paths: 2 groups, the largest of 10; "
        "20 of 20 items have a positive"
    )
    only = found(
        None, vectors, levels=2, granularity_source="clusters", granularity_clusters=[2, 4]
    )
    assert groups(only.labels[:, 0]) == groups(labels[:, 0])


def test_clusters_come_from_the_seed_and_ignore_paths():
    vectors = np.random.default_rng(1).normal(size=(80, 4)).astype(np.float32)
    changes = {"levels": 4, "granularity_source": "clusters", "granularity_clusters": [3, 27]}
    first = found(None, vectors, **changes)
    again = found([("a",)] * 80, vectors, **changes)
    assert (first.labels == again.labels).all()
    assert (first.labels != found(None, vectors, seed=1, **changes).labels).any()
    # Broad: each group of a level lies in one of the level before. 3 · 3 · 3 = 27.
    for broad, narrow in ((0, 1), (1, 2)):
        for group in groups(first.labels[:, narrow]):
            assert len(set(first.labels[list(group), broad])) == 1
    assert len(groups(first.labels[:, 0])) == 3


def test_none_has_no_positives_at_any_level():
    found_none = found(None, at(0, 1, 90), granularity_source="none")
    assert found_none.labels.tolist() == [[-1] * 3] * 3
    assert found_none.description == [
        "all levels: no positives but second views and pairs (plain InfoNCE)"
    ]


def test_no_categories():
    with pytest.raises(InputError, match=r"item_category_field.*granularity_source to clusters"):
        found(None, apart(3))


@pytest.mark.parametrize("paths", [[("a",), ("a",)], [(), ()]])
def test_nothing_left_of_the_paths(paths):
    with pytest.raises(InputError, match="no category path is left of 2 items"):
        found(paths, apart(2))


def test_other_numbers_of_items():
    with pytest.raises(InputError, match="stand for 8 items, but vectors for 3"):
        found(PATHS, apart(3))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("granularity_drop_above", 0.0),
        ("granularity_drop_above", 1.1),
        ("granularity_min_categories", 0),
        ("granularity_clusters", [8]),
        ("granularity_clusters", [1, 8]),
        ("granularity_clusters", [9, 8]),
        ("granularity_near_neighbours", 0),
        ("granularity_near_cosine", 0.0),
        ("granularity_near_cosine", 1.1),
    ],
)
def test_bounds(key, value):
    with pytest.raises(InputError, match=f"tokenizer_{key}"):
        GranularitySettings(**{**DEFAULTS, key: value})
