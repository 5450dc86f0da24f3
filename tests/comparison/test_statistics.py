"""Significance, groups of items and reach, worked out by hand."""

import numpy as np
import pytest

from recbole_sid.comparison.statistics import (
    coverage,
    holm,
    item_groups,
    mean_popularity,
    paired_bootstrap,
)
from recbole_sid.comparison.table import cell, significance


def test_holm():
    # Sorted .01 .02 .03 .5, times 4 3 2 1: .04 .06 .06 .5.
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # The second step may not fall below the first; nothing is above 1.
    assert holm(np.array([0.02, 0.03])) == pytest.approx([0.04, 0.04])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


def test_two_users_have_three_means():
    # Users differ by 0 and 1: a resample's mean is 0, 1/2, 1 with 1/4, 1/2, 1/4.
    ((one),) = paired_bootstrap(np.array([[0.0], [1.0]]), 4000, 1)
    assert one.mean == 0.5
    assert (one.low, one.high) == (0, 1)
    # At most 0 in a quarter of them.
    assert one.p == pytest.approx(0.5, abs=0.03)
    assert one.adjusted == one.p


def test_sure_signs_none_at_all_and_their_correction():
    differences = np.stack([np.full(50, 0.1), np.full(50, -0.1), np.zeros(50)], axis=1)
    up, down, none = paired_bootstrap(differences, 999, 1)
    # No resample on the other side: 2 * (1 + 0) / 1000.
    assert (up.p, down.p, none.p) == (0.002, 0.002, 1)
    assert (up.adjusted, down.adjusted, none.adjusted) == (0.006, 0.006, 1)
    assert (up.low, up.high, down.high) == pytest.approx((0.1, 0.1, -0.1))
    assert (none.mean, none.low, none.high) == (0, 0, 0)


def test_all_models_and_metrics_are_one_family():
    def of(first, second):
        return np.tile([[first, second]], (50, 1))

    per_user = {"A": of(0.5, 0.5), "B": of(0.75, 0.25), "C": of(0.5, 0.75)}
    found = significance(per_user, "A", ["m", "n"], 999)
    assert {name: list(tests) for name, tests in found.items()} == {
        "m": ["B", "C"],
        "n": ["B", "C"],
    }
    # Three sure signs of p 2/1000 and an equality: sorted times 4, 3, 2 and 1, none falling.
    assert [found[m]["B"]["p"] for m in "mn"] == [0.002, 0.002]
    assert [found[m]["B"]["adjusted"] for m in "mn"] == pytest.approx([0.008, 0.008])
    assert [found[m]["C"]["adjusted"] for m in "mn"] == pytest.approx([1, 0.008])
    assert [found[m][label]["mean"] for label in "BC" for m in "mn"] == [0.25, -0.25, 0, 0.25]
    assert significance({"A": of(1, 1)}, "A", ["m", "n"], 999) == {"m": {}, "n": {}}


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(0.3, 2, size=(400, 1))
    (one,) = paired_bootstrap(values, 5000, 2)
    error = values.std() / 20
    assert one.low == pytest.approx(values.mean() - 1.96 * error, abs=0.02)
    assert one.high == pytest.approx(values.mean() + 1.96 * error, abs=0.02)


def test_draws_depend_on_the_seed_alone(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 2))
    whole = paired_bootstrap(values, 200, 5)
    assert paired_bootstrap(values, 200, 5) == whole
    assert paired_bootstrap(values, 200, 6) != whole
    monkeypatch.setattr("recbole_sid.comparison.statistics._DRAWS", 90)  # three resamples at once
    parted = paired_bootstrap(values, 200, 5)
    assert [one.p for one in parted] == [one.p for one in whole]
    assert paired_bootstrap(np.empty((3, 0)), 10, 1) == []


def test_thirds_of_all_interactions():
    # 12 interactions. 4: nothing above, head. 3: 4 of 12 above, middle. The 2s: 7 of 12, middle.
    # The 1: 11 of 12, tail. The 0: all above, tail.
    assert item_groups(np.array([1, 2, 4, 3, 2, 0])).tolist() == [2, 1, 0, 1, 1, 2]
    assert item_groups(np.array([5, 5])).tolist() == [0, 0]
    assert item_groups(np.array([0, 0])).tolist() == [0, 0]


def test_coverage_and_popularity_leave_empty_places_out():
    lists = np.array([[1, 2], [2, 0]], np.int32)
    assert coverage(lists, 4) == 0.5
    assert mean_popularity(lists, np.array([99, 10, 4, 7, 7])) == 6  # (10 + 4 + 4) / 3
    assert mean_popularity(np.zeros((2, 2), np.int32), np.array([0, 1])) is None


def test_a_cell_of_one_seed_has_no_deviation():
    assert cell([0.5]).sd is None
    # Deviations 1, 0, 1 over n - 1 = 2.
    assert (cell([1, 2, 3]).mean, cell([1, 2, 3]).sd, cell([1, 2, 3]).n) == (2, 1, 3)
