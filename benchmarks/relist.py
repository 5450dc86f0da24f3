"""Finished runs of a comparison ranked again, with and without what a user had before.

    PYTHONPATH=. python benchmarks/relist.py COMPARISON --output FILE.jsonl [--models A,B]
    PYTHONPATH=. python benchmarks/relist.py COMPARISON --into FOLDER --settings FILE --models A,B

Nothing is trained: the weights are those of the runs, and ``exclude_history`` alone changes. The
first form ranks both ways: a line of the output is a run, those that it holds are not ranked again,
and at the end there is a table of Markdown: means over seeds and, of several, sample standard
deviations. The second one puts the runs, ranked without, in the folder of another comparison, where
``compare --output=FOLDER`` with the same models and settings finds them finished (its result.json
says ``ranked_again``); runs whose settings are others but for ``exclude_history`` are refused.
The weights are then still those of the epoch that was best by lists that may repeat.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from recbole_sid import compat, run_folder
from recbole_sid.comparison.outcomes import Outcomes, save_outcomes
from recbole_sid.comparison.plan import make_plan, with_batches
from recbole_sid.config import Config
from recbole_sid.evaluation import RecordingCollector
from recbole_sid.identity import settings_hash
from recbole_sid.parsing import read_yaml
from recbole_sid.quick_start import trainer_class
from recbole_sid.reading import read_data
from recbole_sid.stored_run import open_run

SPLITS = ("valid", "test")
SHOWN = ("recall@10", "ndcg@10")


def ranked(folder: Path, exclude: bool) -> tuple[dict[str, dict[str, float]], Outcomes]:
    """The metrics of validation and test, and what the test split's users got."""
    changes = {"exclude_history": exclude, "metric_decimal_place": 6, "show_progress": False}
    weights = folder / run_folder.WEIGHTS
    ours = weights.is_file()
    if ours:
        config, model, data, train, *loaders = open_run(weights, changes)
    else:
        config = Config(config_dict={**read_yaml(folder / run_folder.CONFIG), **changes})
        compat.numpy_aliases()
        data, (train, *loaders) = read_data(config)
        model = compat.get_model(config["model"])(config, train.dataset)
        (weights,) = folder.glob("*.pth")
    with tempfile.TemporaryDirectory() as nothing_kept:
        config["checkpoint_dir"] = nothing_kept
        trainer = trainer_class(config)(config, model)
        if ours:
            trainer.splits = (train.dataset, loaders[0].dataset)
        else:
            trainer.eval_collector = RecordingCollector(config)
        trainer.eval_collector.data_collect(train)
        loading = {"load_best_model": not ours, "model_file": str(weights)}
        found = {"valid": dict(trainer.evaluate(loaders[0], **loading))}
        trainer.eval_collector.start_recording()
        found["test"] = dict(trainer.evaluate(loaders[1], load_best_model=False))
    return found, trainer.eval_collector.outcomes(data)


def differences(stored: dict[str, Any], planned: dict[str, Any]) -> list[str]:
    """Settings of a run that are not the planned ones; new ones, unknown to it, are not told."""
    keys = sorted((stored.keys() & planned.keys()) - {"exclude_history"})
    return [
        f"{key}: {stored[key]}, now {planned[key]}"
        for key in keys
        if settings_hash({key: stored[key]}) != settings_hash({key: planned[key]})
    ]


def put_into(arguments: argparse.Namespace) -> None:
    """The second form: the runs of the plan that the old comparison has, in the new folder."""
    old = arguments.comparison / "runs"
    known = read_yaml(next(old.iterdir()) / run_folder.CONFIG)
    given = {
        "dataset": known["dataset"],
        "data_path": known["data_path"],
        "output": str(arguments.into),
        "seeds": arguments.seeds,
    }
    plan = make_plan(arguments.models.split(","), arguments.settings, (), given)
    n_items = read_data(plan.runs[0].config)[0].item_num - 1
    for run in with_batches(plan, n_items).runs:
        source = old / run.name
        if (run.folder / run_folder.RESULT).is_file():
            print(f"{run.name} is there already", flush=True)
            continue
        if not (source / run_folder.RESULT).is_file():
            print(f"{run.name} has no finished run in {old}", flush=True)
            continue
        changed = differences(read_yaml(source / run_folder.CONFIG), run.config.to_plain())
        if changed:
            raise SystemExit(f"{run.name} was trained with other settings: {'; '.join(changed)}")
        found, outcomes = ranked(source, exclude=True)
        result = run_folder.read_json(source / run_folder.RESULT, "run it again")
        result |= {
            "settings_hash": run.config.settings_hash(),
            "inputs_hash": run_folder.inputs_hash(run.config),
            "best_valid_score": found["valid"][run.config["valid_metric"].lower()],
            "best_valid_result": found["valid"],
            "test_result": found["test"],
            "ranked_again": True,
        }
        run_folder.start(run.config)
        for name in (run_folder.SIDS, run_folder.TIMING, run_folder.LOG):
            if (source / name).is_file():
                shutil.copy(source / name, run.folder / name)
        save_outcomes(run.folder / run_folder.OUTCOMES, outcomes)
        run_folder.write_json(run.folder / run_folder.RESULT, result)
        print(run.name, found["test"], flush=True)


def table(lines: list[dict]) -> str:
    """A row a model: of each split and way to list, the mean and deviation over seeds."""
    heads = [
        f"{split} {metric}, {how}"
        for split in SPLITS
        for metric in SHOWN
        for how in ("all", "without")
    ]
    rows = ["| Model | Seeds | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * 9]
    for model in dict.fromkeys(line["model"] for line in lines):
        runs = [line for line in lines if line["model"] == model]
        cells = []
        for split in SPLITS:
            for metric in SHOWN:
                for how in ("all", "without"):
                    values = [run[how][split][metric] for run in runs]
                    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                    cells.append(f"{statistics.mean(values):.4f}{spread}")
        rows.append(f"| {model} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path)
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--output", type=Path)
    to.add_argument("--into", type=Path)
    parser.add_argument("--models")
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.into:
        put_into(arguments)
        return 0
    file = arguments.output
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    wanted = arguments.models.split(",") if arguments.models else None
    for folder in sorted((arguments.comparison / "runs").iterdir()):
        model, _, seed = folder.name.rpartition("-")
        known = any(line["model"] == model and line["seed"] == seed for line in lines)
        if known or (wanted and model not in wanted) or not (folder / "result.json").is_file():
            continue
        found = {how: ranked(folder, how == "without")[0] for how in ("all", "without")}
        lines.append({"model": model, "seed": seed, **found})
        with file.open("a") as out:
            out.write(json.dumps(lines[-1]) + "\n")
        print(folder.name, found["without"]["test"], flush=True)
    order = wanted or sorted({line["model"] for line in lines})
    print(table(sorted(lines, key=lambda line: order.index(line["model"]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
