from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from recbole_sid.measures.correlation import rank_correlations


def test_four_sets_by_hand():
    figures = {"same": [1, 2, 3, 4], "other": [9, 7, 8, 1], "flat": [5, 5, 5, 5]}
    same, other = rank_correlations(figures, [0.1, 0.2, 0.3, 0.4], seed=0)
    # Of 24 orders one gives 1 and one -1.
    assert same == ("same", pytest.approx(1), pytest.approx(2 / 24), pytest.approx(4 / 24), 4)
    # Ranks 4 2 3 1 against 1 2 3 4: differences 3 0 0 3, rho = 1 - 6 * 18 / (4 * 15) = -0.8.
    # As far from 0: +-1 (1 order each) and +-.8 (3 orders each, one exchange of neighbours).
    assert other.rho == pytest.approx(-0.8)
    assert other.p == pytest.approx(8 / 24)
    assert other.adjusted == pytest.approx(8 / 24)


def test_missing_figures_ties_and_too_few_sets():
    figures = {
        "few": [1.0, 2.0, 3.0, None, None],
        "some": [1.0, None, 2.0, 2.0, 3.0],
    }
    (only,) = rank_correlations(figures, [1, 9, 2, 3, 3], seed=0)
    assert only.figure == "some"
    assert only.sets == 4
    assert only.rho == pytest.approx(spearmanr([1, 2, 2, 3], [1, 2, 3, 3]).statistic)
    orders = [
        spearmanr([1, 2, 2, 3], order).statistic for order in itertools.permutations([1, 2, 3, 3])
    ]
    assert only.p == pytest.approx(np.mean(np.abs(orders) >= only.rho - 1e-9))
    assert rank_correlations({"x": [1, 2, 3, 4]}, [2, 2, 2, 2], seed=0) == []


def test_more_than_eight_sets_draw_orders():
    rng = np.random.default_rng(3)
    scores = rng.random(11)
    figures = {"noise": rng.random(11).tolist(), "strong": (scores + rng.random(11) / 3).tolist()}
    strong, noise = rank_correlations(figures, scores.tolist(), seed=5)
    assert (strong.figure, noise.figure) == ("strong", "noise")
    for found, values in ((strong, figures["strong"]), (noise, figures["noise"])):
        expected = spearmanr(values, scores)
        assert found.rho == pytest.approx(expected.statistic)
        assert found.p == pytest.approx(expected.pvalue, abs=0.02)
        assert found.p >= 1 / 40_000
    again = rank_correlations(figures, scores.tolist(), seed=5)
    assert again == [strong, noise]
