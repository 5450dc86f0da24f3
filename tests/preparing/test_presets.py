"""Amazon and Taobao in the formats in which they are published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from recbole_sid.preparing import prepare
from recbole_sid.preparing.amazon import PUBLISHED, category_of, compare

USERS, ITEMS = range(5), range(5)
DAY = 86_400


def reviews(year: str) -> str:
    """Five users on five items, in the order of the items as the published files are; one more."""
    rows: list[dict[str, Any]] = []
    for item in [*ITEMS, 9]:
        for user in USERS if item != 9 else [0]:
            seconds = 1_000_000_000 + (item + user) % 5 * DAY
            if year == "2023":
                rows.append(
                    {"rating": 5.0, "title": "Good", "text": "It is.", "images": [],
                     "asin": f"variant of B{item}", "parent_asin": f"B{item}",
                     "user_id": f"U{user}", "timestamp": seconds * 1000 + 250,
                     "helpful_vote": 0, "verified_purchase": True}
                )  # fmt: skip
            else:
                rows.append(
                    {"reviewerID": f"U{user}", "asin": f"B{item}", "reviewerName": 'A "B" C',
                     "helpful": [0, 0], "reviewText": "Fine\nand dandy", "overall": 5.0,
                     "summary": "ok", "unixReviewTime": seconds, "reviewTime": "09 9, 2001"}
                )  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


# Single quotes, as Python prints a dictionary; B4 has no metadata and B7 no reviews.
META_2014 = """\
{'asin': 'B0', 'title': 'Men\\'s comb &amp; brush', 'price': 5.99, 'imUrl': 'http://x/0.jpg', \
'salesRank': {'Beauty': 7}, 'categories': [['Beauty', 'Hair Care', 'Styling > Tools'], ['Gifts']]}
{'asin': 'B1', 'description': "A 'good' one.", 'brand': 'Acme', 'categories': [['Beauty']]}
{'asin': 'B2', 'title': '"Best" soap', 'price': 3, 'brand': '', 'categories': [['Beauty', 'Bath']]}
{'asin': 'B3', 'title': __import__('os').getcwd()}
{'asin': 'B3', 'title': 'Oil', 'related': {'also_bought': ['B0']}, 'categories': [[]]}
{'asin': 'B7', 'title': 'Nobody bought it', 'categories': [['Beauty']]}
"""
META_2018 = [
    {"asin": "B0", "title": "Comb", "category": ["Beauty", "Hair Care"], "price": "$5.99",
     "description": ["One.", "Two."], "brand": "Acme", "also_buy": [], "rank": "7 in Beauty"},
    {"asin": "B1", "title": "Soap", "category": [], "price": "$1 - $2", "description": []},
]  # fmt: skip
META_2023 = [
    {"parent_asin": "B0", "main_category": "All Beauty", "title": "Comb", "store": "Acme",
     "price": 5.99, "description": ["One.", "Two."], "categories": ["Beauty", "Hair"],
     "features": ["x"], "images": [{"large": "http://x"}], "details": {"Size": "1"}},
    {"parent_asin": "B1", "main_category": None, "title": "Soap", "store": None, "price": None,
     "description": [], "categories": []},
]  # fmt: skip


def amazon(folder: Path, year: str) -> tuple[dict[str, Any], list[str], list[list[str]]]:
    """The report, the interactions and the cells of the items."""
    names = {
        "2014": "reviews_Beauty.json.gz",
        "2018": "Beauty_5.json.gz",
        "2023": "Beauty.jsonl.gz",
    }
    metas = {
        "2014": META_2014,
        "2018": "".join(json.dumps(row) + "\n" for row in META_2018),
        "2023": "".join(json.dumps(row) + "\n" for row in META_2023),
    }
    (folder / names[year]).write_bytes(gzip.compress(reviews(year).encode()))
    (folder / "meta.json.gz").write_bytes(gzip.compress(metas[year].encode()))
    report = prepare(
        folder / "out",
        preset=f"amazon-{year}",
        reviews=str(folder / names[year]),
        meta=str(folder / "meta.json.gz"),
    )
    made = folder / "out" / "Beauty"
    inter = (made / "Beauty.inter").read_text().splitlines()
    items = [line.split("\t") for line in (made / "Beauty.item").read_text().splitlines()]
    return report, inter, items


COLUMNS = ["item_id:token", "title:token", "text:token", "category:token", "brand:token",
           "price:float"]  # fmt: skip


def test_amazon_2014(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report, inter, items = amazon(tmp_path, "2014")
    # The one review of B9 is not in the 5-core, the other 25 are it.
    assert len(inter) == 1 + 25
    # On the first day, in the order of the file: (item + user) % 5 == 0.
    assert inter[1:6] == [f"U{-item % 5}\tB{item}\t1000000000" for item in ITEMS]
    assert items == [
        COLUMNS,
        ["B0", "Men's comb & brush", "", "Beauty > Hair Care > Styling / Tools", "", "5.99"],
        ["B1", "", "A 'good' one.", "Beauty", "Acme", ""],
        ["B2", "''Best'' soap", "", "Beauty > Bath", "", "3"],
        ["B3", "Oil", "", "", "", ""],
        ["B4", "", "", "", "", ""],
    ]
    # Code is never run, not even to say what it gives.
    assert report["items"]["rejected"] == {"not a Python literal": 1}
    assert report["result"]["item_file"]["without_row"] == 1
    assert report["statistics"] == {
        "published": [22_363, 12_101, 198_502], "found": [5, 5, 25], "equal": False
    }  # fmt: skip
    assert "[5, 5, 25], but the published ones of 2014 Beauty are [22363, 12101, 198502]" in (
        caplog.text
    )


def test_amazon_2018(tmp_path: Path) -> None:
    report, inter, items = amazon(tmp_path, "2018")
    assert len(inter) == 26
    assert items[:3] == [
        COLUMNS,
        ["B0", "Comb", "One. Two.", "Beauty > Hair Care", "Acme", "5.99"],
        ["B1", "Soap", "", "", "", ""],
    ]
    assert report["items"]["prices_not_understood"] == 1
    assert report["statistics"] is None


def test_amazon_2023(tmp_path: Path) -> None:
    report, inter, items = amazon(tmp_path, "2023")
    assert inter[1] == "U0\tB0\t1000000000.25"
    assert items[:3] == [
        COLUMNS,
        ["B0", "Comb", "One. Two.", "Beauty > Hair", "Acme", "5.99"],
        ["B1", "Soap", "", "", "", ""],
    ]
    assert report["result"]["first_time"] == "2001-09-09T01:46:40.250000Z"


@pytest.mark.parametrize(
    ("file", "category"),
    [
        ("data/reviews_Toys_and_Games_5.json.gz", "Toys_and_Games"),
        ("Office_Products_5.json", "Office_Products"),
        ("All_Beauty.jsonl.gz", "All_Beauty"),
        ("reviews_Beauty.json", "Beauty"),
    ],
)
def test_the_category_is_in_the_name(file: str, category: str) -> None:
    assert category_of(file) == category


def test_published_statistics() -> None:
    beauty = (22_363, 12_101, 198_502)
    assert compare("2014", "Beauty", beauty) == {
        "published": list(beauty), "found": list(beauty), "equal": True
    }  # fmt: skip
    assert compare("2018", "Beauty", beauty) is None
    for name in ("Sports_and_Outdoors", "sports", "Sports"):
        found = compare("2014", name, beauty)
        assert found is not None
        assert (found["published"], found["equal"]) == ([35_598, 18_357, 296_337], False)
    # Every user and item of a 5-core has five.
    for users, items, interactions in PUBLISHED["2014"].values():
        assert interactions >= 5 * max(users, items)


def test_taobao(tmp_path: Path) -> None:
    log = ["user,time_stamp,adgroup_id,pid,nonclk,clk"]
    for user in USERS:
        log += [f"{user},{1494137644 + ad},{ad},430548_1007,0,1" for ad in ITEMS]
        log.append(f"{user},1494137644,7,430548_1007,1,0")
    (tmp_path / "raw_sample.csv.gz").write_bytes(gzip.compress("\n".join(log).encode()))
    ads = ["adgroup_id,cate_id,campaign_id,customer,brand,price"]
    ads += [f"{ad},6261,8339{ad},1,{'NULL' if ad else 95471},170.0" for ad in [*ITEMS, 7]]
    (tmp_path / "ad_feature.csv").write_text("\n".join(ads))
    report = prepare(tmp_path / "out", preset="taobao", folder=str(tmp_path))
    made = tmp_path / "out" / "taobao"
    assert (made / "taobao.item").read_text().splitlines()[:3] == [
        "item_id:token\tcategory:token\tbrand:token\tprice:float\tcampaign:token\tcustomer:token",
        "0\t6261\t95471\t170.0\t83390\t1",
        "1\t6261\t\t170.0\t83391\t1",
    ]
    assert len((made / "taobao.inter").read_text().splitlines()) == 26
    assert report["events"]["types"] == {"0": 5, "1": 25}
    config = (made / "taobao.yaml").read_text()
    assert "item_text_fields: [campaign, customer]" in config
    assert (
        '"[Campaign: {campaign}. ][Customer: {customer}. ][Brand: {brand}. ]'
        '[Category: {category}. ][Price: {price}. ]"'
    ) in config
