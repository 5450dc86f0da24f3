"""The trials of a search on disk, one file each, and what is said about them while it runs.

A search that goes on proposes the same trials again; those whose file is there are not trained
again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from recbole_sid.clock import spelled
from recbole_sid.comparison.running import progress, say
from recbole_sid.errors import InputError
from recbole_sid.run_folder import read_json, write_json
from recbole_sid.settings import build
from recbole_sid.tuning.plan import TRIALS, Plan

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Record:
    """A trial that has ended.

    ``params``: the settings that were searched.
    ``state``: ``stopped`` means that ASHA ended it early: its score is that of fewer epochs.
    ``score``, ``metrics``: of its best epoch on the validation split; None if it failed.
    ``evaluations``: (epoch, score) of every validation.
    ``reason``: why it failed, in one line.
    ``same_as``: an earlier trial of the same settings, whose result this is.
    ``seconds``: how long it took, from its last start on.
    """

    trial: int
    params: dict[str, Any]
    state: State
    score: float | None = None
    metrics: dict[str, float] | None = None
    evaluations: list[list[float]] = field(default_factory=list)
    reason: str = ""
    same_as: int | None = None
    seconds: float = 0.0


class Journal:
    """All trials of a search that have ended, and its progress."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder / TRIALS
        self.records: dict[int, Record] = {}
        self.stored = _read(self.folder)
        self.bar = progress(plan.total, "tune", "trial", plan.show)
        self.began = time.perf_counter()
        self.trained = 0

    def known(self, trial: int, params: Mapping[str, Any]) -> Record | None:
        """The record of this trial if it has ended, in this search or before, else None.

        Raises:
            InputError: the stored trial of this number has other settings.
        """
        record = self.stored.get(trial)
        if record is not None and record.params != params:
            raise InputError(
                f"trial {trial} in '{self.folder}' has {record.params}, but the search now "
                f"proposes {dict(params)}: it was made by another version, or its trials ended in "
                "another order. --overwrite starts anew"
            )
        if record is None:
            record = self.twin(trial, params)
        return record

    def twin(self, trial: int, params: Mapping[str, Any]) -> Record | None:
        """The result of an earlier trial of the same settings as this trial's."""
        for other in self.records.values():
            if other.params == params and other.state != "stopped":
                first = other.same_as or other.trial
                return replace(other, trial=trial, same_as=first, seconds=0.0)
        return None

    def start(self, trial: int, params: Mapping[str, Any]) -> None:
        """Say that a trial begins."""
        say(self.bar, f"Trial {trial} of {self.plan.total}: {spelled_params(params)}")

    def hear(self, evaluation: Mapping[str, Any]) -> None:
        """Show a validation of the trial that is going on."""
        epoch, score = evaluation["epoch"] + 1, evaluation["current"]
        self.bar.set_postfix_str(f"epoch {epoch}: {self.plan.metric} {score:.6f}")

    def end(self, record: Record) -> None:
        """Keep a record, and say how the search stands."""
        kept = record.trial in self.stored
        if not kept:
            write_json(self.folder / f"{record.trial:04d}.json", asdict(record))
        self.records[record.trial] = record
        self.trained += not kept and record.same_as is None
        self.bar.update()
        plan, best = self.plan, self.best()
        told = f"{plan.metric} {record.score:.6f}" if record.score is not None else record.reason
        parts = [f"Trial {record.trial} of {plan.total} {record.state}: {told}"]
        if kept:
            parts.append("kept from before")
        elif record.same_as is not None:
            parts.append(f"as trial {record.same_as}")
        if best is not None:
            parts.append(f"best so far {best.score:.6f}, trial {best.trial}")
            self.bar.set_postfix_str(f"best {plan.metric} {best.score:.6f}")
        left = plan.total - len(self.records)
        if self.trained and left:
            each = (time.perf_counter() - self.began) / self.trained
            parts.append(f"about {spelled(each * left)} left")
        say(self.bar, "; ".join(parts))

    def best(self) -> Record | None:
        """The finished trial of the best score, the first of several; None when there is none."""
        return next((one for one in self.ranked() if one.state == "finished"), None)

    def ranked(self) -> list[Record]:
        """Best first; those that were stopped early come behind, and the failed ones last."""
        sign = -1 if self.plan.bigger else 1
        states = get_args(State)
        return sorted(
            self.records.values(),
            key=lambda one: (states.index(one.state), sign * (one.score or 0.0), one.trial),
        )

    def loss(self, record: Record) -> float | None:
        """What hyperopt makes small; None for a failed trial."""
        if record.score is None:
            return None
        return -record.score if self.plan.bigger else record.score


def spelled_params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in params.items())


def read_record(file: Path) -> Record:
    """A record that was written as JSON.

    Raises:
        InputError: the file is not one.
    """
    try:
        record = Record(**read_json(file, "remove it, then the trial is trained again"))
        build(Record, asdict(record))  # checks the types
        return record
    except (TypeError, InputError) as error:
        raise InputError(f"'{file}' cannot be read: {error}. Remove it") from error


def _read(folder: Path) -> dict[int, Record]:
    records = [read_record(file) for file in folder.glob("[0-9]*.json")]
    return {record.trial: record for record in records}
