"""What there is to advertise: kinds, brands, products, and the ads with the days they are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_sid.ads.words import TREE, names

ADS_A_PRODUCT = 4
PRODUCTS_A_BRAND = 12
CAMPAIGNS_A_PRODUCT = 2  # at most
SKEW = 0.8  # of popularity by rank
CAMPAIGN_DAYS = 21  # median
SHORTEST, LONGEST = 3, 60
MODEL_NAMES = 20_000

INDUSTRIES = tuple(TREE)
CATEGORIES = tuple((industry, name) for industry, part in TREE.items() for name in part)
KINDS = tuple(
    (industry, category, kind)
    for industry, part in TREE.items()
    for category, kinds in part.items()
    for kind in kinds.split(", ")
)
CATEGORY_OF_KIND = np.array([CATEGORIES.index(path[:2]) for path in KINDS])
INDUSTRY_OF_CATEGORY = np.array([INDUSTRIES.index(path[0]) for path in CATEGORIES])
# Kinds of a category stand together.
FIRST_KIND = np.searchsorted(CATEGORY_OF_KIND, np.arange(len(CATEGORIES) + 1))


@dataclass(frozen=True)
class Catalogue:
    """Everything is numbered; products by kind, then brand, so that those of a group are a range.

    Attributes:
        kind_weights: how much users care for a kind (n_kinds,).
        brand_category, brand_weights, brand_prices, brand_names, brand_advertisers: (n_brands,),
            those of a category together.
        advertisers: their names.
        product_kind, product_brand, product_weights, product_prices, product_companions,
            product_models: (n_products,).
        product_features: places in the industry's list of features, (n_products, 3).
        kind_products: (n_kinds + 1,), the first product of a kind.
        pair_keys, pair_products: kind times n_brands plus brand, rising (n_pairs,), and the first
            product of such a pair (n_pairs + 1,).
        ad_product, ad_campaign, ad_weights: (n_ads,); ads are in the order in which they arrive.
        ad_start, ad_end: the first day of an ad and the day after its last, from the log's first
            day on, which is 0; int64 (n_ads,).
        campaign_start, campaign_end: days too, (n_campaigns,).
    """

    kind_weights: np.ndarray
    brand_category: np.ndarray
    brand_weights: np.ndarray
    brand_prices: np.ndarray
    brand_names: np.ndarray
    brand_advertisers: np.ndarray
    advertisers: np.ndarray
    product_kind: np.ndarray
    product_brand: np.ndarray
    product_weights: np.ndarray
    product_prices: np.ndarray
    product_companions: np.ndarray
    product_models: np.ndarray
    product_features: np.ndarray
    kind_products: np.ndarray
    pair_keys: np.ndarray
    pair_products: np.ndarray
    ad_product: np.ndarray
    ad_campaign: np.ndarray
    ad_weights: np.ndarray
    ad_start: np.ndarray
    ad_end: np.ndarray
    campaign_start: np.ndarray
    campaign_end: np.ndarray

    @property
    def n_ads(self) -> int:
        return len(self.ad_product)

    @property
    def n_products(self) -> int:
        return len(self.product_kind)

    @property
    def n_brands(self) -> int:
        return len(self.brand_category)

    def ad_ids(self, rows: np.ndarray) -> np.ndarray:
        """The raw ids of ads: ad1, ad2 … in the order in which they arrive; object (n,)."""
        return numbered("ad", rows)


def numbered(word: str, rows: np.ndarray) -> np.ndarray:
    """The word with each number behind it, from 1; object (n,)."""
    found = np.empty(len(rows), object)
    found[:] = [f"{word}{row + 1}" for row in rows.tolist()]
    return found


def zipf(n: int, rng: np.random.Generator) -> np.ndarray:
    """Popularity by a random rank, summing to 1: float64 (n,)."""
    weights = (1.0 + rng.permutation(n)) ** -SKEW
    return weights / weights.sum()


def make_catalogue(n_ads: int, n_days: int, rng: np.random.Generator) -> Catalogue:
    """Draw a catalogue of ``n_ads`` ads, each shown on at least one of the ``n_days`` days."""
    n_products = -(-n_ads // ADS_A_PRODUCT)
    kind_weights = zipf(len(KINDS), rng)
    kinds = np.sort(rng.choice(len(KINDS), n_products, p=kind_weights))
    categories = CATEGORY_OF_KIND[kinds]

    per_category = np.bincount(categories, minlength=len(CATEGORIES))
    brands_of = 1 + per_category // PRODUCTS_A_BRAND
    brand_category = np.repeat(np.arange(len(CATEGORIES)), brands_of)
    first_brand = np.concatenate([[0], np.cumsum(brands_of)])
    brand_weights = 1.0 / (1 + np.arange(len(brand_category)) - first_brand[brand_category])
    brands = draw_in_ranges(
        np.concatenate([[0.0], np.cumsum(brand_weights)]),
        first_brand[categories],
        first_brand[categories + 1],
        rng.random(n_products),
    )
    order = np.lexsort((brands, kinds))
    kinds, brands, categories = kinds[order], brands[order], categories[order]

    n_brands = len(brand_category)
    pair_keys, pair_first = np.unique(kinds * n_brands + brands, return_index=True)
    kind_products = np.searchsorted(kinds, np.arange(len(KINDS) + 1))
    category_products = kind_products[FIRST_KIND]
    kind_prices = np.exp(rng.normal(3.5, 1.0, len(KINDS)))
    brand_prices = np.exp(rng.normal(0.0, 0.5, n_brands))
    prices = kind_prices[kinds] * brand_prices[brands] * np.exp(rng.normal(0, 0.2, n_products))
    n_advertisers = -(-n_brands // 2)
    all_names = names(n_brands + n_advertisers, rng)
    product_weights = zipf(n_products, rng)
    lower, upper = category_products[categories], category_products[categories + 1]
    models = names(min(n_products, MODEL_NAMES), rng)
    ads = _ads(n_ads, n_days, product_weights, rng)
    return Catalogue(
        kind_weights=kind_weights,
        brand_category=brand_category,
        brand_weights=brand_weights,
        brand_prices=brand_prices,
        brand_names=all_names[:n_brands],
        brand_advertisers=rng.integers(n_advertisers, size=n_brands),
        advertisers=all_names[n_brands:],
        product_kind=kinds,
        product_brand=brands,
        product_weights=product_weights,
        product_prices=np.round(prices, 2),
        product_companions=rng.integers(lower, upper),
        product_models=models[rng.integers(len(models), size=n_products)],
        product_features=_features(n_products, rng),
        kind_products=kind_products,
        pair_keys=pair_keys,
        pair_products=np.append(pair_first, n_products),
        **ads,
    )


def draw_in_ranges(
    cumulated: np.ndarray, first: np.ndarray, last: np.ndarray, uniform: np.ndarray
) -> np.ndarray:
    """One place in each range [first, last), by the weights whose sums ``cumulated`` holds.

    Args:
        cumulated: weights summed up, from 0 on, (n + 1,).
        first, last: (m,), of ranges that are not empty.
        uniform: numbers in [0, 1), (m,).
    """
    low, high = cumulated[first], cumulated[last]
    found = np.searchsorted(cumulated, low + uniform * (high - low), side="right") - 1
    return np.clip(found, first, last - 1)


def _features(n_products: int, rng: np.random.Generator) -> np.ndarray:
    """Three different ones of twelve features a product."""
    return np.argsort(rng.random((n_products, 12)), axis=1)[:, :3]


def _ads(
    n_ads: int, n_days: int, product_weights: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Campaigns of every product, and its ads in them: popular products have more ads.

    Half of the ads begin with their campaign, the others in its first half.
    """
    n_products = len(product_weights)
    shares = np.sqrt(product_weights)
    counts = 1 + rng.multinomial(n_ads - n_products, shares / shares.sum())
    products = np.repeat(np.arange(n_products), counts)
    campaigns = np.minimum(rng.integers(1, CAMPAIGNS_A_PRODUCT + 1, n_products), counts)
    first_campaign = np.cumsum(campaigns) - campaigns
    n_campaigns = int(campaigns.sum())
    lengths = np.exp(rng.normal(np.log(CAMPAIGN_DAYS), 0.5, n_campaigns))
    lengths = np.clip(np.rint(lengths), SHORTEST, LONGEST).astype(np.int64)
    starts = rng.integers(1 - lengths, n_days)
    place = np.arange(n_ads) - np.repeat(np.cumsum(counts) - counts, counts)
    campaign = first_campaign[products] + place % campaigns[products]
    length = lengths[campaign]
    delay = np.where(rng.random(n_ads) < 0.5, 0, rng.integers(0, length // 2 + 1))
    start = np.minimum(starts[campaign] + delay, n_days - 1)
    end = starts[campaign] + length
    order = np.lexsort((rng.random(n_ads), start))
    weights = product_weights[products] / counts[products] * np.exp(rng.normal(0, 0.5, n_ads))
    return {
        "ad_product": products[order],
        "ad_campaign": campaign[order],
        "ad_weights": weights[order],
        "ad_start": start[order],
        "ad_end": end[order],
        "campaign_start": starts,
        "campaign_end": starts + lengths,
    }
