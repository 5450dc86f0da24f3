"""From finished runs to the figures of a comparison: a row a model, over its seeds."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recbole_sid import run_folder
from recbole_sid.comparison.outcomes import Outcomes, load_outcomes
from recbole_sid.comparison.plan import Model, Plan
from recbole_sid.comparison.running import Ended
from recbole_sid.comparison.splits import Split, check_outcomes
from recbole_sid.comparison.statistics import (
    GROUPS,
    coverage,
    item_groups,
    mean_popularity,
    paired_bootstrap,
)
from recbole_sid.splitting import parse_times, spelled

_SEED = 20260210  # of the bootstrap: the same data give the same table
_NAMES = ("recall", "ndcg", "mrr", "hit")


@dataclass(frozen=True)
class Cell:
    """A figure over seeds: mean, sample standard deviation (None with one seed), how many."""

    mean: float
    sd: float | None
    n: int


def figures(plan: Plan, ended: Mapping[str, Ended], split: Split) -> dict[str, Any]:
    """Everything that the tables show, as plain data.

    Args:
        ended: the runs that have ended, by name; the others are "not run".
        split: the data of all models.

    Raises:
        InputError: a run's outcomes cannot be read, or are on other users or targets.
    """
    groups = _TargetGroups(plan, split)
    rows = []
    per_user: dict[str, np.ndarray] = {}
    for model in plan.models:
        row, by_user = _row(plan, model, ended, split, groups)
        rows.append(row)
        if by_user is not None:
            per_user[model.label] = by_user
    names = [f"{metric}@{k}" for metric, k in plan.tested]
    # On the test split the best one would owe part of its lead to the choice itself.
    shown = f"valid/{names[0]}"
    means = {row["model"]: row["cells"][shown]["mean"] for row in rows if shown in row["cells"]}
    best = max(means, key=lambda label: means[label]) if means else None
    times = parse_times(plan.runs[0].config["split_times"])
    tests: dict[str, dict[str, Any]] = {name: {} for name in names}
    for against in dict.fromkeys([best, plan.settings.reference]):
        if against in per_user:
            found = significance(per_user, str(against), names, plan.settings.resamples)
            for name in names:
                tests[name][str(against)] = found[name]
    return {
        "dataset": plan.dataset,
        "metric": f"test/{names[0]}",
        "topk": list(plan.runs[0].config["topk"]),
        "counts": split.counts,
        "split_hash": split.hashes,
        "split_times": None if times is None else [spelled(time) for time in times],
        "withheld_items": plan.runs[0].config["withheld_items"],
        "exclude_history": plan.runs[0].config["exclude_history"],
        "targets": groups.sizes,
        "cold_below": plan.settings.cold_below,
        "resamples": plan.settings.resamples,
        "best": best,
        "reference": plan.settings.reference,
        "grid": _grid(plan),
        "models": rows,
        "significance": tests[names[0]],
        "further_significance": {f"test/{name}": tests[name] for name in names[1:]},
    }


def _grid(plan: Plan) -> dict[str, Any] | None:
    """``tokenizers`` in their order, and by generator the model that its pairs are trained as."""
    pairs = plan.pairs
    if not pairs:
        return None
    tokenizers = list(dict.fromkeys(pair.tokenizer for pair in pairs))
    return {"tokenizers": tokenizers, "generators": {p.generator: p.model for p in pairs}}


class _TargetGroups:
    """The test users by how often their target is in the training split."""

    def __init__(self, plan: Plan, split: Split) -> None:
        self.counts = split.item_counts
        numbers = np.fromiter(split.item_counts.values(), np.int64, len(split.item_counts))
        groups = item_groups(numbers)
        self._group = dict(zip(split.item_counts, groups.tolist(), strict=True))
        self._cold_below = plan.settings.cold_below
        items = self._masks(list(split.item_counts))
        users = self._masks(list(itertools.chain.from_iterable(split.test.values())))
        self.sizes = {
            name: {"users": int(users[name].sum()), "items": int(items[name].sum())}
            for name in items
        }

    def of(self, outcomes: Outcomes) -> dict[str, np.ndarray]:
        """Which rows belong to each group, bool (n,)."""
        return self._masks([outcomes.items[target] for target in outcomes.targets.tolist()])

    def _masks(self, targets: Sequence[str]) -> dict[str, np.ndarray]:
        group = np.array([self._group[target] for target in targets], np.int64)
        count = np.array([self.counts[target] for target in targets], np.int64)
        masks = {name: group == n for n, name in enumerate(GROUPS)}
        return masks | {"cold": count < self._cold_below, "unseen": count == 0}


def _row(
    plan: Plan,
    model: Model,
    ended: Mapping[str, Ended],
    split: Split,
    groups: _TargetGroups,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """A model's figures, and its tested metrics of every user, averaged over seeds: (n, m)."""
    runs = [run for run in plan.runs if run.label == model.label]
    users = sorted(split.test)
    found: list[dict[str, float]] = []
    by_user = np.zeros((len(users), len(plan.tested)))
    threads: set[int] = set()
    states: list[dict[str, Any]] = []
    if model.refused:
        states = [{"seed": s, "state": "refused", "reason": model.refused} for s in model.seeds]
    for run in runs:
        end = ended.get(run.name)
        state = {"seed": run.seed, "folder": str(run.folder)}
        if end is None:
            state["state"] = "not run"
        elif end.failure:
            state |= {"state": "failed", "reason": end.failure, "log": str(end.log)}
        else:
            outcomes = load_outcomes(run.folder / run_folder.OUTCOMES)
            targets = [outcomes.items[target] for target in outcomes.targets.tolist()]
            check_outcomes(run.name, split.test, outcomes.users, targets)
            again = f"run it again, with --overwrite_models={model.label}"
            result, timing = (
                run_folder.read_json(run.folder / name, again)
                for name in (run_folder.RESULT, run_folder.TIMING)
            )
            found.append(_of_run(plan, result, timing, outcomes, split, groups))
            threads.add(timing["threads"])
            values = np.stack([outcomes.per_user(*one) for one in plan.tested], axis=1)
            row_users = np.unique(np.array(outcomes.users), return_inverse=True)[1]
            # A user's share: its mean over users is the metric's mean over rows.
            share = np.zeros_like(by_user)
            np.add.at(share, row_users, values)
            by_user += share * (len(users) / len(values))
            state["state"] = "finished"
        states.append(state)
    names = list(dict.fromkeys(name for values in found for name in values))
    row = {
        "model": model.label,
        "class": model.settings["model"],
        "trials": model.trials,
        "history": _history(runs[0].config) if runs else "refused",
        "runs": states,
        "threads": sorted(threads),
        "cells": {
            name: asdict(cell([values[name] for values in found if name in values]))
            for name in names
        },
    }
    return row, by_user / len(found) if found else None


def _of_run(
    plan: Plan,
    result: Mapping[str, Any],
    timing: Mapping[str, Any],
    outcomes: Outcomes,
    split: Split,
    groups: _TargetGroups,
) -> dict[str, float]:
    """The figures of one run; what was not measured is not among them."""
    values: dict[str, float] = {}
    for name, part in (("valid", "best_valid_result"), ("test", "test_result")):
        for key, value in (result[part] or {}).items():
            if key.partition("@")[0] in _NAMES:
                values[f"{name}/{key}"] = value
    counts = np.array([0, *(split.item_counts[item] for item in outcomes.items[1:])])
    masks = groups.of(outcomes)
    for k in plan.runs[0].config["topk"]:
        lists = outcomes.lists[:, :k]
        values[f"coverage@{k}"] = coverage(lists, len(outcomes.items) - 1)
        popularity = mean_popularity(lists, counts)
        if popularity is not None:
            values[f"popularity@{k}"] = popularity
        recall = outcomes.per_user("recall", k)
        for name, mask in masks.items():
            if mask.any():
                values[f"recall_{name}@{k}"] = float(recall[mask].mean())
    seconds = timing["seconds"]
    # SIDs from the cache count as what their fit once took.
    values["tokenize_seconds"] = max(seconds["tokenize"], timing.get("fit_seconds", 0.0))
    values["train_seconds"] = seconds["train"]
    values["test_ms_per_user"] = 1000 * seconds["test"] / len(outcomes.users)
    if timing["peak_memory_mb"] is not None:
        values["peak_memory_mb"] = timing["peak_memory_mb"]
    values["parameters"] = result["parameters"]
    return values


def cell(values: Sequence[float]) -> Cell:
    """Mean and sample standard deviation of a figure over its seeds."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), sd, len(values))


def significance(
    per_user: Mapping[str, np.ndarray], against: str, names: Sequence[str], resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Every model less ``against``, user by user, for each metric; all of them are one family.

    Args:
        per_user: of every model, (users, metrics).
        names: of the metrics.

    Returns:
        By metric and model the fields of a :class:`.statistics.Difference`.
    """
    tests: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    others = [label for label in per_user if label != against]
    if not others:
        return tests
    differences = np.concatenate([per_user[label] - per_user[against] for label in others], axis=1)
    found = paired_bootstrap(differences, resamples, _SEED)
    for (label, name), one in zip(itertools.product(others, names), found, strict=True):
        tests[name][label] = asdict(one)
    return tests


def _history(config: Any) -> str:
    """How much a model knows of a user, in words."""
    if str(config["MODEL_TYPE"]) == "ModelType.SEQUENTIAL":
        return f"the last {config['MAX_ITEM_LIST_LENGTH']}"
    return "all"
