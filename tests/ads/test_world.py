"""``make_ads``: what it writes, and that it is what it says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_sid.ads import make_ads
from recbole_sid.ads.world import EPOCH
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.items.prompt import Prompt
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.items.vectors import load_item_vectors
from recbole_sid.parsing import read_yaml
from recbole_sid.preparing import prepare
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build

SIZES = {"items": 600, "users": 150, "events": 12_000, "days": 30, "image_dimensions": 16}
DAY = 86_400


def make(folder: Path, **changes: Any) -> dict[str, Any]:
    return make_ads(folder, **({"progress": False, "seed": 7} | SIZES | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ads") / "world"
    make(folder)
    return folder


@pytest.fixture(scope="module")
def feed(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "ads.csv").set_index("ad_id")


@pytest.fixture(scope="module")
def log(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "events.csv")


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return prepare(tmp_path_factory.mktemp("data"), folder / "synthetic-ads.yaml")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)
    make(tmp_path / "other", seed=8)
    other = contents(tmp_path / "other")
    for name in ("ads.csv", "events.csv", "truth.csv", "image_vectors.npy"):
        assert other[name] != contents(folder)[name]


def test_the_counts_are_those_asked_for(
    folder: Path, feed: pd.DataFrame, log: pd.DataFrame
) -> None:
    assert len(feed) == SIZES["items"]
    assert feed.index.is_unique
    assert len(log) == SIZES["events"]
    assert log["user"].nunique() == SIZES["users"]
    types = {"impression": 12_000 - 3600 - 288, "click": 3600, "conversion": 288}
    assert log["event"].value_counts().to_dict() == types
    world = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    assert world["settings"] == SIZES | {"seed": 7}
    assert {f"{name}s": count for name, count in types.items()}.items() <= world["counts"].items()
    assert world["counts"]["products"] == feed["product"].nunique() == 150
    for name in ("world.json", "README.txt", "synthetic-ads.yaml"):
        assert "SYNTHETIC" in (folder / name).read_text(encoding="utf-8")


def test_every_event_is_on_a_day_on_which_its_ad_is_shown(
    feed: pd.DataFrame, log: pd.DataFrame
) -> None:
    assert log["time"].is_monotonic_increasing
    assert log["time"].between(EPOCH, EPOCH + 30 * DAY - 1).all()
    of_event = feed.loc[log["ad_id"]]
    assert (log["time"].to_numpy() >= of_event["start"].to_numpy()).all()
    assert (log["time"].to_numpy() <= of_event["end"].to_numpy()).all()
    # As RecBole keeps the times of what becomes an interaction.
    clicks = (log["event"] == "click").to_numpy()
    kept = log["time"].to_numpy(np.float32).astype(np.float64)[clicks]
    assert (kept >= of_event["start"].to_numpy()[clicks]).all()
    assert (kept <= of_event["end"].to_numpy()[clicks]).all()


def test_the_truth_is_that_of_the_feed(folder: Path, feed: pd.DataFrame) -> None:
    truth = pd.read_csv(folder / "truth.csv").set_index("ad_id")
    assert truth.index.equals(feed.index)
    assert truth["product"].equals(feed["product"])
    known = feed["category"].notna()
    assert 0 < (~known).sum() < 20
    assert truth["category"][known].equals(feed["category"][known])
    assert truth["category"].str.count(" > ").eq(2).all()
    assert (truth["campaign_start"] <= feed["start"]).all()
    assert (truth["campaign_end"] == feed["end"]).all()
    assert (EPOCH + truth["arrival_day"] * DAY == feed["start"]).all()
    assert truth.groupby("product")["category"].nunique().eq(1).all()


def test_a_click_follows_its_impression_and_a_conversion_its_click(log: pd.DataFrame) -> None:
    for before, after, longest in (("impression", "click", 9), ("click", "conversion", 600)):
        keys = ["user", "ad_id"]
        first, second = (log[log["event"] == kind] for kind in (before, after))
        both = pd.merge_asof(
            second.assign(at=second["time"]), first.assign(since=first["time"]), on="time", by=keys
        )
        assert (both["at"] - both["since"] <= longest).all()


def test_few_ads_have_most_of_the_clicks(log: pd.DataFrame) -> None:
    counts = log[log["event"] == "click"]["ad_id"].value_counts()
    assert counts.iloc[:60].sum() > 0.35 * counts.sum()  # a tenth of the ads


def test_clicks_of_a_user_go_together(feed: pd.DataFrame, log: pd.DataFrame, folder: Path) -> None:
    truth = pd.read_csv(folder / "truth.csv").set_index("ad_id")
    clicks = log[log["event"] == "click"]
    category = truth["category"].str.rsplit(" > ", n=1).str[0]
    same, product, pairs = 0, 0, 0
    for _, ads in clicks.groupby("user")["ad_id"]:
        for first, second in pairwise(ads):
            same += category[first] == category[second]
            product += truth["product"][first] == truth["product"][second]
            pairs += 1
    shares = category[clicks["ad_id"]].value_counts(normalize=True)
    assert same / pairs > 3 * (shares**2).sum()
    assert product / pairs > 0.15


def test_the_oracle_is_far_above_popularity_and_agrees_with_itself(folder: Path) -> None:
    oracle = json.loads((folder / "world.json").read_text(encoding="utf-8"))["oracle"]
    assert oracle["clicks"] > 150
    assert oracle["hr@1"] < oracle["hr@5"] < oracle["hr@10"] < oracle["hr@20"] < 1
    for k in (1, 5, 10, 20):
        assert oracle[f"hr@{k}"] == pytest.approx(oracle[f"expected_hr@{k}"], abs=0.1)
    assert oracle["hr@10"] > 2 * oracle["popular_hr@10"]


def test_vectors_are_nearest_among_ads_of_a_product(folder: Path, feed: pd.DataFrame) -> None:
    tokens = tuple(feed.index)
    vectors = load_item_vectors(folder / "image_vectors.npy", folder / "image_ids.txt", tokens)
    assert vectors.shape == (600, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    products, kinds = feed["product"].to_numpy(), feed["landing_page"].to_numpy()
    cosines = vectors @ vectors.T
    same = products[:, None] == products[None, :]
    kind = (kinds[:, None] == kinds[None, :]) & ~same
    own = np.eye(600, dtype=bool)
    assert cosines[same & ~own].mean() > cosines[kind].mean() + 0.1
    assert cosines[kind].mean() > cosines[~same & ~kind].mean() + 0.3


def test_prepare_makes_a_data_set_of_it(prepared: dict[str, Any]) -> None:
    assert prepared["name"] == "synthetic-ads"
    assert prepared["items"]["rejected"] == prepared["events"]["rejected"] == {}
    assert prepared["result"]["item_file"]["items"] == SIZES["items"]
    assert prepared["events"]["kept"] == 3600 + 288
    item_file = Path(prepared["folder"]) / "synthetic-ads.item"
    header = item_file.read_text(encoding="utf-8").split("\n")[0].split("\t")
    assert {"available_from:float", "available_until:float", "product:token"} <= set(header)


def test_the_text_holds_no_truth_and_no_times(prepared: dict[str, Any]) -> None:
    made = Path(prepared["folder"])
    defaults = read_yaml(resource_dir("properties") / "items.yaml")
    # What prepare writes, and what is shipped.
    for file in (
        made / "synthetic-ads.yaml",
        resource_dir("dataset_configs") / "synthetic-ads.yaml",
    ):
        values = defaults | read_yaml(file)
        fields = build(ItemFields, values)
        assert not {"product", "campaign", "available_from"} & set(fields.columns)
        table = ItemTable.read(made / "synthetic-ads.item", "item_id", fields.columns)
        (text, *_) = Prompt(values["prompt_template"], fields).render(table)
        assert table.columns["title"][0] in text
        assert {len(path) for path in table.category_paths(fields)} == {0, 3}


def test_its_settings_are_found_by_name(prepared: dict[str, Any]) -> None:
    data_path = str(Path(prepared["folder"]).parent)
    config = Config(model="TIGER", dataset="synthetic-ads", config_dict={"data_path": data_path})
    assert config["item_text_fields"] == ["title", "text", "advertiser"]
    assert config["item_industry_field"] == "industry"


def test_an_existing_world_is_replaced_only_when_told(folder: Path, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=r"ads\.csv' exists: --overwrite replaces it"):
        make(tmp_path)
    make(tmp_path, seed=8, image_dimensions=0, overwrite=True)
    assert sorted(contents(tmp_path)) == [
        "README.txt", "ads.csv", "events.csv", "synthetic-ads.yaml", "truth.csv", "world.json"
    ]  # fmt: skip
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, but --output must be a folder"):
        make(tmp_path / "file")


def test_a_world_of_the_least_size(tmp_path: Path) -> None:
    report = make(tmp_path, items=2, users=1, events=10, days=2)
    assert report["counts"]["clicks"] == 3
    assert report["folder"] == str(tmp_path)
    assert len(pd.read_csv(tmp_path / "events.csv")) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": 1}, "--items is 1, but must be a whole number from 2"),
        ({"items": "60000"}, "--items is '60000', but must be a whole number"),
        ({"items": 2.5}, "--items is 2.5, but must be a whole number"),
        ({"items": True}, "--items is True, but must be a whole number"),
        ({"users": 0}, "--users is 0, but must be a whole number from 1"),
        ({"events": 9}, "--events is 9, but must be a whole number from 10"),
        ({"days": 1}, "--days is 1, but must be a whole number from 2"),
        ({"seed": -1}, "--seed is -1, but must be a whole number from 0"),
        ({"image_dimensions": -1}, "--image_dimensions is -1, but must be"),
        (
            {"users": 3601},
            "--users is 3601, but must be at most 3600, the clicks among --events 12",
        ),
        ({"users": 1, "days": 30}, "but 1 users on 30 days with ads take at most 3000: raise"),
    ],
)
def test_bad_arguments(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        make(tmp_path / "world", **changes)
    assert not (tmp_path / "world").exists()
