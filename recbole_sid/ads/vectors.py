"""Vectors that look like those of the ads' images: near for what is near in the world."""

from __future__ import annotations

import numpy as np

from recbole_sid.ads.catalogue import (
    CATEGORIES,
    CATEGORY_OF_KIND,
    INDUSTRIES,
    INDUSTRY_OF_CATEGORY,
    KINDS,
    Catalogue,
)

# How far the parts of a vector reach, from the industry down to the ad itself.
INDUSTRY, CATEGORY, KIND, PRODUCT, AD = 0.6, 0.6, 0.7, 0.6, 0.3
_NODES, _ADS = 1, 2


def image_vectors(
    world: Catalogue, rows: np.ndarray, dimensions: int, seed: int, chunk: int
) -> np.ndarray:
    """Vectors of length 1 of the ads ``rows``: float32 (n, dimensions).

    Args:
        chunk: the number of this call, so that every chunk of ads has a noise of its own.
    """
    nodes = np.random.default_rng([seed, _NODES])
    industries, categories, kinds = (
        nodes.standard_normal((len(part), dimensions)) for part in (INDUSTRIES, CATEGORIES, KINDS)
    )
    kind = world.product_kind[world.ad_product[rows]]
    category = CATEGORY_OF_KIND[kind]
    found = INDUSTRY * industries[INDUSTRY_OF_CATEGORY[category]]
    found += CATEGORY * categories[category] + KIND * kinds[kind]
    # A product's own part has to be the same in every chunk.
    products, inverse = np.unique(world.ad_product[rows], return_inverse=True)
    own = np.stack(
        [np.random.default_rng([seed, _NODES, p]).standard_normal(dimensions) for p in products]
    )
    noise = np.random.default_rng([seed, _ADS, chunk]).standard_normal(found.shape)
    found += PRODUCT * own[inverse] + AD * noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
