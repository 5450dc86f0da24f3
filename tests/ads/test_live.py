"""The next ad: its probability, worked out by hand, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.ads.behaviour import Step
from recbole_sid.ads.live import Live, Routes
from recbole_sid.ads.oracle import Oracle, figures
from tests.ads.worlds import state, tiny

BY_PRODUCT = np.arange(4)
# After product 0, inside of a session. Any ad: 0.08 and the 0.052 of the third kind, which has no
# product. Product 0: 0.15. Its companion, product 1: 0.25. Of the other 0.52, tea cups have 0.7, of
# which 0.6 for brand 0 (product 0), and dinner plates 0.2 (product 2, of brand 0).
AFTER_0 = [
    0.132 * 0.1 + 0.15 / 4 + 0.2184 / 4 + 0.1456 / 6,
    0.132 * 0.3 + 0.15 * 3 / 4 + 0.2184 * 3 / 4 + 0.1456 * 3 / 6,
    0.132 * 0.2 + 0.25 + 0.1456 * 2 / 6,
    0.132 * 0.4 + 0.104,
]


@pytest.fixture
def live() -> Live:
    return Live(tiny(), BY_PRODUCT, day=0)


def many(routes: Routes, count: int) -> Routes:
    return Routes(*(np.repeat(column, count, axis=0) for column in routes))


def test_the_probabilities_inside_of_a_session(live: Live) -> None:
    found = live.probabilities(live.routes(state(product=0, kind=0)))
    np.testing.assert_allclose(found, [AFTER_0], atol=1e-12)
    assert sum(AFTER_0) == pytest.approx(1)


def test_a_session_begins_with_the_interests(live: Live) -> None:
    # A new user: 0.08 any, 0.92 by interests, of which 0.7 tea cups and 0.3 dinner plates.
    found = live.probabilities(live.routes(state(product=-1, kind=-1, opening=True)))
    cups, plates = 0.92 * 0.7, 0.92 * 0.3
    by_hand = [
        0.008 + cups * (0.6 / 4 + 0.4 / 6),
        0.024 + cups * (0.6 * 3 / 4 + 0.4 * 3 / 6),
        0.016 + cups * 0.4 * 2 / 6,
        0.032 + plates,
    ]
    np.testing.assert_allclose(found, [by_hand], atol=1e-12)


def test_an_ad_that_has_ended_gives_up_its_share() -> None:
    live = Live(tiny(), BY_PRODUCT, day=1)
    assert live.ads.tolist() == [0, 1, 2]
    # After product 1, companion 2 has no ad: 0.08 any, 0.15 again, 0.77 by the kind, of which
    # plates (0.2) and the third kind (0.1) have none either.
    found = live.probabilities(live.routes(state(product=1, kind=0)))
    all_ads, cups = 0.08 + 0.77 * 0.3, 0.77 * 0.7
    by_hand = [
        all_ads / 6 + cups * (0.6 / 4 + 0.4 / 6),
        all_ads / 2 + cups * (0.6 * 3 / 4 + 0.4 / 2),
        all_ads / 3 + 0.15 + cups * 0.4 / 3,
    ]
    np.testing.assert_allclose(found, [by_hand], atol=1e-12)


def test_weights_fall_with_age() -> None:
    first, second = (Live(tiny(), BY_PRODUCT, day=day) for day in (0, 1))
    assert first.weights.tolist() == [1, 3, 2, 4]
    factor = 0.3 + 0.7 * np.exp(-0.1)
    np.testing.assert_allclose(second.weights, np.array([1, 3, 2]) * factor)


def test_ads_are_drawn_by_their_probabilities(live: Live) -> None:
    routes = many(live.routes(state(product=0, kind=0)), 40_000)
    ads, from_all = live.draw(routes, np.random.default_rng(1))
    shares = np.bincount(ads, minlength=4) / len(ads)
    np.testing.assert_allclose(shares, AFTER_0, atol=0.01)
    assert from_all.mean() == pytest.approx(0.132, abs=0.01)


def test_favourites_are_a_users_own_and_stay() -> None:
    tastes = tiny()
    fair = type(tastes)(
        tastes.catalogue, tastes.related, tastes.brand_bounds, np.array([0.0, 1.0, 2.0]), 5
    )
    users, kinds = np.arange(20_000), np.zeros(20_000, np.int64)
    first, last = fair.favourites(users, kinds)
    assert first.mean() == pytest.approx(0.5, abs=0.02)  # product 0 or 1
    np.testing.assert_array_equal(last - first, 1)
    again, _ = fair.favourites(users[::-1], kinds)
    np.testing.assert_array_equal(again[::-1], first)
    # Dinner plates: brand 1 has none.
    first_plate, last_plate = fair.favourites(users, kinds + 1)
    np.testing.assert_array_equal(last_plate - first_plate, first == 0)


def test_the_figures_of_the_oracle_by_hand() -> None:
    popular = np.array([3, 1, 2, 0])  # of weights 1, 3, 2, 4
    nothing = np.empty((0, 2), np.int64)
    names = [
        f"{name}@{k}" for name in ("hr", "ndcg", "expected", "popular") for k in (1, 5, 10, 20)
    ]
    (row,) = figures(np.array([AFTER_0]), np.array([2]), nothing, popular)
    found = dict(zip([*names, "live"], row.tolist(), strict=True))
    assert found["hr@1"] == 0
    assert found["hr@5"] == 1
    assert found["ndcg@5"] == pytest.approx(1 / np.log2(3))
    assert found["expected@1"] == pytest.approx(AFTER_0[1])
    assert found["expected@20"] == pytest.approx(1)
    assert found["popular@1"] == 0
    assert found["live"] == 4
    # Without ads 1 and 3, which the user has clicked, ad 2 is the likeliest and the most popular.
    seen = np.array([[0, 1], [0, 3]])
    (row,) = figures(np.array([AFTER_0]), np.array([2]), seen, popular)
    found = dict(zip([*names, "live"], row.tolist(), strict=True))
    assert found["hr@1"] == found["ndcg@1"] == found["popular@1"] == 1
    assert found["expected@1"] == pytest.approx(AFTER_0[2] / (AFTER_0[0] + AFTER_0[2]))


def test_the_oracle_measures_new_ads_of_late_days(live: Live) -> None:
    oracle = Oracle(n_users=1, n_late=1, first_day=5, rng=np.random.default_rng(0))
    routes = live.routes(state(product=0, kind=0))
    steps = [Step(np.array([0]), routes, np.array([ad])) for ad in (1, 1, 2)]
    oracle.watch(4, live, steps[:1])
    assert oracle.report() == {"clicks": 0}
    oracle.watch(5, live, steps[1:])
    report = oracle.report()
    assert report["clicks"] == 1  # ad 1 was clicked before
    assert report["hr@1"] == 1
    assert report["expected_hr@1"] == pytest.approx(AFTER_0[2] / (1 - AFTER_0[1]), abs=1e-5)
