"""Tables of the page: cells with what is shown and what they are sorted by; single runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_sid.page.sources import Run, spelled

CAPTIONS = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hit": "Hit"}


@dataclass(frozen=True)
class Cell:
    """``text`` is shown; ``value`` is what a column is sorted by, None for a cell without one."""

    text: str
    value: float | str | None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """``columns``: heading, and whether it holds numbers; a row has a cell a column.

    ``note`` and ``details``, a line each, stand below it.
    """

    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    details: tuple[str, ...] = ()


def runs_table(runs: Sequence[Run]) -> Table:
    """The runs one by one, with the test figures that they have."""
    measured = dict.fromkeys(
        name
        for run in runs
        for name in run.result["test_result"] or {}
        if name.partition("@")[0] in CAPTIONS
    )
    # With one target a user, as almost always, recall and hit are the same.
    names = [
        name for name in measured if name.replace("hit@", "recall@") not in measured.keys() - {name}
    ]
    rows = []
    for run in runs:
        seconds, test = run.timing["seconds"], run.result["test_result"] or {}
        rate = (run.result.get("sid") or {}).get("sid/collision_rate")
        rows.append(
            (
                word(run.label),
                word(run.result["model"]),
                word(run.result["dataset"]),
                *(number(test.get(name), "{:.4f}") for name in names),
                number(minutes(run), "{:,.1f}"),
                number(seconds.get("test"), "{:,.1f}"),
                number(run.result.get("parameters"), "{:,}"),
                number(rate, "{:.2%}"),
            )
        )
    columns = [("Run", False), ("Class", False), ("Data", False)]
    columns += [(heading(name), True) for name in names]
    columns += [("SIDs and training, min", True), ("Test, s", True), ("Parameters", True)]
    columns.append(("Items that share a SID", True))
    several = len({run.data for run in runs}) > 1
    note = "Test figures of single runs; nothing says here that their splits are the same." + (
        " They are on different data: figures of different data sets do not compare."
        if several
        else ""
    )
    return Table("Runs", tuple(columns), tuple(rows), note)


def minutes(run: Run) -> float:
    """Of SIDs and of training together; SIDs from the cache count as what their fit once took."""
    seconds = run.timing["seconds"]
    made = max(seconds["tokenize"], run.timing.get("fit_seconds", 0.0))
    return (made + seconds.get("train", 0.0)) / 60


def best_of(values: Sequence[float], form: str) -> float | None:
    """The highest of the values, None where all of them read the same: then none is the best."""
    return max(values) if len({form.format(value) for value in values}) > 1 else None


def heading(name: str) -> str:
    """A metric, such as ``test/ndcg@10`` or ``recall_head@10``, as it is spelled above a column."""
    key, at, k = name.rpartition("/")[2].partition("@")
    first, _, group = key.partition("_")
    shown = CAPTIONS.get(first, first.capitalize())
    return f"{shown}{at}{k} {group}".strip()


def word(text: object) -> Cell:
    """A cell that is sorted by what it says."""
    shown = spelled(str(text))
    return Cell(shown, shown)


def number(value: Any, form: str) -> Cell:
    """A cell that is sorted by its value; None is a dash."""
    return Cell("-", None) if value is None else Cell(form.format(value), value)
