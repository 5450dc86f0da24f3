"""Scores of a recommender beside figures of SIDs: where they come from, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole.utils import training_arguments

from recbole_sid import run_folder, seals
from recbole_sid.defaults import OF_GENERATORS
from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.measures.correlation import MIN_SETS, rank_correlations
from recbole_sid.parsing import read_yaml
from recbole_sid.registry import components

# Figures of the codes themselves; those before and after a collision rule would come twice.
_PARTS = ("codes", "v_measure", "hit_rate", "neighbourhood")
# They follow from the number of items, or count what another figure gives as a share.
_LEFT_OUT = ("entropy_ceiling", "chance", "ceiling", "items")
_AGAIN = "run it again, with --overwrite"
_WITHHELD = "withheld_items"
# What a score depends on besides the SIDs, the seed, and the settings of the generator itself.
_STAGE_2 = (
    {*training_arguments, *OF_GENERATORS}
    | {"MAX_ITEM_LIST_LENGTH", "eval_args", "split_times", _WITHHELD}
) - {"loss_decimal_place"}


class Related(NamedTuple):
    """What goes with the scores.

    Attributes:
        rows: of :func:`.rank_correlations` as dictionaries; figures of all sets come first.
        as_one: the labels of the sets that are equal and count as one, a list a group.
        least_p: the smallest p after correction that so many sets and figures could give: that of
            a figure which orders the sets just as the scores do.
    """

    rows: list[dict[str, Any]]
    as_one: list[list[str]]
    least_p: float


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
        InputError: the file cannot be read, names an unknown set, or holds no numbers; or the runs
            are of several generators, and so many that figures would be held against their scores.
    """
    if file is None:
        scores = {label: _of_run(path.parent, metric) for label, path in named.items()}
        known = {label: score for label, score in scores.items() if score is not None}
        if len(known) >= MIN_SETS:
            _refuse_mixed({label: named[label].parent for label in known})
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
    stored = run_folder.read_json(path, _AGAIN)
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


def _refuse_mixed(folders: Mapping[str, Path]) -> None:
    """InputError unless the runs differ in their SIDs and seeds alone."""
    of_stage_2 = _STAGE_2.union(*(spec.keys for spec in components() if spec.kind != "tokenizer"))
    configs = {}
    for label, folder in folders.items():
        seals.check(folder / run_folder.CONFIG, _AGAIN)
        configs[label] = read_yaml(folder / run_folder.CONFIG)
    generators = {label: _generator(config) for label, config in configs.items()}
    # Of one generator the settings are told, of several the names say enough.
    told = generators
    if len(set(generators.values())) == 1:
        values = [
            # Runs of before have no such setting.
            {key: config.get(key) for key in of_stage_2} | {_WITHHELD: config.get(_WITHHELD) or 0}
            for config in configs.values()
        ]
        differ = sorted(key for key in of_stage_2 if any(v[key] != values[0][key] for v in values))
        if not differ:
            return
        told = {
            label: f"{generators[label]} with "
            + ", ".join(f"{key} {config.get(key)}" for key in differ)
            for label, config in configs.items()
        }
    groups: dict[str, list[str]] = {}
    for label, what in told.items():
        groups.setdefault(what, []).append(label)
    raise InputError(
        "figures of SIDs are held against scores of one generator with one training, but these "
        f"runs are of several: {'; '.join(f'{what}: {preview(of)}' for what, of in groups.items())}"
        ". Give runs that differ in their SIDs and seeds alone, or the scores by hand, --scores "
        "FILE (LABEL: score)"
    )


def _generator(config: Mapping[str, Any]) -> str:
    """Its name, or that of a model that has none."""
    return str(config.get("generator") or config.get("model"))


def correlated(
    entries: Sequence[Mapping[str, Any]], scores: Mapping[str, float], seed: int
) -> Related | str:
    """What goes with the scores, or why that cannot be said.

    Sets of one fingerprint are one set, seen several times: it has the mean of their scores.

    Args:
        entries: the sets of a report.
        scores: of some of them, by label.
        seed: of the random orders.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["label"] in scores:
            groups.setdefault(entry["fingerprint"], []).append(entry)
    labels = [[entry["label"] for entry in group] for group in groups.values()]
    as_one = [names for names in labels if len(names) > 1]
    if len(groups) < MIN_SETS:
        n_scored = sum(map(len, labels))
        same = f", {len(groups)} of them different" if as_one else ""
        return f"{n_scored} sets have a score{same}, and at least {MIN_SETS} are needed"
    means = [sum(scores[name] for name in names) / len(names) for names in labels]
    columns = [_figures(group[0]) for group in groups.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    figures = {name: [column.get(name) for column in columns] for name in names}
    rows = rank_correlations(figures, means, seed)
    if not rows:
        return "the scores, or all figures, are the same for all sets"
    (perfect,) = rank_correlations({"": means}, means, seed)
    # A figure that few sets have goes with the scores by chance, and says nothing of the others.
    rows.sort(key=lambda row: -row.sets)
    return Related([row._asdict() for row in rows], as_one, min(1.0, len(rows) * perfect.p))


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    return {
        name if part == name else f"{part}.{name}": value
        for part in _PARTS
        if entry[part] is not None
        for name, value in entry[part].items()
        if name not in _LEFT_OUT
    }
