"""Ads from their files to recommendations: the example of the README, and ads without any text."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import recbole_sid
from recbole_sid import cli
from recbole_sid.preparing import prepare

ROOT = Path(__file__).parents[1]
# As they stand in the README.
COMMANDS = (
    "python run_recbole_sid.py prepare --mapping=examples/ads/mapping.yaml --output=data "
    "--name=example-ads",
    'python run_recbole_sid.py --config_files="data/example-ads/example-ads.yaml '
    'examples/ads/run.yaml" --output=runs/example-ads',
    "python run_recbole_sid.py recommend --run=runs/example-ads "
    "--histories=examples/ads/histories.jsonl --k=5 --output=ads.jsonl",
)
# Any text encoder does; float32 needs no processor with bf16.
SMALL = ["--epochs=1", "--text_encoder_precision=float32", "--show_progress=False"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example, which is the working folder, and a cache of its own."""
    monkeypatch.setenv("RECBOLE_SID_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_commands_lead_to_recommendations(work: Path) -> None:
    shutil.copytree(ROOT / "examples", work / "examples")
    size = sum(file.stat().st_size for file in (work / "examples" / "ads").iterdir())
    assert size < 300_000
    prepares, runs, recommends = (shlex.split(command)[2:] for command in COMMANDS)

    assert cli.main(prepares) == 0
    made = work / "data" / "example-ads"
    report = json.loads((made / "example-ads.report.json").read_text())
    assert report["items"]["items"] == 96
    assert report["items"]["rejected"] == report["events"]["rejected"] == {}
    header, *rows = (made / "example-ads.item").read_text().splitlines()
    assert header.split("\t")[-2:] == ["starts:float", "ends:float"]

    assert cli.main([*runs, *SMALL]) == 0
    folder = work / "runs" / "example-ads"
    used = yaml.safe_load((folder / "config.yaml").read_text())
    assert (used["model"], used["dataset"], used["epochs"]) == ("TIGER", "example-ads", 1)
    # When a campaign runs is no part of what its ad says.
    log = (folder / "run.log").read_text(encoding="utf-8")
    assert "Item texts: made from title, brand, category, price\n" in log

    assert cli.main(recommends) == 0
    lists = [json.loads(line) for line in (work / "ads.jsonl").read_text().splitlines()]
    assert [row["user"] for row in lists] == ["u001", "u002", "u003", "somebody new"]
    known = {row.split("\t")[0] for row in rows}
    assert len(known) == 96
    assert all(len(set(row["items"])) == 5 and set(row["items"]) <= known for row in lists)


def taobao(folder: Path) -> None:
    """Ads and a log in the published format: 24 ads of four categories, no text anywhere."""
    ads = ["adgroup_id,cate_id,campaign_id,customer,brand,price"]
    for ad in range(24):
        brand = "NULL" if ad % 5 == 0 else 90_000 + ad % 3
        ads.append(f"{ad},{6000 + ad % 4},{83_000 + ad},{100 + ad % 6},{brand},{10.5 * (ad + 1)}")
    log = ["user,time_stamp,adgroup_id,pid,nonclk,clk"]
    for user in range(30):
        for step in range(6):
            ad = (user + step * (1 + user % 5)) % 24
            log.append(f"{user},{1_494_137_644 + 60 * step + user},{ad},430548_1007,0,1")
        log.append(f"{user},1494137000,{user % 24},430539_1007,1,0")
    (folder / "ad_feature.csv").write_text("\n".join(ads) + "\n")
    (folder / "raw_sample.csv").write_text("\n".join(log) + "\n")


TOKENIZERS: dict[str, dict[str, Any]] = {
    "rqkmeans": {"text_encoder_precision": "float32"},
    "unisid": {
        "tokenizer_epochs": 1,
        "tokenizer_precision": "float32",
        "tokenizer_granularity_min_categories": 1,
        "text_encoder_precision": "float32",
    },
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_ads_of_attributes_alone_get_their_sids(tokenizer: str, work: Path) -> None:
    taobao(work)
    report = prepare("data", preset="taobao", folder=".")
    assert report["items"]["items"] == 24
    recbole_sid.tokenize(
        "TIGER",
        "taobao",
        ["data/taobao/taobao.yaml"],
        config_dict={
            "tokenizer": tokenizer,
            "data_path": "data",
            "output": "made",
            "tokenizer_codebook_size": 4,
            "retrieval": False,
            "show_progress": False,
            **TOKENIZERS[tokenizer],
        },
    )
    log = (work / "made" / "run.log").read_text(encoding="utf-8")
    columns = "campaign, customer, brand, category, price"
    assert f"Item texts: made from {columns}; no text column\n" in log
    columns = "campaign, customer, category, brand, price"
    said = f"Item inputs: made from {columns}; no text column\n"
    assert (said in log) == (tokenizer == "unisid")
    sids = recbole_sid.SemanticIDs.load(work / "made" / "sids.json")
    assert sids.n_items == 24
    assert len({tuple(row) for row in sids.base_codes.tolist()}) > 2
