"""Trials on the validation split alone: the test set is never read here.

Usage: python benchmarks/screen.py TRIALS.yaml [NAME …] [--key=value …]

TRIALS.yaml holds settings for all trials under ``all``, ``seeds``, and under ``trials`` the changes
of each. A line a trial and seed is added to results/screens/TRIALS.jsonl; what stands there already
is not run again. Further settings on the command line (data_path …) go to every trial.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import yaml
from recbole.utils import init_seed

from recbole_sid import compat
from recbole_sid.logs import logging_run
from recbole_sid.memory import keep_freed_memory, peak_memory_mb
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.quick_start import checked_config, trainer_class
from recbole_sid.reading import read_data
from recbole_sid.sid.quality import quality

RESULTS = Path(__file__).parent / "results" / "screens"


def run_trial(settings: dict, command_line: list[str]) -> dict:
    """Train by one set of settings; validation figures, and the seconds they took."""
    config = checked_config(config_dict=settings, command_line=command_line)
    init_seed(config["seed"], config["reproducibility"])
    _, (train, valid, _) = read_data(config)
    model = compat.get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = trainer_class(config)(config, model)
    curve = []
    start = time.perf_counter()
    _, best = trainer.fit(
        train,
        valid,
        saved=False,
        show_progress=bool(config["show_progress"]),
        callback_fn=lambda epoch, score: curve.append([epoch + 1, round(score, 5)]),
    )
    sids = {"sid": quality(model.sids)} if isinstance(model, SIDRecommender) else {}
    return {
        "valid": {key: float(value) for key, value in best.items()},
        **sids,
        "curve": curve,
        "seconds": round(time.perf_counter() - start),
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
    }


def main(file: str, names: list[str], command_line: list[str]) -> None:
    plan = yaml.safe_load(Path(file).read_text())
    results = RESULTS / f"{Path(file).stem}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = results.read_text().splitlines() if results.is_file() else []
    done = {(line["trial"], line["seed"]) for line in map(json.loads, lines)}
    keep_freed_memory()
    for name, changes in plan["trials"].items():
        for seed in plan["seeds"]:
            if (names and name not in names) or (name, seed) in done:
                continue
            settings = plan["all"] | (changes or {}) | {"seed": seed}
            with logging_run():
                outcome = run_trial(settings, command_line)
            with results.open("a") as out:
                out.write(json.dumps({"trial": name, "seed": seed, **outcome}) + "\n")
            print(name, seed, outcome["valid"], f"{outcome['seconds']} s", flush=True)


if __name__ == "__main__":
    rest = sys.argv[2:]
    main(
        sys.argv[1],
        [word for word in rest if not word.startswith("--")],
        [word for word in rest if word.startswith("--")],
    )
