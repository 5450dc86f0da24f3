"""The tables of a comparison, and what has to be known to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from recbole_sid.comparison.grid_table import SPLITS, grid_cells
from recbole_sid.comparison.writing import listed_again, state
from recbole_sid.page.sources import Document, spelled
from recbole_sid.page.tables import Cell, Table, best_of, heading, number, word

SIGNIFICANT = 0.05  # the corrected p below which a difference is marked

# Of a row, a cell that is no figure: its heading, whether it is a number, and the cell.
_Told = tuple[str, bool, Callable[[Mapping[str, Any]], Cell]]

_REACH = ("coverage", "popularity", "recall")
_COSTS = {
    "tokenize_seconds": ("SIDs, s", "{:,.0f}"),
    "train_seconds": ("Training, s", "{:,.0f}"),
    "test_ms_per_user": ("Test, ms a user", "{:.2f}"),
    "peak_memory_mb": ("Peak memory, MiB", "{:,.0f}"),
    "parameters": ("Parameters", "{:,.0f}"),
}


def comparison_tables(document: Document) -> list[Table]:
    """Pairs, test, validation, reach and cost of the models of ``comparison.json``.

    The first table also tells why rows have no figures.
    """
    result = document.content
    names = list(dict.fromkeys(name for row in result["models"] for name in row["cells"]))
    test = [name for name in names if name.startswith("test/")]
    valid = [name for name in names if name.startswith("valid/")]
    reach = [name for name in names if name.partition("_")[0].partition("@")[0] in _REACH]
    cost = [name for name in names if name in _COSTS]
    dataset = spelled(str(result["dataset"]))
    # Comparisons of before have neither further tests nor withheld items.
    tested = {result["metric"]: result["significance"], **result.get("further_significance", {})}
    differences = [
        (f"{heading(name)} less {spelled(str(against))}", tests)
        for name, found in tested.items()
        for against, tests in found.items()
        if tests
    ]
    note = "Mean over seeds, ± sample standard deviation where there are several; best in bold."
    marked = (
        " The columns “… less …” give the difference in a metric over users; * marks those whose "
        f"p, corrected by Holm over a paired bootstrap, is below {SIGNIFICANT}."
        if differences
        else ""
    )
    history: _Told = ("Sees of a history", False, lambda row: word(row["history"]))
    trials: _Told = ("Tuning trials", True, _trials)
    # Comparisons of before did not write what was the rule then.
    again = listed_again({"exclude_history": False, **result})
    whole = f"{note}{marked} {_split(result)} {again}"
    # A comparison without a finished run has a test table too, to say what failed and why.
    tables = [_compared(f"Test, {dataset}", result, test, whole, differences, history)]
    if valid:
        tables.append(_compared(f"Validation, {dataset}", result, valid, note))
    if reach:
        title = f"What is recommended and found, {dataset}"
        tables.append(_compared(title, result, reach, _reach(result)))
    if cost:
        seconds = "SIDs from the cache count as what their fit once took."
        tables.append(_compared(f"Cost, {dataset}", result, cost, seconds, told=trials))
    first, *rest = [*_grid_tables(result, dataset), *tables]
    return [replace(first, details=_reasons(result)), *rest]


def _trials(row: Mapping[str, Any]) -> Cell:
    return Cell("not given", None) if row["trials"] is None else number(row["trials"], "{:,}")


def _split(result: Mapping[str, Any]) -> str:
    """What was compared on, and the hash by which another comparison is known to have had it."""
    counts, times = result["counts"], result["split_times"]
    sizes = f"{counts['valid']:,} validate and {counts['test']:,} test"
    how = (
        f"of each user's items the last one tests and the one before it validates: {sizes}"
        if times is None
        else f"items before {times[0]} train, those before {times[1]} validate, the rest test: "
        f"{sizes} rows"
    )
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} "
        f"interactions; {how}; sha256 of the test split {result['split_hash']['test']}."
    )


def _reach(result: Mapping[str, Any]) -> str:
    share = result.get("withheld_items")
    withheld = f" ({share:.3g} of all items are withheld from training)" if share else ""
    sizes = "; ".join(
        f"{spelled(name)}: {size['items']:,} items, targets of {size['users']:,} users"
        for name, size in result["targets"].items()
    )
    return (
        "Coverage: share of the catalogue in any list. Popularity: mean training interactions of a "
        "recommended item. Recall by the training interactions of the target: head, middle and "
        f"tail items hold a third of all each; cold ones have fewer than {result['cold_below']}, "
        f"unseen ones none{withheld}. {sizes}."
    )


def _reasons(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Why models, pairs and seeds of them have no figures."""
    found = []
    for row in result["models"]:
        if state(row).startswith("refused"):
            found.append(f"{row['model']}, {state(row)}")
        found += [
            f"{row['model']}, seed {run['seed']}, failed: {run['reason']}"
            for run in row["runs"]
            if run["state"] == "failed"
        ]
    return tuple(map(spelled, found))


def _grid_tables(result: Mapping[str, Any], dataset: str) -> list[Table]:
    """Tokenizers by generators, a table a split, where the comparison was one of pairs."""
    grid = result["grid"]
    if grid is None:
        return []
    columns = (("Tokenizer", False), *((spelled(name), True) for name in grid["generators"]))
    found = []
    for split, title in SPLITS:
        cells = grid_cells(result, split)
        means = [cell.mean for row in cells for cell in row if cell.mean is not None]
        if not means:
            continue
        best = best_of(means, "{:.4f}")
        rows = tuple(
            (
                word(tokenizer),
                *(Cell(c.text, c.mean, best is not None and c.mean == best) for c in row),
            )
            for tokenizer, row in zip(grid["tokenizers"], cells, strict=True)
        )
        note = (
            f"{heading(result['metric'])}, mean over seeds, ± sample standard deviation; best of "
            "all in bold."
        )
        found.append(
            Table(f"Tokenizers and generators, {title.lower()}, {dataset}", columns, rows, note)
        )
    return found


def _compared(
    title: str,
    result: Mapping[str, Any],
    names: Sequence[str],
    note: str,
    differences: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]] = (),
    told: _Told | None = None,
) -> Table:
    rows = result["models"]
    spell = {name: _COSTS.get(name, ("", _format(name)))[1] for name in names}
    # More is better of these alone.
    ranked = [name for name in names if name.startswith(("test/", "valid/", "recall_"))]
    best = {
        name: best_of([r["cells"][name]["mean"] for r in rows if name in r["cells"]], spell[name])
        for name in ranked
    }
    lines = []
    for row in rows:
        finished = sum(run["state"] == "finished" for run in row["runs"])
        n = len(row["runs"])
        cells = [
            word(row["model"]),
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
        cells += [_difference(tests.get(row["model"])) for _, tests in differences]
        if told is not None:
            cells.append(told[2](row))
        lines.append(tuple(cells))
    headings = [_COSTS[name][0] if name in _COSTS else heading(name) for name in names]
    columns = [("Model", False), ("Seeds", True), *((shown, True) for shown in headings)]
    columns += [(shown, True) for shown, _ in differences]
    columns += [] if told is None else [told[:2]]
    return Table(title, tuple(columns), tuple(lines), note)


def _difference(test: Mapping[str, float] | None) -> Cell:
    if test is None:
        return Cell("", None)
    mark = " *" if test["adjusted"] < SIGNIFICANT else ""
    return Cell(f"{test['mean']:+.4f}{mark} (p {test['adjusted']:.4f})", test["mean"])


def _format(name: str) -> str:
    if name.startswith("popularity"):
        return "{:.1f}"
    return "{:.3f}" if name.startswith("coverage") else "{:.4f}"
