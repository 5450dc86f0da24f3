"""Neighbourhood preservation against hand-worked items and against loops over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.errors import InputError
from recbole_sid.measures import hit_rate as module
from recbole_sid.measures.neighbourhood import neighbourhood


def at(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_figures_by_hand():
    # Nearest one of each: 0 -> 1, 1 -> 0, 2 -> 3, 3 -> 2.
    vectors = at(0, 10, 90, 95)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    flat = np.array([[0], [1], [0], [1]])
    first, second = neighbourhood(vectors, [codes, flat], 1)
    # All four share the first code; 2 and 3 both codes. Of 12 ordered pairs, 4 share the first
    # code and 2 both.
    assert first == {
        "near_1": 1.0, "random_1": pytest.approx(4 / 12),
        "near_2": 0.5, "random_2": pytest.approx(2 / 12),
    }  # fmt: skip
    assert second == {"near_1": 0.0, "random_1": pytest.approx(4 / 12)}


def test_ties_count_by_their_chance():
    # Items 1, 2 and 3 are equally near to 0, and one of them has its code: 1/3. Each of them has
    # two copies as its nearest: for 1 none of them has its code, for 2 and 3 it is one of two.
    vectors = at(0, 40, 40, 40)
    (values,) = neighbourhood(vectors, [np.array([[0], [0], [1], [1]])], 1)
    assert values["near_1"] == pytest.approx((1 / 3 + 0 + 1 / 2 + 1 / 2) / 4)


@pytest.mark.parametrize("block", [1, 25, 1000])
def test_like_loops_over_all_pairs(block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    n, k = 12, 3
    vectors, codes = rng.normal(size=(n, 4)), rng.integers(0, 2, (n, 3))
    (values,) = neighbourhood(vectors, [codes], k)
    for length in (1, 2, 3):
        near, together = [], 0
        for i in range(n):
            cosine = {
                j: vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
                for j in range(n)
                if j != i
            }
            same = {j: bool((codes[i, :length] == codes[j, :length]).all()) for j in cosine}
            near += [same[j] for j in sorted(cosine, key=lambda j: -cosine[j])[:k]]
            together += sum(same.values())
        assert values[f"near_{length}"] == pytest.approx(np.mean(near))
        assert values[f"random_{length}"] == pytest.approx(together / (n * (n - 1)))


def test_tables_of_other_items():
    with pytest.raises(InputError, match=r"must be of shape \(4, levels\)"):
        neighbourhood(at(0, 1, 2, 3), [np.zeros((3, 2), int)], 1)
    with pytest.raises(InputError, match="'report_neighbours' is 3"):
        neighbourhood(at(0, 1, 2, 3), [np.zeros((4, 2), int)], 3)
