"""The Taobao display-ad log: ``raw_sample.csv`` and ``ad_feature.csv``, attributes without text."""

from __future__ import annotations

from pathlib import Path

from recbole_sid.errors import InputError
from recbole_sid.preparing.mapping import DataMapping, build_mapping

LOG, ADS = "raw_sample", "ad_feature"


def taobao_mapping(folder: str) -> DataMapping:
    """Clicks as interactions of the 5-core, ads with category, brand, campaign, advertiser, price.

    A repeated click counts once, as the first. Everything is an anonymous number: SIDs come from
    attributes alone.

    Raises:
        InputError: the folder does not hold the two files, plain or gzip.
    """
    return build_mapping(
        {
            "items": {
                "files": _file(folder, ADS),
                "format": "csv",
                "missing": ["NULL"],
                "columns": {
                    "item_id": "adgroup_id",
                    "category": "cate_id",
                    "brand": "brand",
                    "price": "price",
                    "others": {"campaign": "campaign_id", "customer": "customer"},
                },
            },
            "events": {
                "files": _file(folder, LOG),
                "format": "csv",
                "keep": ["1"],
                "ignore": ["0"],
                "time_format": "seconds",
                "repeated": "first",
                "columns": {
                    "user_id": "user",
                    "item_id": "adgroup_id",
                    "event": "clk",
                    "time": "time_stamp",
                },
            },
            "minimum": {"user": 5, "item": 5, "core": True},
        },
        "taobao",
    )


def _file(folder: str, name: str) -> str:
    for suffix in (".csv", ".csv.gz"):
        if (Path(folder) / (name + suffix)).is_file():
            return str(Path(folder) / (name + suffix))
    raise InputError(
        f"the folder '{folder}' has no {name}.csv (or .csv.gz) of the Taobao display-ad log"
    )
