"""Labels of interactions from the types of events, against rows worked out by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

import recbole_sid
from recbole_sid import cli
from recbole_sid.parsing import read_yaml
from tests.preparing.feeds import INTER, lines_of, make, write_feed

HEADER = "user_id:token\titem_id:token\ttimestamp:float\tlabel:float"
# u1 is shown a1 and clicks on it; u2 is shown a1 twice, without a click, and buys a2 unseen; u1 is
# shown a2 after a click on it. The log is not in the order of time.
LOG = """\
user,ad,type,time
u1,a1,click,12
u1,a1,impression,10
u2,a1,impression,11
u2,a1,impression,20
u2,a2,conversion,15
u1,a2,click,13
u1,a2,impression,14
"""


def labelled(folder: Path, **events: Any) -> dict[str, Any]:
    """The mapping of LOG, all types of which are kept; clicks and conversions are positive."""
    mapping = write_feed(folder)
    (folder / "events.csv").write_text(LOG)
    del mapping["events"]["ignore"]
    mapping["events"] |= {
        "keep": ["impression", "click", "conversion"],
        "positive": ["click", "conversion"],
    } | events
    return mapping


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("first", ["u1\ta1\t10\t1", "u2\ta1\t11\t0", "u1\ta2\t13\t1", "u2\ta2\t15\t1"]),
        ("last", ["u1\ta1\t12\t1", "u1\ta2\t14\t1", "u2\ta2\t15\t1", "u2\ta1\t20\t0"]),
        # Each event has the label of its own type.
        (
            "all",
            ["u1\ta1\t10\t0", "u2\ta1\t11\t0", "u1\ta1\t12\t1", "u1\ta2\t13\t1", "u1\ta2\t14\t0",
             "u2\ta2\t15\t1", "u2\ta1\t20\t0"],
        ),
    ],
)  # fmt: skip
def test_any_positive_event_gives_the_label(
    tmp_path: Path, rule: str, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "recbole_sid"):
        report = make(tmp_path, labelled(tmp_path, repeated=rule))
    assert lines_of(tmp_path, ".inter") == [HEADER, *expected]
    assert report["dropped"]["repeated"] == 7 - len(expected)
    assert report["result"]["interactions"] == len(expected)
    assert report["result"]["positive"] == 3
    said = f"labels: 3 of {len(expected)} interactions are positive"
    assert said in [record.getMessage() for record in caplog.records]
    config = read_yaml(tmp_path / "out" / "ads" / "ads.yaml")
    assert config["LABEL_FIELD"] == "label"
    assert config["load_col"]["inter"] == ["user_id", "item_id", "timestamp", "label"]


def test_the_command_says_how_many_are_positive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ads.yaml").write_text(yaml.safe_dump(labelled(tmp_path)))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["prepare", "--mapping=ads.yaml", "--output=out"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "users: 2", "items with interactions: 2", "interactions: 4", "positive: 3",
        "folder: out/ads",
    ]  # fmt: skip


def test_conversions_alone_may_be_positive(tmp_path: Path) -> None:
    make(tmp_path, labelled(tmp_path, positive=["conversion"]))
    assert [line.split("\t")[-1] for line in lines_of(tmp_path, ".inter")[1:]] == list("0001")


def test_types_may_be_ignored_beside_labels(tmp_path: Path) -> None:
    log = {"keep": ["impression", "click"], "ignore": ["conversion"], "positive": ["click"]}
    make(tmp_path, labelled(tmp_path, **log))
    assert lines_of(tmp_path, ".inter")[1:] == ["u1\ta1\t10\t1", "u2\ta1\t11\t0", "u1\ta2\t13\t1"]


def test_least_numbers_count_rows_of_either_label(tmp_path: Path) -> None:
    # Users and items have two rows each, a1 and u2 one of either label; u3 and a3 have one.
    mapping = labelled(tmp_path)
    (tmp_path / "events.csv").write_text(LOG + "u3,a3,click,16\n")
    mapping["minimum"] = {"user": 2, "item": 2}
    report = make(tmp_path, mapping)
    assert len(lines_of(tmp_path, ".inter")) == 5
    assert report["dropped"]["minimum"] == 1
    assert report["result"]["positive"] == 3


def test_a_label_outlives_bad_rows_and_unknown_items(tmp_path: Path) -> None:
    mapping = labelled(tmp_path)
    bad = "u2,a1,click,-1\nu2,a1,clik,21\nu2,zz,click,22\n"
    (tmp_path / "events.csv").write_text(LOG + bad)
    report = make(tmp_path, mapping)
    assert report["events"]["rejected"] == {"negative time": 1, "unknown event type": 1}
    assert report["dropped"]["unknown_items"] == 1
    assert lines_of(tmp_path, ".inter")[2] == "u2\ta1\t11\t0"  # a bad row gives no label


@pytest.mark.parametrize("given", [{}, {"positive": []}])
def test_without_positive_types_there_are_no_labels(tmp_path: Path, given: dict[str, Any]) -> None:
    mapping = write_feed(tmp_path)
    mapping["events"] |= given
    report = make(tmp_path, mapping)
    assert lines_of(tmp_path, ".inter") == INTER
    assert "positive" not in report["result"]
    assert lines_of(tmp_path, ".yaml")[1:6] == [
        "USER_ID_FIELD: user_id",
        "ITEM_ID_FIELD: item_id",
        "TIME_FIELD: timestamp",
        "load_col:                         # RecBole reads ids alone, the SIDs the texts too",
        "  inter: [user_id, item_id, timestamp]",
    ]


def test_recbole_learns_from_the_labels(tmp_path: Path, cache: str) -> None:
    mapping = labelled(tmp_path)
    items = "".join(f"a{n},Thing {n},x,1\n" for n in range(12))
    (tmp_path / "items.csv").write_text("ad,title,path,price\n" + items)
    # Each user is shown eight ads; those of even numbers are clicked on.
    shown = [(user, (user + 5 * n) % 12, 100 * n) for user in range(10) for n in range(8)]
    rows = [f"u{user},a{ad},impression,{time}\n" for user, ad, time in shown]
    rows += [f"u{user},a{ad},click,{time + 5}\n" for user, ad, time in shown if ad % 2 == 0]
    (tmp_path / "events.csv").write_text("user,ad,type,time\n" + "".join(rows))
    report = make(tmp_path, mapping)
    assert (report["result"]["positive"], report["result"]["interactions"]) == (40, 80)
    folder = tmp_path / "out"
    result = recbole_sid.run(
        "R2LED",
        "ads",
        config_file_list=[str(folder / "ads" / "ads.yaml")],
        config_dict={
            "data_path": str(folder), "cache_dir": cache, "output": str(tmp_path / "run"),
            "tokenizer": "random", "tokenizer_codebook_size": 4, "tokenizer_levels": 2,
            "embedding_size": 4, "MAX_ITEM_LIST_LENGTH": 5, "history_labels": True,
            "learning_rate": 0.03, "train_batch_size": 16, "epochs": 10, "show_progress": False,
        },
    )  # fmt: skip
    assert result["test_result"]["auc"] > 0.9
