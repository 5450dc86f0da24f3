"""What the ads say: one row of the feed an ad, paraphrased among the ads of a product."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.random import Generator

from recbole_sid.ads.catalogue import (
    CATEGORY_OF_KIND,
    INDUSTRIES,
    INDUSTRY_OF_CATEGORY,
    KINDS,
    Catalogue,
    numbered,
)
from recbole_sid.ads.words import BODIES, CALLS, FEATURES, OFFERS, TITLES

MISSPELT = 0.05  # titles
MISSING = {"body": 0.04, "brand": 0.03, "price": 0.03, "category": 0.01}
SEPARATOR = " > "

_PATHS = np.array([SEPARATOR.join(path) for path in KINDS], object)
_INDUSTRIES = np.array(INDUSTRIES, object)
_FEATURES = np.array([part.split(", ") for part in FEATURES.values()], object)  # (industries, 12)


def feed_rows(world: Catalogue, rows: np.ndarray, rng: Generator) -> pd.DataFrame:
    """The ads ``rows`` as columns ad_id, headline, body, industry, category, brand, advertiser,
    price, landing_page, campaign and product."""
    products = world.ad_product[rows]
    kinds, brands = world.product_kind[products], world.product_brand[products]
    industries = INDUSTRY_OF_CATEGORY[CATEGORY_OF_KIND[kinds]]
    # Another order of the features in every ad.
    mixed = rng.permuted(world.product_features[products], axis=1)
    first, second, third = _FEATURES[industries[:, None], mixed].T.tolist()
    brand = world.brand_names[brands]
    advertisers = world.advertisers[world.brand_advertisers[brands]]
    words = zip(
        rng.integers(len(TITLES), size=len(rows)).tolist(),
        rng.integers(len(BODIES), size=len(rows)).tolist(),
        brand,
        world.product_models[products],
        kinds.tolist(),
        first,
        second,
        third,
        rng.integers(len(OFFERS), size=len(rows)).tolist(),
        rng.integers(len(CALLS), size=len(rows)).tolist(),
        strict=True,
    )
    titles, bodies = [], []
    for title, body, name, model, kind, one, two, three, offer, call in words:
        given = {
            "brand": name,
            "model": model,
            "kind": KINDS[kind][2],
            "category": KINDS[kind][1],
            "first": one,
            "second": two,
            "third": three,
            "offer": OFFERS[offer],
            "call": CALLS[call],
        }
        titles.append(_capital(TITLES[title].format_map(given)))
        bodies.append(_capital(BODIES[body].format_map(given)))
    for row in np.flatnonzero(rng.random(len(rows)) < MISSPELT).tolist():
        titles[row] = _misspelt(titles[row], rng)
    pages = [
        f"https://www.{advertiser.lower()}.example/{KINDS[kind][2].replace(' ', '-')}"
        for advertiser, kind in zip(advertisers, kinds.tolist(), strict=True)
    ]
    # Prices of one product differ a little from ad to ad.
    prices = world.product_prices[products] * rng.uniform(0.95, 1.05, len(rows))
    columns = {
        "ad_id": world.ad_ids(rows),
        "headline": titles,
        "body": bodies,
        "industry": _INDUSTRIES[industries],
        "category": _PATHS[kinds],
        "brand": brand,
        "advertiser": advertisers,
        "price": [f"{price:.2f}" for price in prices.tolist()],
        "landing_page": pages,
        "campaign": numbered("c", world.ad_campaign[rows]),
        "product": numbered("p", products),
    }
    frame = pd.DataFrame(columns, dtype=object)
    for name, share in MISSING.items():
        frame.loc[rng.random(len(rows)) < share, name] = ""
    return frame


def paths(world: Catalogue, rows: np.ndarray) -> np.ndarray:
    """The true category path of ads: object (n,)."""
    return _PATHS[world.product_kind[world.ad_product[rows]]]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _misspelt(text: str, rng: Generator) -> str:
    """Two neighbouring letters change places."""
    place = int(rng.integers(1, len(text) - 1))
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
