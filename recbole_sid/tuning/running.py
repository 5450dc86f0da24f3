"""The process of a trial, seen from the search: its start, its validations, its result."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from recbole_sid import run_folder
from recbole_sid.comparison.running import failure_reason, run_process
from recbole_sid.errors import InputError
from recbole_sid.files import written_whole
from recbole_sid.tuning.journal import Record
from recbole_sid.tuning.plan import TRIALS, Plan
from recbole_sid.tuning.trial import EVALUATIONS, VALIDATION

_CHILD = "import sys; from recbole_sid.tuning.trial import main; sys.exit(main())"


class Interrupted(RuntimeError):
    """A trial was ended from outside, and so has no result: it comes again."""


@dataclass(frozen=True)
class Prepared:
    """A trial that can start: all that its process needs, as plain data."""

    trial: int
    params: dict[str, Any]
    folder: Path
    log: Path
    threads: int


def trial_folder(plan: Plan, trial: int) -> Path:
    """Where the process of a trial works; it is gone when the trial has its record."""
    return plan.folder / TRIALS / f"{trial:04d}"


def threads(plan: Plan) -> int:
    """How many threads a trial has: as many as this process; trials at a time share them."""
    return max(1, torch.get_num_threads() // plan.settings.parallel)


def prepare(plan: Plan, trial: int, params: dict[str, Any]) -> Prepared | Record:
    """Write the settings of a trial into its folder; a failed record if they do not agree."""
    folder = trial_folder(plan, trial)
    try:
        config = plan.config(params, output=str(folder), show_progress=False)
    except InputError as error:
        return Record(trial, params, "failed", reason=" ".join(str(error).split()))
    folder.mkdir(exist_ok=True)
    with written_whole(folder / run_folder.CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(config.to_plain(), sort_keys=True), "utf-8")
    log = plan.folder / "logs" / f"{trial:04d}.log"
    return Prepared(trial, params, folder.absolute(), log.absolute(), threads(plan))


def execute(job: Prepared, on_evaluation: Callable[[dict[str, Any]], object]) -> Record:
    """Run the process of a trial to its end.

    Args:
        on_evaluation: is given every validation once, see :func:`.trial.validate`; what it raises
            ends the trial.

    Raises:
        Interrupted: the process was told to end.
    """
    seen: dict[int, dict[str, Any]] = {}
    began = time.perf_counter()

    def listen() -> None:
        for evaluation in _evaluations(job.folder / EVALUATIONS):
            if evaluation["epoch"] not in seen:
                seen[evaluation["epoch"]] = evaluation
                on_evaluation(evaluation)

    reason = ""
    if not (job.folder / VALIDATION).is_file():  # else it ended just before the search was killed
        changes = {"OMP_NUM_THREADS": str(job.threads)}
        code = run_process(_CHILD, [str(job.folder)], job.log, listen, changes)
        if code in (-signal.SIGINT, -signal.SIGTERM):
            raise Interrupted(f"trial {job.trial} was ended by {signal.Signals(-code).name}")
        if not (job.folder / VALIDATION).is_file():
            reason = failure_reason(code, job.log, VALIDATION)
    listen()
    curve = [[one["epoch"], one["current"]] for one in seen.values()]
    seconds = round(time.perf_counter() - began, 1)
    if reason:
        return Record(
            job.trial, job.params, "failed", evaluations=curve, reason=reason, seconds=seconds
        )
    result = run_folder.read_json(job.folder / VALIDATION, "remove it, and start the search again")
    return Record(job.trial, job.params, "finished", **result, evaluations=curve, seconds=seconds)


def clear(plan: Plan, trial: int) -> None:
    """Remove what the process of a trial left, once the trial has its record."""
    shutil.rmtree(trial_folder(plan, trial), ignore_errors=True)


def _evaluations(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # empty, or half a line of a process that was killed
    return found
