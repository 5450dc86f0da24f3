"""A world small enough to count through by hand."""

from __future__ import annotations

import numpy as np

from recbole_sid.ads.catalogue import KINDS, Catalogue
from recbole_sid.ads.live import State, Tastes, make_tastes

NAMES = np.array(["A", "B"], object)


def tiny() -> Tastes:
    """Tea cups: product 0 of brand 0 and 1 of brand 1. Dinner plates: product 2 of brand 0.

    Ads 0 and 1 are of product 0, 2 of 1, 3 of 2, with weights 1, 3, 2 and 4; everybody likes brand
    0. Ad 3 is shown on day 0 alone, the others on days 0 and 1.
    """
    kind_products = np.array([0, 2, *[3] * (len(KINDS) - 1)])
    world = Catalogue(
        kind_weights=np.eye(len(KINDS))[0],
        brand_category=np.array([0, 0]),
        brand_weights=np.array([1.0, 0.0]),
        brand_prices=np.ones(2),
        brand_names=NAMES,
        brand_advertisers=np.array([0, 1]),
        advertisers=NAMES,
        product_kind=np.array([0, 0, 1]),
        product_brand=np.array([0, 1, 0]),
        product_weights=np.ones(3),
        product_prices=np.ones(3),
        product_companions=np.array([1, 2, 0]),
        product_models=np.array(["Vela", "Zora", "Kira"], object),
        product_features=np.array([[0, 1, 2]] * 3),
        kind_products=kind_products,
        pair_keys=np.array([0, 1, 2]),
        pair_products=np.array([0, 1, 2, 3]),
        ad_product=np.array([0, 0, 1, 2]),
        ad_campaign=np.arange(4),
        ad_weights=np.array([1.0, 3.0, 2.0, 4.0]),
        ad_start=np.zeros(4, np.int64),
        ad_end=np.array([2, 2, 2, 1]),
        campaign_start=np.zeros(4, np.int64),
        campaign_end=np.array([2, 2, 2, 1]),
    )
    return make_tastes(world, seed=0, rng=np.random.default_rng(0))


def state(product: int, kind: int, opening: bool = False, interests: tuple = (0, 0, 1, 1)) -> State:
    """Of a single user."""
    return State(
        np.array([0]), np.array([product]), np.array([kind]), np.array([opening]),
        np.array([interests]),
    )  # fmt: skip
