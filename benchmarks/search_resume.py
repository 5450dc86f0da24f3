"""Two searches on ml-100k, one with each engine, each killed once and started again.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/search_resume.py FOLDER --trials=8

A search is killed by SIGKILL in the middle of its fourth trial. The same command then goes on, and
``run`` with the ``best.yaml`` that it ends with must reach its best score again, to the last digit.
Prints a table; ends with an error where a score differs or a trial that had ended is trained again.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import recbole_sid

SCRIPT = Path(__file__).resolve().parent.parent / "run_recbole_sid.py"
KILLED_IN = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="IntRR")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    print("| engine | algo | trials | kept of the killed | best score | run again | seconds |")
    print("|---|---|---|---|---|---|---|")
    for engine, algo in (("recbole", "bayes"), ("ray", "random")):
        folder = given.folder / engine
        command = [sys.executable, str(SCRIPT), "tune", f"--model={given.model}"]
        command += ["--dataset=ml-100k", f"--engine={engine}", f"--algo={algo}"]
        command += [f"--max_trials={given.trials}", f"--epochs={given.epochs}", "--eval_step=1"]
        command += ["--bayes_random_trials=4", f"--output={folder}", "--show_progress=False"]
        start = time.monotonic()
        given.folder.mkdir(parents=True, exist_ok=True)
        killed_search(command, folder)
        kept = {path: path.read_bytes() for path in sorted((folder / "trials").glob("*.json"))}
        with (folder.parent / f"{engine}.log").open("a") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
        seconds = time.monotonic() - start
        changed = [path.name for path, before in kept.items() if path.read_bytes() != before]
        if changed or not kept:
            raise SystemExit(f"{engine}: of the killed search {len(kept)} kept, changed {changed}")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        states = [trial["state"] for trial in result["trials"]]
        again = recbole_sid.run(
            config_file_list=[str(folder / "best.yaml")],
            config_dict={"output": f"{folder}-best", "show_progress": False},
        )
        score = result["best_valid_score"]
        if again["best_valid_score"] != score:
            raise SystemExit(f"{engine}: best {score}, run again {again['best_valid_score']}")
        told = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        cells = [engine, algo, told, len(kept), score, again["best_valid_score"], round(seconds)]
        print("|", " | ".join(map(str, cells)), "|", flush=True)


def killed_search(command: list[str], folder: Path) -> None:
    """Start a search and kill it while a trial is trained; what it had written stays."""
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        search = subprocess.Popen(command, stdout=log, stderr=log)
        while not (folder / "trials" / f"{KILLED_IN:04d}" / "config.yaml").is_file():
            if search.poll() is not None:
                raise SystemExit(f"the search ended by itself: {folder.parent / folder.name}.log")
            time.sleep(0.1)
        time.sleep(5)
        search.send_signal(signal.SIGKILL)
        search.wait()


if __name__ == "__main__":
    main()
