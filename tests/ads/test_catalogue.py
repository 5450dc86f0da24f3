"""Goods, brands, products, and when ads are shown."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.ads import catalogue
from recbole_sid.ads.catalogue import KINDS, Catalogue, draw_in_ranges, make_catalogue
from recbole_sid.ads.live import make_tastes
from recbole_sid.ads.texts import feed_rows
from recbole_sid.ads.words import FEATURES, names

N_ADS, N_DAYS = 3000, 40


@pytest.fixture(scope="module")
def world() -> Catalogue:
    return make_catalogue(N_ADS, N_DAYS, np.random.default_rng(3))


def test_the_goods_are_a_tree_of_distinct_names() -> None:
    assert len(KINDS) == 360
    for depth, count in ((1, 12), (2, 72), (3, 360)):
        nodes = {path[:depth] for path in KINDS}
        assert len(nodes) == len({node[-1] for node in nodes}) == count
    for number, (industry, category, _) in enumerate(KINDS):
        own = catalogue.CATEGORY_OF_KIND[number]
        assert catalogue.CATEGORIES[own] == (industry, category)
        assert catalogue.INDUSTRIES[catalogue.INDUSTRY_OF_CATEGORY[own]] == industry
    assert list(FEATURES) == list(catalogue.INDUSTRIES)
    assert {len(set(part.split(", "))) for part in FEATURES.values()} == {12}


def test_brands_and_companions_are_of_the_category(world: Catalogue) -> None:
    categories = catalogue.CATEGORY_OF_KIND[world.product_kind]
    np.testing.assert_array_equal(world.brand_category[world.product_brand], categories)
    np.testing.assert_array_equal(categories[world.product_companions], categories)
    assert len(set(world.brand_names)) == world.n_brands


def test_products_are_ranges_of_kind_and_brand(world: Catalogue) -> None:
    for kind in range(len(KINDS)):
        part = world.product_kind[world.kind_products[kind] : world.kind_products[kind + 1]]
        assert (part == kind).all()
    assert world.kind_products[-1] == world.n_products
    keys = world.product_kind * world.n_brands + world.product_brand
    np.testing.assert_array_equal(np.repeat(world.pair_keys, np.diff(world.pair_products)), keys)


def test_related_kinds_are_near_in_the_tree(world: Catalogue) -> None:
    related = make_tastes(world, 0, np.random.default_rng(0)).related
    for kind, (neighbour, elsewhere) in enumerate(related.tolist()):
        assert KINDS[neighbour][:2] == KINDS[kind][:2]
        assert neighbour != kind
        assert KINDS[elsewhere][0] == KINDS[kind][0]


def test_every_ad_is_shown_inside_of_its_campaign_and_of_the_log(world: Catalogue) -> None:
    assert world.n_ads == N_ADS
    assert set(world.ad_product.tolist()) == set(range(world.n_products))
    start, end = (
        column[world.ad_campaign] for column in (world.campaign_start, world.campaign_end)
    )
    assert (start <= world.ad_start).all()
    np.testing.assert_array_equal(world.ad_end, end)
    assert (world.ad_start < world.ad_end).all()
    assert ((world.ad_start < N_DAYS) & (world.ad_end > 0)).all()
    # A campaign is of one product.
    pairs = set(zip(world.ad_campaign.tolist(), world.ad_product.tolist(), strict=True))
    assert len(pairs) == len(set(world.ad_campaign.tolist()))


def test_ads_arrive_every_day_in_the_order_of_their_numbers(world: Catalogue) -> None:
    assert (np.diff(world.ad_start) >= 0).all()
    assert set(range(N_DAYS)) <= set(world.ad_start.tolist())


def test_popular_products_have_most_of_the_weight_and_more_ads(world: Catalogue) -> None:
    tenth = world.n_products // 10
    top = np.argsort(-world.product_weights)
    assert world.product_weights[top[:tenth]].sum() > 0.4
    counts = np.bincount(world.ad_product, minlength=world.n_products)
    assert counts[top[:tenth]].mean() > 1.5 * counts[top[-tenth:]].mean()


def test_ads_of_one_product_are_closer_in_words_than_others(world: Catalogue) -> None:
    frame = feed_rows(world, np.arange(N_ADS), np.random.default_rng(0))
    bags = [
        set(f"{title} {body}".lower().replace(",", "").replace(".", "").split())
        for title, body in zip(frame["headline"], frame["body"], strict=True)
    ]
    kinds = world.product_kind[world.ad_product]

    def alike(first: np.ndarray, second: np.ndarray) -> float:
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return float(np.mean([len(bags[a] & bags[b]) / len(bags[a] | bags[b]) for a, b in pairs]))

    def neighbours(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        return order[:-1][same], order[1:][same]

    of_product = alike(*neighbours(world.ad_product))
    first, second = neighbours(kinds)
    other = world.ad_product[first] != world.ad_product[second]
    of_kind = alike(first[other], second[other])
    shuffled = np.random.default_rng(1).permutation(N_ADS)
    assert of_product > 1.5 * of_kind
    assert of_kind > 1.5 * alike(np.arange(N_ADS), shuffled)
    # Paraphrased, not copied.
    first, second = neighbours(world.ad_product)
    assert (
        frame["headline"].to_numpy()[first] == frame["headline"].to_numpy()[second]
    ).mean() < 0.1


def test_some_cells_are_missing_but_never_what_an_ad_needs(world: Catalogue) -> None:
    frame = feed_rows(world, np.arange(N_ADS), np.random.default_rng(0))
    empty = (frame == "").mean()
    for name, share in (("body", 0.04), ("brand", 0.03), ("price", 0.03), ("category", 0.01)):
        assert empty[name] == pytest.approx(share, abs=0.012)
        assert empty[name] > 0
    assert empty[["ad_id", "headline", "product", "campaign"]].max() == 0


def test_names_are_distinct() -> None:
    made = names(5000, np.random.default_rng(0)).tolist()
    assert len(set(made)) == 5000
    assert all(name.isalpha() and name[0].isupper() for name in made)


def test_draws_stay_in_their_ranges() -> None:
    sums = np.array([0.0, 1.0, 1.0, 4.0, 6.0])  # weights 1, 0, 3, 2
    first, last = np.array([0, 0, 1, 2, 3]), np.array([4, 4, 3, 4, 4])
    luck = np.array([0.0, 0.99, 0.5, 0.7, 0.9999])
    assert draw_in_ranges(sums, first, last, luck).tolist() == [0, 3, 2, 3, 3]
