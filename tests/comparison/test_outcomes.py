"""Outcomes by hand, on disk, and the same metrics as the run that wrote them."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import recbole_sid
from recbole_sid import InputError
from recbole_sid.comparison.outcomes import Outcomes, load_outcomes, save_outcomes
from tests.runs import SMALL, write_data
from tests.sealing import write_tensors

ROWS = Outcomes(
    ("u", "é", "w"),
    ("", "a", "b", "c"),
    np.array([1, 2, 3], np.int32),
    np.array([2, 0, 1], np.int32),
    np.array([1, 1, 3], np.int32),
    np.array([[2, 1], [1, 3], [3, 1]], np.int32),
)


def test_metrics_by_hand():
    assert ROWS.per_user("recall", 1).tolist() == pytest.approx([0, 0, 1 / 3])
    assert ROWS.per_user("hit", 2).tolist() == pytest.approx([1, 0, 2 / 3])
    # Three tied items from place 1 on: 1, 1/2 or (beyond the list) 0, each with 1/3.
    assert ROWS.per_user("mrr", 2).tolist() == pytest.approx([1 / 2, 0, 1.5 / 3])
    second = 1 / np.log2(3)
    assert ROWS.per_user("ndcg", 2).tolist() == pytest.approx([second, 0, (1 + second) / 3])
    assert ROWS.mean("recall", 2) == pytest.approx((1 + 2 / 3) / 3)
    for metric, k in (("map", 1), ("recall", 3), ("recall", 0)):
        with pytest.raises(InputError, match="cannot be told"):
            ROWS.per_user(metric, k)


def test_a_file_gives_back_what_was_written(tmp_path):
    save_outcomes(tmp_path / "o.safetensors", ROWS)
    read = load_outcomes(tmp_path / "o.safetensors")
    assert (read.users, read.items) == (ROWS.users, ROWS.items)
    for name in ("targets", "ranks", "ties", "lists"):
        assert np.array_equal(getattr(read, name), getattr(ROWS, name))
    with pytest.raises(InputError, match="cannot be read"):
        load_outcomes(tmp_path / "none.safetensors")
    (tmp_path / "bad").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="has no checksum"):
        load_outcomes(tmp_path / "bad")
    write_tensors(tmp_path / "bad", {"targets": ROWS.targets})
    with pytest.raises(InputError, match="does not hold the outcomes"):
        load_outcomes(tmp_path / "bad")


def agrees(folder: Path, result: dict) -> None:
    outcomes = load_outcomes(folder / "outcomes.safetensors")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for k in config["topk"]:
        for metric in ("recall", "ndcg", "mrr", "hit"):
            figure = result["test_result"][f"{metric}@{k}"]
            assert round(outcomes.mean(metric, k), config["metric_decimal_place"]) == figure


def test_tied_items_are_credited_as_in_the_run(tmp_path, cache):
    settings = {
        **SMALL,
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
        "collision": "none",
        "tokenizer_levels": 1,
        "metric_decimal_place": 9,
    }
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    assert load_outcomes(tmp_path / "run" / "outcomes.safetensors").ties.max() > 1
    agrees(tmp_path / "run", result)


def test_a_target_that_no_list_can_hold_is_kept_as_a_miss(tmp_path, cache):
    orders = {"u0": "abcda", "u1": "bcdeb", "u2": "cdeab"}
    rows = [(user, item, n) for user, order in orders.items() for n, item in enumerate(order)]
    settings = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    settings |= write_data(tmp_path / "data", rows)
    settings |= {"cache_dir": cache, "output": str(tmp_path / "run"), "exclude_history": True}
    settings |= {"topk": [1], "valid_metric": "NDCG@1"}
    recbole_sid.run("TIGER", "made", config_dict=settings)
    outcomes = load_outcomes(tmp_path / "run" / "outcomes.safetensors")
    named = dict(zip(outcomes.users, [outcomes.items[t] for t in outcomes.targets], strict=True))
    assert named == {"u0": "a", "u1": "b", "u2": "b"}
    ranks = dict(zip(outcomes.users, outcomes.ranks.tolist(), strict=True))
    # u0 and u1 had theirs before; u2 has one item left, its target.
    assert ranks == {"u0": 0, "u1": 0, "u2": 1}


def test_no_outcomes_where_a_row_has_several_targets(tmp_path):
    settings = {
        "user_inter_num_interval": "[20,30]",
        "show_progress": False,
        "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user"},
        "output": str(tmp_path / "run"),
    }
    recbole_sid.run("Pop", "ml-100k", config_dict=settings)
    assert (tmp_path / "run" / "result.json").is_file()
    assert not (tmp_path / "run" / "outcomes.safetensors").exists()
