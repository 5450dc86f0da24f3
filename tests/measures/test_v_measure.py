"""Agreement of codes and categories against hand-worked tables and against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score, v_measure_score

from recbole_sid.errors import InputError
from recbole_sid.measures import NothingToMeasure
from recbole_sid.measures.v_measure import finest_categories, level_agreement, split_items

MEASURES = ("homogeneity", "completeness", "v_measure", "adjusted_mutual_information")


def measured(codes: list, categories: list[int]) -> dict[str, float]:
    return level_agreement(np.array(codes), np.array(categories))


def of(values: dict[str, float], name: str) -> list[float]:
    return [values[f"{measure}_{name}"] for measure in MEASURES]


def entropy(*columns: np.ndarray) -> float:
    """Of the joint distribution of the columns."""
    counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def test_one_category_in_two_codes():
    # H(C) = ln 2; a code tells the category, so H(C | K) = 0 and homogeneity = 1.
    # H(K) = ½ ln 2 + 2 · ¼ ln 4 = 1.5 ln 2; H(K | C) = ½ · 0 + ½ ln 2, completeness = 1 - 1/3.
    # V = 2 · 1 · ⅔ / (1 + ⅔) = 0.8.
    # Mutual information ln 2. Had the codes been dealt by chance, both items of code 0 would fall
    # into one category in 1 of 3 cases (information ln 2), else code 0 says nothing and the other
    # two codes their item's category (½ ln 2): ⅓ ln 2 + ⅔ · ½ ln 2 = ⅔ ln 2.
    # Adjusted: (1 - ⅔) / ((1 + 1.5) / 2 - ⅔) = (4/12) / (7/12).
    values = measured([[0], [0], [1], [2]], [0, 0, 1, 1])
    assert of(values, "1") == pytest.approx([1, 2 / 3, 0.8, 4 / 7])


def test_prefix_is_not_level():
    # Level 1 joins categories 0 and 1: H(C) = 1.5 ln 2, H(C | K) = ½ ln 2: homogeneity ⅔; a
    # category has one code: completeness 1; V = 0.8. Both levels together tell all of it.
    # Level 2 alone: code 0 holds categories 0, 2, 2, code 1 holds 1.
    # H(C | K) = ¾ (ln 3 - ⅔ ln 2); H(K) = ln 4 - ¾ ln 3; H(K | C) = 0, as a category has one code.
    values = measured([[0, 0], [0, 1], [1, 0], [1, 0]], [0, 1, 2, 2])
    assert of(values, "1")[:3] == pytest.approx([2 / 3, 1, 0.8])
    assert of(values, "prefix_2") == pytest.approx([1, 1, 1, 1])
    homogeneity = 1 - 0.75 * (np.log(3) - 2 / 3 * np.log(2)) / (1.5 * np.log(2))
    expected = [homogeneity, 1, 2 * homogeneity / (homogeneity + 1)]
    assert of(values, "2")[:3] == pytest.approx(expected)


def test_codes_that_say_nothing():
    # Every code holds both categories equally: no information, and the adjusted one is below 0.
    values = measured([[0], [1], [0], [1]], [0, 0, 1, 1])
    assert of(values, "1")[:3] == pytest.approx([0, 0, 0])
    # Chance: ⅓ of the deals tell the category (ln 2), ⅔ nothing: ⅓ ln 2. (0 - ⅓) / (1 - ⅓).
    assert of(values, "1")[3] == pytest.approx(-0.5)


def test_names_of_three_levels():
    values = measured([[0, 0, 0], [1, 1, 1]], [0, 1])
    names = ["1", "2", "3", "prefix_2", "prefix_3"]
    assert set(values) == {f"{measure}_{name}" for measure in MEASURES for name in names} | {
        "items",
        "items_without_category",
        "categories",
    }


def test_items_without_category_are_left_out_and_counted():
    codes = [[0, 3], [5, 5], [0, 2], [1, 2], [5, 5], [2, 0]]
    values = measured(codes, [4, -1, 4, 7, -1, 7])
    expected = measured([codes[row] for row in (0, 2, 3, 5)], [0, 0, 1, 1])
    assert expected["items_without_category"] == 0
    assert values == expected | {"items_without_category": 2}
    assert (values["items"], values["categories"]) == (4, 2)


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=40))
def test_against_the_definitions(rows):
    table = np.array(rows)
    categories = table[:, 2]
    if len(set(categories.tolist())) < 2:
        return
    values = level_agreement(table[:, :2], categories)
    columns = {"1": [table[:, 0]], "2": [table[:, 1]], "prefix_2": [table[:, 0], table[:, 1]]}
    for name, found in columns.items():
        joint, own, truth = entropy(categories, *found), entropy(*found), entropy(categories)
        assert values[f"homogeneity_{name}"] == pytest.approx(1 - (joint - own) / truth, abs=1e-9)
        completeness = 1 - (joint - truth) / own if own > 0 else 1
        assert values[f"completeness_{name}"] == pytest.approx(completeness, abs=1e-9)
        numbers = np.unique(np.stack(found, axis=1), axis=0, return_inverse=True)[1].ravel()
        oracle = v_measure_score(categories, numbers)
        assert values[f"v_measure_{name}"] == pytest.approx(oracle, abs=1e-9)
        assert oracle == pytest.approx(normalized_mutual_info_score(categories, numbers), abs=1e-9)


def test_random_codes_are_at_chance_only_when_adjusted():
    rng = np.random.default_rng(0)
    values = measured(rng.integers(0, 256, (2000, 1)).tolist(), rng.integers(0, 50, 2000).tolist())
    assert values["v_measure_1"] > 0.3
    assert abs(values["adjusted_mutual_information_1"]) < 0.02


@pytest.mark.parametrize("categories", [[3, 3, -1], [-1, -1, -1], [0, -1, -1]])
def test_fewer_than_two_categories(categories):
    with pytest.raises(NothingToMeasure, match="at least 2 are needed"):
        measured([[0], [1], [2]], categories)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"\(items, levels\) and \(items,\)"):
        measured([[0], [1]], [0, 1, 0])
    with pytest.raises(InputError, match=r"\(items, levels\) and \(items,\)"):
        measured([0, 1], [0, 1])


def test_a_category_is_a_whole_path():
    paths = [("Women", "Sets"), ("Men", "Sets"), (), ("Men",), ("Men", "Sets")]
    # In order: (Men), (Men, Sets), (Women, Sets).
    assert finest_categories(paths).tolist() == [2, 1, -1, 0, 1]


def test_split_does_not_depend_on_the_order_of_rows():
    tokens = [f"item{row}" for row in range(25)]
    train, held_out = split_items(tokens, 0.2, seed=3)
    assert (len(train), len(held_out)) == (20, 5)
    assert sorted([*train, *held_out]) == list(range(25))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    turned = tokens[::-1]
    again = split_items(turned, 0.2, seed=3)[1]
    assert {turned[row] for row in again} == {tokens[row] for row in held_out}
    assert split_items(tokens, 0.2, seed=4)[1].tolist() != held_out.tolist()


def test_each_side_of_a_split_has_an_item():
    assert [len(rows) for rows in split_items(["a", "b", "c"], 0.01, seed=0)] == [2, 1]
    assert [len(rows) for rows in split_items(["a", "b", "c"], 0.99, seed=0)] == [1, 2]


def test_every_item_is_held_out_equally_often():
    held_out = [split_items(["d", "a", "c", "b"], 0.5, seed)[1] for seed in range(400)]
    counts = np.bincount(np.concatenate(held_out), minlength=4)
    # 400 splits, probability ½: 200, standard deviation 10.
    assert (np.abs(counts - 200) < 45).all()


@pytest.mark.parametrize(
    ("tokens", "share", "message"),
    [
        (["a", "b"], 0.0, "above 0 and below 1"),
        (["a", "b"], 1.0, "above 0 and below 1"),
        (["a"], 0.5, "at least 2"),
        (["a", "b", "a"], 0.5, "3 item ids, 2 of them distinct"),
    ],
)
def test_impossible_splits(tokens, share, message):
    with pytest.raises(InputError, match=message):
        split_items(tokens, share, seed=0)
