"""What a report is made of: the folders that it is given, recognised by what lies in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_sid import run_folder, seals
from recbole_sid.errors import InputError
from recbole_sid.parsing import read_yaml

COMPARISON = "comparison.json"
SID_REPORT = "sid_report.json"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_AGAIN = "make it again"
_KNOWN = "a folder of run, tokenize, compare, tune or sids"
_OF_COMPARISON = (
    *("dataset", "metric", "models", "best", "grid", "significance"),
    *("counts", "split_hash", "split_times", "targets", "cold_below"),
)
_OF_SID_REPORT = ("dataset", "sets", "settings", "correlations", "scored_as_one", "least_p")
_OF_SEARCH = (
    *("model", "dataset", "engine", "algo", "seed", "metric", "space", "trials"),
    *("best_trial", "importance"),
)


@dataclass(frozen=True)
class Run:
    """The folder of a run, ours or RecBole's, or of ``tokenize``.

    ``label``: its name on the page, unique. ``model``: the name that runs of one model in a
    comparison share: they are drawn in one colour. ``config``: its settings, plain. ``trained``: it
    is a run, not a folder of ``tokenize``.
    """

    label: str
    model: str
    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    timing: Mapping[str, Any]
    trained: bool

    @property
    def data(self) -> tuple[str, str]:
        """Name and hash of the data set: runs of one data set share both."""
        return str(self.result["dataset"]), str(self.result["data_hash"])

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()


@dataclass(frozen=True)
class Document:
    """``comparison.json``, ``sid_report.json`` or the ``result.json`` of a search, and its name."""

    label: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    """All that was given, in the order given; each run once."""

    runs: tuple[Run, ...]
    comparisons: tuple[Document, ...]
    sid_reports: tuple[Document, ...]
    searches: tuple[Document, ...]
    left_out: tuple[str, ...]

    @property
    def trained(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.trained)


def read_folders(folders: Sequence[str | Path]) -> Sources:
    """Recognise the folders and read what they say of themselves.

    Raises:
        InputError: none are given; one is no folder of ours, or that of an unfinished run; a file
            in it cannot be read.
    """
    if isinstance(folders, (str, Path)) or not folders:
        raise InputError(f"folders is {folders!r}, but must list one folder at least: {_KNOWN}")
    comparisons, sid_reports, searches, left_out = [], [], [], []
    runs: dict[Path, Run] = {}
    single = []
    for folder in dict.fromkeys(Path(name) for name in folders):
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise InputError(f"'{folder}' {what}: name {_KNOWN}")
        known = False
        if (folder / COMPARISON).is_file():
            known = True
            document = _document(folder, COMPARISON, _OF_COMPARISON)
            comparisons.append(document)
            found, missing = _compared(folder, document.content)
            runs |= {run.folder.resolve(): run for run in found}
            left_out += missing
        if (folder / SID_REPORT).is_file():
            known = True
            sid_reports.append(_document(folder, SID_REPORT, _OF_SID_REPORT))
        if not known or (folder / run_folder.CONFIG).is_file():
            single.append(folder)
    for folder in single:
        if _holds_search(folder):
            searches.append(_document(folder, run_folder.RESULT, _OF_SEARCH))
        elif folder.resolve() not in runs:
            name = spelled(folder.resolve().name)
            runs[folder.resolve()] = _run(folder, name, name)
    return Sources(
        tuple(_named_apart(list(runs.values()))),
        tuple(comparisons),
        tuple(sid_reports),
        tuple(searches),
        tuple(left_out),
    )


def spelled(text: str) -> str:
    """Text for a page: valid Unicode in one line, without control characters."""
    return " ".join(_CONTROL.sub(" ", text.encode("utf-8", "replace").decode()).split())


def _compared(folder: Path, content: Mapping[str, Any]) -> tuple[list[Run], list[str]]:
    """The finished runs of a comparison that lie in its folder."""
    found, missing = [], []
    for row in content["models"]:
        for one in row["runs"]:
            name = f"{row['model']}-{one['seed']}"
            if Path(name).name != name:
                raise InputError(f"'{folder / COMPARISON}' names a run {name!r}: make it again")
            where = folder / "runs" / name
            if one["state"] != "finished":
                continue
            if (where / run_folder.RESULT).is_file():
                found.append(_run(where, spelled(name), spelled(str(row["model"]))))
            else:
                missing.append(
                    f"{spelled(name)}: the comparison knows it as finished, but its folder is not "
                    "there: it is in the tables only"
                )
    return found, missing


def _holds_search(folder: Path) -> bool:
    """Whether a folder is that of a search that has ended."""
    path = folder / run_folder.RESULT
    return path.is_file() and "trials" in run_folder.read_json(path, _AGAIN)


def _run(folder: Path, label: str, model: str) -> Run:
    if not (folder / run_folder.RESULT).is_file():
        begun = (run_folder.CONFIG, run_folder.STATE, run_folder.LOG)
        if any((folder / name).exists() for name in begun):
            raise InputError(
                f"'{folder}' holds an unfinished run: finish it (--resume goes on with a run of "
                "ours), or leave it out"
            )
        raise InputError(
            f"'{folder}' has none of {run_folder.RESULT}, {COMPARISON}, {SID_REPORT}: name {_KNOWN}"
        )
    result = run_folder.read_json(folder / run_folder.RESULT, _AGAIN)
    identity = {"dataset", "data_hash"}
    trained = {"model", "test_result"} | identity <= set(result)
    if not trained and not {"tokenizer", "quality"} | identity <= set(result):
        raise InputError(
            f"'{folder / run_folder.RESULT}' is not the result of a run, of tokenize or of tune: "
            f"name {_KNOWN}"
        )
    for name in (run_folder.CONFIG, run_folder.TIMING):
        if not (folder / name).is_file():
            raise InputError(f"'{folder}' has no {name}: it is not whole, run it again")
    timing = run_folder.read_json(folder / run_folder.TIMING, _AGAIN)
    seals.check(folder / run_folder.CONFIG, _AGAIN)
    if not isinstance(timing.get("seconds"), dict):
        raise InputError(f"'{folder / run_folder.TIMING}' tells no seconds: run it again")
    return Run(label, model, folder, read_yaml(folder / run_folder.CONFIG), result, timing, trained)


def _document(folder: Path, name: str, needed: Sequence[str]) -> Document:
    content = run_folder.read_json(folder / name, _AGAIN)
    missing = [key for key in needed if key not in content]
    if missing:
        raise InputError(f"'{folder / name}' lacks {', '.join(missing)}: make it again")
    return Document(spelled(folder.resolve().name), content)


def _named_apart(runs: list[Run]) -> list[Run]:
    """Runs of one name get the folder above them before it, or else a number behind it."""
    used: set[str] = set()
    named = []
    for run in runs:
        label = run.label
        if label in used:
            label = spelled(f"{run.folder.resolve().parent.name}/{label}")
        number = 2
        while label in used:
            label, number = f"{run.label} ({number})", number + 1
        used.add(label)
        model = label if run.model == run.label else run.model
        named.append(replace(run, label=label, model=model))
    return named
