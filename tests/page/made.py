"""Folders of finished work, made by hand, whose figures are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from recbole_sid import run_folder
from recbole_sid.comparison.outcomes import Outcomes, save_outcomes
from recbole_sid.sid.table import SemanticIDs
from tests.runs import LOADED, write_data
from tests.sealing import write_json, write_yaml

EVIL = "</script><script>alert(1)</script>"
TITLES = {
    "i0": EVIL,
    "i1": "<img src=x onerror=alert(2)> & \u2028 \"quoted\" 'so'",
    "i2": "Red tea cups",
    "i3": "Blue tea pot",
    "i4": "Running shoes",
    "i5": "x" * 100,
}
CATEGORIES = {"i2": "home > tea", "i3": "home > tea", "i4": "sport"}
# i2 and i3 share three codes, i4 two with them, i5 the first one; i0 and i1 are by themselves.
CODES = {
    "i0": (0, 0, 0, 0),
    "i1": (1, 0, 0, 0),
    "i2": (2, 1, 1, 0),
    "i3": (2, 1, 1, 1),
    "i4": (2, 1, 3, 0),
    "i5": (2, 2, 0, 0),
}
# Users and their items in the order of time; the last one is the test.
ORDERS = {"u0": "0123", "u1": "1234", "u2": "5402", "u3": "3215"}


# What a comparison says of its data.
AROUND = {
    "grid": None,
    "further_significance": {},
    "counts": {"users": 4, "items": 6, "interactions": 1600, "valid": 3, "test": 4},
    "split_hash": {"test": "ab12"},
    "split_times": None,
    "withheld_items": 0.0,
    "exclude_history": True,
    "targets": {"head": {"users": 3, "items": 2}, "cold": {"users": 1, "items": 4}},
    "cold_below": 5,
}


def data_set(folder: Path) -> dict[str, Any]:
    """The six items and four users on disk; settings that name them."""
    rows = [(u, f"i{n}", time) for u, items in ORDERS.items() for time, n in enumerate(items)]
    write_data(folder, rows)
    lines = [f"{item}\t{title}\t{CATEGORIES.get(item, '')}" for item, title in TITLES.items()]
    header = "item_id:token\ttitle:token\tkind:token"
    # Unix line ends: U+2028 is no end of a line in an atomic file.
    (folder / "made" / "made.item").write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return {
        "dataset": "made",
        "data_path": str(folder),
        "load_col": LOADED,
        "ITEM_ID_FIELD": "item_id",
        "field_separator": "\t",
        "item_text_fields": ["title"],
        "item_category_field": "kind",
        "item_category_format": "separator",
        "item_category_separator": " > ",
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": {"valid": "full", "test": "full"},
        },
        "valid_metric": "NDCG@3",
        "topk": [3],
        "show_progress": False,
    }


def run(
    folder: Path,
    config: Mapping[str, Any],
    *,
    model: str = "BPR",
    ndcg: float = 0.25,
    train_seconds: float = 60.0,
    losses: Sequence[float] = (),
    codes: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """A run folder as ``run`` writes it, as far as a page reads it."""
    folder.mkdir(parents=True)
    result = {
        "model": model,
        "dataset": config["dataset"],
        "data_hash": _hash(config),
        "best_valid_result": {"ndcg@3": ndcg},
        "test_result": {"recall@3": 2 * ndcg, "ndcg@3": ndcg, "hit@3": 2 * ndcg},
        "parameters": 1234,
    }
    seconds = {"data": 1.0, "tokenize": 30.0, "train": train_seconds, "test": 2.0}
    _write(folder, {**config, "model": model}, result, seconds)
    if codes is not None:
        sids(codes).save(folder / run_folder.SIDS)
    if losses:
        with SummaryWriter(str(folder)) as writer:
            for epoch, loss in enumerate(losses):
                writer.add_scalar("Loss/Train", loss, epoch)
            writer.add_scalar("Vaild_score", ndcg, len(losses) - 1)
    return folder


def tokenizer(folder: Path, config: Mapping[str, Any], codes: Mapping[str, Sequence[int]]) -> Path:
    """A folder as ``tokenize`` writes it."""
    folder.mkdir(parents=True)
    result = {
        "tokenizer": "random",
        "dataset": config["dataset"],
        "data_hash": _hash(config),
        "quality": {},
    }
    _write(folder, config, result, {"tokenize": 3.0})
    sids(codes).save(folder / run_folder.SIDS)
    return folder


def outcomes(folder: Path, ranked: Mapping[str, str]) -> None:
    """Lists of the test users, spelled by the digits of their items, into the run's folder."""
    items = ["", *TITLES]
    targets = [f"i{ORDERS[user][-1]}" for user in ranked]
    width = max(map(len, ranked.values()))
    lists = np.zeros((len(ranked), width), np.int32)
    for row, digits in enumerate(ranked.values()):
        lists[row, : len(digits)] = [items.index(f"i{digit}") for digit in digits]
    numbers = np.array([items.index(target) for target in targets], np.int32)
    found = lists == numbers[:, None]
    ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).astype(np.int32)
    ties = np.ones(len(ranked), np.int32)
    file = folder / run_folder.OUTCOMES
    save_outcomes(file, Outcomes(tuple(ranked), tuple(items), numbers, ranks, ties, lists))


def sids(codes: Mapping[str, Sequence[int]]) -> SemanticIDs:
    """With a dedup digit; every level has room for four codes."""
    table = np.array(list(codes.values()), np.int32)
    return SemanticIDs(tuple(codes), table, (4,) * table.shape[1], "dedup", {})


def comparison(folder: Path, runs: Mapping[str, Sequence[int]], means: Mapping[str, float]) -> Path:
    """``comparison.json`` of models and their seeds, tested against the best by hand."""
    best = max(means, key=lambda label: means[label])
    rows = [
        {
            "model": label,
            "class": label,
            "trials": None,
            "history": "the last 20",
            "runs": [{"seed": s, "state": "finished", "folder": "elsewhere"} for s in seeds],
            "cells": {
                "test/ndcg@3": {"mean": means[label], "sd": 0.01, "n": len(seeds)},
                "train_seconds": {"mean": 1234.0, "sd": None, "n": len(seeds)},
            },
        }
        for label, seeds in runs.items()
    ]
    rows.append(
        {
            "model": "later",
            "class": "SASRec",
            "trials": None,
            "history": "",
            "runs": [{"seed": 1, "state": "not run", "folder": "x"}],
            "cells": {},
        }
    )
    tests = {
        label: {"mean": means[label] - means[best], "low": 0, "high": 0, "p": p, "adjusted": p}
        for label, p in zip([k for k in means if k != best], (0.01, 0.5), strict=False)
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "dataset": "made",
        "metric": "test/ndcg@3",
        "topk": [3],
        "best": best,
        "models": rows,
        "significance": {best: tests},
        **AROUND,
    }
    write_json(folder / "comparison.json", content)
    return folder


def sid_report(folder: Path, data_hash: str, labels: Mapping[str, str]) -> Path:
    """``sid_report.json`` of sets by label and fingerprint."""
    codes = {"collision_rate": 0.125, "unique_items": 5, "largest_group": 2, "entropy": 1.5}
    rates = {f"prefix_collision_rate_{n + 1}": 1.0 - n / 4 for n in range(3)}
    sets = [
        {
            "label": label,
            "fingerprint": fingerprint,
            "sizes": [4, 4, 4, 4],
            "collision": "dedup",
            "codes": {**codes, **rates},
            "before": None,
            "after": None,
            "hit_rate": {"hit_rate": 0.3125},
            "neighbourhood": None,
            "v_measure": None,
        }
        for label, fingerprint in labels.items()
    ]
    folder.mkdir(parents=True)
    content = {"dataset": "made", "data_hash": data_hash, "sets": sets, "settings": {}}
    content |= {"correlations": None, "scored_as_one": [], "least_p": None}
    write_json(folder / "sid_report.json", content)
    return folder


def search(folder: Path, **values: Any) -> Path:
    """``result.json`` as ``tune`` writes it: three trials, of which one failed."""
    trial = {
        "state": "finished",
        "evaluations": [[1, 0.1], [3, 0.2]],
        "reason": "",
        "same_as": None,
    }
    trials = [
        {**trial, "trial": 3, "params": {"layers": 2, "kind": "a"}, "score": 0.25},
        {**trial, "trial": 1, "params": {"layers": 10, "kind": "b"}, "score": 0.125, "same_as": 2},
        {
            **{**trial, "state": "failed", "evaluations": [], "reason": "no <b>memory"},
            **{"trial": 2, "params": {"layers": 1, "kind": True}, "score": None},
        },
    ]
    content = {
        **{"model": "SASRec", "dataset": "made", "engine": "hyperopt", "algo": "bayes"},
        **{"seed": 7, "metric": "NDCG@3", "best_trial": 3, "trials": trials},
        "space": {"layers": {"choice": [1, 2, 10]}, "kind": {"choice": ["a", "b", True]}},
        "importance": {"layers": 0.25, "kind": 0.75},
    }
    folder.mkdir(parents=True)
    write_json(folder / "result.json", content | values)
    return folder


def _hash(config: Mapping[str, Any]) -> str:
    values: Any = {
        "additional_feat_suffix": None,
        **config,
        "data_path": str(Path(config["data_path"], config["dataset"])),
    }
    return run_folder.data_hash(values)


def _write(
    folder: Path, config: Mapping[str, Any], result: dict[str, Any], seconds: dict[str, float]
) -> None:
    write_yaml(folder / run_folder.CONFIG, config)
    write_json(folder / run_folder.RESULT, result)
    write_json(folder / run_folder.TIMING, {"seconds": seconds})
