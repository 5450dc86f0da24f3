"""The tables of the page: cells with what is shown and what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_sid.comparison.grid_table import SPLITS, grid_cells
from recbole_sid.comparison.writing import state
from recbole_sid.page.sources import Document, Run, spelled
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs

SIGNIFICANT = 0.05  # the corrected p below which a difference is marked
_CAPTIONS = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hit": "Hit"}


@dataclass(frozen=True)
class Cell:
    """``text`` is shown; ``value`` is what a column is sorted by, None for a cell without one."""

    text: str
    value: float | str | None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """``columns``: heading, and whether it holds numbers; a row has a cell a column."""

    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def comparison_tables(document: Document) -> list[Table]:
    """Test, validation, reach and cost of the models of ``comparison.json``."""
    result = document.content
    names = list(dict.fromkeys(name for row in result["models"] for name in row["cells"]))
    test = [name for name in names if name.startswith("test/")]
    valid = [name for name in names if name.startswith("valid/")]
    reach = [name for name in names if name.partition("_")[0].partition("@")[0] in _REACH]
    cost = [name for name in names if name in _COSTS]
    dataset = spelled(str(result["dataset"]))
    differences = [
        (spelled(str(against)), tests)
        for against, tests in result.get("significance", {}).items()
        if tests
    ]
    note = "Mean over seeds, ± sample standard deviation where there are several; best in bold."
    marked = (
        " The columns “less …” give the difference in "
        f"{_heading(result['metric'])} over users; * marks those whose p, corrected by Holm over "
        f"a paired bootstrap, is below {SIGNIFICANT}."
        if differences
        else ""
    )
    tables = [
        _compared(f"Test, {dataset}", result, test, note + marked, differences),
        _compared(f"Validation, {dataset}", result, valid, note),
        _compared(
            f"What is recommended and found, {dataset}",
            result,
            reach,
            "Coverage: share of the catalogue in any list. Popularity: mean training interactions "
            "of a recommended item. Recall of head, middle, tail, cold and unseen targets, by "
            "their training interactions.",
        ),
        _compared(
            f"Cost, {dataset}",
            result,
            cost,
            "Seconds of SIDs are few where the cache had them.",
        ),
    ]
    return [*_grid_tables(result, dataset), *(one for one in tables if len(one.columns) > 2)]


def _grid_tables(result: Mapping[str, Any], dataset: str) -> list[Table]:
    """Tokenizers by generators, a table a split, where the comparison was one of pairs."""
    grid = result.get("grid")
    if grid is None:
        return []
    columns = (("Tokenizer", False), *((spelled(name), True) for name in grid["generators"]))
    found = []
    for split, title in SPLITS:
        cells = grid_cells(result, split)
        means = [cell.mean for row in cells for cell in row if cell.mean is not None]
        if not means:
            continue
        rows = tuple(
            (
                _word(tokenizer),
                *(Cell(cell.text, cell.mean, cell.mean == max(means)) for cell in row),
            )
            for tokenizer, row in zip(grid["tokenizers"], cells, strict=True)
        )
        heading = _heading(result["metric"])
        note = f"{heading}, mean over seeds, ± sample standard deviation; best of all in bold."
        found.append(
            Table(f"Tokenizers and generators, {title.lower()}, {dataset}", columns, rows, note)
        )
    return found


_REACH = ("coverage", "popularity", "recall")
_COSTS = {
    "tokenize_seconds": ("SIDs, s", "{:,.0f}"),
    "train_seconds": ("Training, s", "{:,.0f}"),
    "test_ms_per_user": ("Test, ms a user", "{:.2f}"),
    "peak_memory_mb": ("Peak memory, MiB", "{:,.0f}"),
    "parameters": ("Parameters", "{:,.0f}"),
}


def _compared(
    title: str,
    result: Mapping[str, Any],
    names: Sequence[str],
    note: str,
    differences: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]] = (),
) -> Table:
    rows = result["models"]
    spell = {name: _COSTS.get(name, ("", _format(name)))[1] for name in names}
    # More is better of these alone.
    ranked = [name for name in names if name.startswith(("test/", "valid/", "recall_"))]
    best = {
        name: max(row["cells"][name]["mean"] for row in rows if name in row["cells"])
        for name in ranked
    }
    lines = []
    for row in rows:
        finished = sum(run["state"] == "finished" for run in row["runs"])
        n = len(row["runs"])
        cells = [
            _word(row["model"]),
            Cell(str(finished) if finished == n else f"{finished} of {n}", finished),
        ]
        for name in names:
            cell = row["cells"].get(name)
            if cell is None:
                missing = "not measured" if row["cells"] else state(row).partition(":")[0]
                cells.append(Cell(missing, None))
                continue
            text = spell[name].format(cell["mean"])
            if cell["sd"] is not None and name != "parameters":
                text += f" ± {spell[name].format(cell['sd'])}"
            cells.append(Cell(text, cell["mean"], cell["mean"] == best.get(name)))
        for _, tests in differences:
            one = tests.get(row["model"])
            if one is None:
                cells.append(Cell("", None))
            else:
                mark = " *" if one["adjusted"] < SIGNIFICANT else ""
                cells.append(
                    Cell(f"{one['mean']:+.4f}{mark} (p {one['adjusted']:.4f})", one["mean"])
                )
        lines.append(tuple(cells))
    headings = [_COSTS[name][0] if name in _COSTS else _heading(name) for name in names]
    columns = [("Model", False), ("Seeds", True), *((heading, True) for heading in headings)]
    columns += [(f"less {against}", True) for against, _ in differences]
    return Table(title, tuple(columns), tuple(lines), note)


def _heading(name: str) -> str:
    key, at, k = name.rpartition("/")[2].partition("@")
    first, _, group = key.partition("_")
    shown = _CAPTIONS.get(first, first.capitalize())
    return f"{shown}{at}{k} {group}".strip()


def _format(name: str) -> str:
    if name.startswith("popularity"):
        return "{:.1f}"
    return "{:.3f}" if name.startswith("coverage") else "{:.4f}"


def runs_table(runs: Sequence[Run]) -> Table:
    """The runs one by one, with the test figures that they have."""
    measured = dict.fromkeys(
        name
        for run in runs
        for name in run.result["test_result"] or {}
        if name.partition("@")[0] in _CAPTIONS
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
                _word(run.label),
                _word(run.result["model"]),
                _word(run.result["dataset"]),
                *(_number(test.get(name), "{:.4f}") for name in names),
                _number(minutes(run), "{:,.1f}"),
                _number(seconds.get("test"), "{:,.1f}"),
                _number(run.result.get("parameters"), "{:,}"),
                _number(rate, "{:.2%}"),
            )
        )
    columns = [("Run", False), ("Class", False), ("Data", False)]
    columns += [(_heading(name), True) for name in names]
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
    """Of SIDs and of training together."""
    seconds = run.timing["seconds"]
    return (seconds["tokenize"] + seconds.get("train", 0.0)) / 60


def sids_table(sets: Mapping[str, tuple[str, SemanticIDs]]) -> Table:
    """How the codes of each set are used; the data set and the SIDs by label."""
    figures = [
        ("Collision rate", "collision_rate", "{:.2%}"),
        ("Distinct SIDs / items", "distinct_ratio", "{:.4f}"),
        ("Largest group", "largest_group", "{:,}"),
        ("Entropy, nats", "entropy", "{:.3f}"),
        ("Gini", "gini", "{:.3f}"),
    ]
    deepest = max(sids.n_base_levels for _, sids in sets.values())
    levels = range(1, deepest + 1)
    figures += [(f"Perplexity {level}", f"perplexity_{level}", "{:,.1f}") for level in levels]
    rows = []
    for label, (dataset, sids) in sets.items():
        found = quality(sids)
        rows.append(
            (
                _word(label),
                _word(dataset),
                _number(sids.n_items, "{:,}"),
                _word(" x ".join(map(str, sids.sizes))),
                _word(sids.collision),
                *(_number(found.get(name), form) for _, name, form in figures),
            )
        )
    columns = [("SIDs", False), ("Data", False), ("Items", True), ("Levels", False)]
    columns += [("Collision rule", False), *((heading, True) for heading, _, _ in figures)]
    return Table(
        "Semantic IDs",
        tuple(columns),
        tuple(rows),
        "All figures are of the codes without a dedup digit. None of them says by itself how good "
        "a recommender is.",
    )


def report_table(document: Document) -> Table:
    """A SID report: a row a set."""
    entries = document.content["sets"]
    depth = max(len(one["sizes"]) - (one["collision"] == "dedup") for one in entries)
    columns: list[tuple[str, Callable[[Any], Any], str]] = [
        ("Collision rate", _figure("codes", "collision_rate"), "{:.2%}"),
        ("before the rule", _figure("before", "collision_rate"), "{:.2%}"),
        ("after the rule", _figure("after", "collision_rate"), "{:.2%}"),
        ("Items with a SID of their own", _figure("codes", "unique_items"), "{:,}"),
        ("Largest group", _figure("codes", "largest_group"), "{:,}"),
        ("Entropy, nats", _figure("codes", "entropy"), "{:.3f}"),
        ("Gini", _figure("codes", "gini"), "{:.3f}"),
        ("Hit rate", _figure("hit_rate", "hit_rate"), "{:.4f}"),
        *_levels("Near", "neighbourhood", "near_{}", depth),
        *_levels("AMI, prefix", "v_measure", "adjusted_mutual_information_prefix_{}", depth),
    ]
    kept = [column for column in columns if any(column[1](one) is not None for one in entries)]
    rows = [
        (
            _word(one["label"]),
            _word(" x ".join(map(str, one["sizes"]))),
            _word(one["collision"]),
            *(_number(of(one), form) for _, of, form in kept),
        )
        for one in entries
    ]
    dataset = spelled(str(document.content["dataset"]))
    return Table(
        f"SID report {document.label}, {dataset}",
        (
            ("SIDs", False),
            ("Levels", False),
            ("Collision rule", False),
            *((heading, True) for heading, _, _ in kept),
        ),
        tuple(rows),
        "As the command sids measured them. Hit rate: items that go together in training, among "
        "the nearest by SID. Near l: nearest items by vectors that have the same first l codes. "
        "AMI: agreement with the categories, corrected for chance.",
    )


def correlation_table(document: Document) -> Table | None:
    """Which figures of the SIDs go with a recommender's scores; None where nothing says."""
    found = document.content.get("correlations")
    if not found:
        return None
    rows = tuple(
        (
            _word(row["figure"]),
            _number(row["rho"], "{:+.2f}"),
            _number(row["p"], "{:.3f}"),
            _number(row["adjusted"], "{:.3f}"),
            _number(row["sets"], "{}"),
        )
        for row in found
    )
    headings = ("Rank correlation", "p", "p, corrected", "Sets")
    return Table(
        f"What goes with a recommender's scores, SID report {document.label}",
        (("Figure", False), *((heading, True) for heading in headings)),
        rows,
        "Spearman's; p: how often the scores in a random order give as much, before and after "
        f"Holm's correction for all {len(rows)} figures.",
    )


def _levels(
    heading: str, part: str, name: str, depth: int
) -> Iterator[tuple[str, Callable[[Any], Any], str]]:
    for level in range(1, depth + 1):
        yield f"{heading} {level}", _figure(part, name.format(level)), "{:.4f}"


def _figure(part: str, name: str) -> Callable[[Any], Any]:
    return lambda entry: (entry.get(part) or {}).get(name)


def _word(text: object) -> Cell:
    shown = spelled(str(text))
    return Cell(shown, shown)


def _number(value: Any, form: str) -> Cell:
    return Cell("-", None) if value is None else Cell(form.format(value), value)
