"""Scores of a recommender beside figures of SIDs: where they come from, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid import run_folder
from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.measures.correlation import MIN_SETS, rank_correlations
from recbole_sid.parsing import read_yaml

# Figures of the codes themselves; those before and after a collision rule would come twice.
_PARTS = ("codes", "v_measure", "hit_rate", "neighbourhood")
# They follow from the number of items, or count what another figure gives as a share.
_LEFT_OUT = ("entropy_ceiling", "chance", "ceiling", "items")


def read_scores(
    named: Mapping[str, Path], file: str | Path | None, metric: str
) -> tuple[dict[str, float], str | None]:
    """The score of each set that has one, and where they are from.

    Args:
        named: the SID file of each set by its label.
        file: yaml, ``LABEL: score``, or a list of scores of several seeds, whose mean is taken;
            None takes ``metric`` on the validation split from the folders of finished runs among
            ``named``.

    Raises:
        InputError: the file cannot be read, names an unknown set, or holds no numbers.
    """
    if file is None:
        scores = {label: _of_run(path.parent, metric) for label, path in named.items()}
        known = {label: score for label, score in scores.items() if score is not None}
        return known, f"{metric} on validation, from the runs" if known else None
    values = read_yaml(Path(file))
    for label in values:
        if label not in named:
            raise InputError(
                f"scores '{file}': there is no set '{label}'.{did_you_mean(str(label), named)} "
                f"Sets: {preview(named)}"
            )
    return {label: _mean(label, value, file) for label, value in values.items()}, Path(file).name


def _of_run(folder: Path, metric: str) -> float | None:
    path = folder / run_folder.RESULT
    if not path.is_file():
        return None
    stored = run_folder.read_json(path, "run it again, with --overwrite")
    valid = stored.get("best_valid_result") or {}
    score = valid.get(metric.lower())
    return None if score is None else float(score)


def _mean(label: str, value: Any, file: str | Path) -> float:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(each) in (int, float) for each in values):
        raise InputError(
            f"scores '{file}': '{label}' is {value!r}, but must be a number or a list of numbers"
        )
    return sum(values) / len(values)


def correlated(
    entries: Sequence[Mapping[str, Any]], scores: Mapping[str, float], seed: int
) -> list[dict[str, Any]] | str:
    """What goes with the scores, or why that cannot be said.

    Args:
        entries: the sets of a report.
        scores: of some of them, by label.

    Returns:
        The rows of :func:`.rank_correlations` as dictionaries, or the reason why there is none.
    """
    scored = [entry for entry in entries if entry["label"] in scores]
    if len(scored) < MIN_SETS:
        return f"{len(scored)} sets have a score, and at least {MIN_SETS} are needed"
    columns = [_figures(entry) for entry in scored]
    names = list(dict.fromkeys(name for column in columns for name in column))
    figures = {name: [column.get(name) for column in columns] for name in names}
    rows = rank_correlations(figures, [scores[entry["label"]] for entry in scored], seed)
    if not rows:
        return "the scores, or all figures, are the same for all sets"
    return [row._asdict() for row in rows]


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    return {
        name if part == name else f"{part}.{name}": value
        for part in _PARTS
        if entry[part] is not None
        for name, value in entry[part].items()
        if name not in _LEFT_OUT
    }
