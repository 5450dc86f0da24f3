"""Finished runs of a comparison ranked again, with and without what a user had before.

    PYTHONPATH=. python benchmarks/relist.py COMPARISON --output FILE.jsonl [--models A,B]

Nothing is trained: the weights are those of the runs, and ``exclude_history`` alone changes. A line
of the output is a run; those that it holds are not ranked again. At the end a table of Markdown:
means over seeds and, of several, sample standard deviations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

import recbole_sid
from recbole_sid import compat
from recbole_sid.config import Config
from recbole_sid.parsing import read_yaml
from recbole_sid.quick_start import trainer_class
from recbole_sid.reading import read_data

SPLITS = ("valid", "test")
SHOWN = ("recall@10", "ndcg@10")


def ranked(folder: Path, exclude: bool) -> dict[str, dict[str, float]]:
    """The metrics of validation and test."""
    settings = read_yaml(folder / "config.yaml")
    if "generator" in settings:
        found = recbole_sid.evaluate(
            folder, exclude_history=exclude, metric_decimal_place=6, show_progress=False
        )
        return {split: found[f"{split}_result"] for split in SPLITS}
    config = Config(config_dict={**settings, "exclude_history": exclude})
    compat.numpy_aliases()
    _, (train, *loaders) = read_data(config)
    model = compat.get_model(config["model"])(config, train.dataset)
    (weights,) = folder.glob("*.pth")
    stored = torch.load(weights, weights_only=False)  # a run of this project
    model.load_state_dict(stored["state_dict"])
    model.load_other_parameter(stored["other_parameter"])
    with tempfile.TemporaryDirectory() as nothing_kept:
        config["checkpoint_dir"] = nothing_kept
        trainer = trainer_class(config)(config, model)
        trainer.eval_collector.data_collect(train)
        results = [trainer.evaluate(loader, load_best_model=False) for loader in loaders]
    return {split: dict(found) for split, found in zip(SPLITS, results, strict=True)}


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
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.output
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    wanted = arguments.models.split(",") if arguments.models else None
    for folder in sorted((arguments.comparison / "runs").iterdir()):
        model, _, seed = folder.name.rpartition("-")
        known = any(line["model"] == model and line["seed"] == seed for line in lines)
        if known or (wanted and model not in wanted) or not (folder / "result.json").is_file():
            continue
        found = {how: ranked(folder, how == "without") for how in ("all", "without")}
        lines.append({"model": model, "seed": seed, **found})
        with file.open("a") as out:
            out.write(json.dumps(lines[-1]) + "\n")
        print(folder.name, found["without"]["test"], flush=True)
    order = wanted or sorted({line["model"] for line in lines})
    print(table(sorted(lines, key=lambda line: order.index(line["model"]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
