"""Amazon reviews as published in 2014, 2018 and 2023, and the known size of some 5-cores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from recbole_sid.preparing.mapping import DataMapping, build_mapping

# Users, items and interactions of the 5-cores of 2014, as papers on sequences report them.
PUBLISHED = {
    "2014": {
        "beauty": (22_363, 12_101, 198_502),
        "sportsandoutdoors": (35_598, 18_357, 296_337),
        "toysandgames": (19_412, 11_924, 167_597),
        "officeproducts": (4_905, 2_420, 53_258),
        "clothingshoesandjewelry": (39_387, 23_033, 278_677),
        "cellphonesandaccessories": (27_879, 10_429, 194_439),
        "videogames": (24_303, 10_672, 231_780),
    }
}
_SHORT = {
    "sports": "sportsandoutdoors",
    "toys": "toysandgames",
    "office": "officeproducts",
    "clothing": "clothingshoesandjewelry",
    "cellphones": "cellphonesandaccessories",
}
# Keys of a review and of an item. In 2023 the items are those of parent_asin, of which the asin is
# one size or colour.
_REVIEW = {
    "2014": {"user_id": "reviewerID", "item_id": "asin", "time": "unixReviewTime"},
    "2018": {"user_id": "reviewerID", "item_id": "asin", "time": "unixReviewTime"},
    "2023": {"user_id": "user_id", "item_id": "parent_asin", "time": "timestamp"},
}
_ITEM = {
    "2014": {"item_id": "asin", "category": "categories", "brand": "brand"},
    "2018": {"item_id": "asin", "category": "category", "brand": "brand"},
    "2023": {"item_id": "parent_asin", "category": "categories", "brand": "store"},
}
_BOTH = {"title": "title", "text": "description", "price": "price"}
YEARS = tuple(_REVIEW)


def amazon_mapping(year: str, reviews: str, meta: str) -> DataMapping:
    """Reviews as interactions of the 5-core, items with title, description, category and so on.

    The metadata of 2014 are Python literals, one a line, all else is JSON lines. Of several
    reviews of one item by one user the first counts. Reviews of items without metadata count too,
    as in the published statistics. Of several category paths (2014) the first one is taken.
    """
    values: dict[str, Any] = {
        "items": {
            "files": meta,
            "format": "literals" if year == "2014" else "jsonl",
            "html": True,
            "absent": "empty",
            "columns": {**_BOTH, **_ITEM[year]},
        },
        "events": {
            "files": reviews,
            "format": "jsonl",
            "time_format": "milliseconds" if year == "2023" else "seconds",
            "repeated": "first",
            "only_known_items": False,
            "columns": _REVIEW[year],
        },
        "minimum": {"user": 5, "item": 5, "core": True},
    }
    return build_mapping(values, f"amazon-{year}")


def category_of(reviews: str) -> str:
    """``Beauty`` from ``reviews_Beauty_5.json.gz``, ``Office_Products_5.json.gz`` and the like."""
    name = Path(reviews).name.split(".")[0]
    return re.sub(r"_5$", "", name.removeprefix("reviews_"))


def compare(year: str, category: str, found: tuple[int, int, int]) -> dict[str, Any] | None:
    """The published users, items and interactions beside ``found``; None if there are none.

    The names of categories are compared without case and signs: ``Sports_and_Outdoors``.
    """
    key = re.sub(r"[^a-z]", "", category.lower())
    published = PUBLISHED.get(year, {}).get(_SHORT.get(key, key))
    if published is None:
        return None
    return {"published": list(published), "found": list(found), "equal": published == found}
