"""The tables of a comparison: Markdown, CSV, LaTeX, JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.comparison.statistics import GROUPS
from recbole_sid.escaping import in_csv, in_latex, in_markdown, in_one_line
from recbole_sid.files import written_whole
from recbole_sid.run_folder import write_json

NOT_RUN = "not run"
_CAPTIONS = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hit": "Hit"}


class Column(NamedTuple):
    """A figure of every model: its name among the cells, its heading, how it is spelled.

    ``best``: whether the highest is marked; ``sd``: whether it can differ between seeds.
    """

    name: str
    heading: str
    spell: Callable[[float], str]
    best: bool = False
    sd: bool = True


def write_tables(folder: Path, result: dict[str, Any]) -> None:
    """Write ``comparison.md``, ``.csv``, ``.tex`` and ``.json``, each whole or not at all."""
    write_json(folder / "comparison.json", result)
    for suffix, text in (("md", markdown(result)), ("csv", table(result)), ("tex", latex(result))):
        with written_whole(folder / f"comparison.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    counts, hashes = result["counts"], result["split_hash"]
    cold = f"cold: fewer than {result['cold_below']}"
    share = result["withheld_items"]
    unseen = f"not one; {share:.3g} of all items are withheld" if share else "not one"
    groups = {**{name: name for name in GROUPS}, "cold": cold, "unseen": f"unseen: {unseen}"}
    targets = result["targets"]
    parts = [
        f"# Comparison on {in_markdown(result['dataset'])}",
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} "
        f"interactions. {_split(result)} Full ranking at item level: every item "
        "of the catalogue can be recommended, and a hit is the item itself. All models see the "
        f"same users, items, histories and targets. sha256 of the test split: `{hashes['test']}`, "
        f"validation `{hashes['valid'][:16]}`, training `{hashes['train'][:16]}`.",
        "Mean over seeds" + (" ± sample standard deviation" if _has_sd(result) else "") + "; best "
        f"in bold. {listed_again(result)}{_tuning(result)}",
        "## Test",
        _grid(result, _metrics(result, "test"), [_history]),
        *_significance(result),
        "## Validation",
        _grid(result, _metrics(result, "valid")),
        "## Which items are recommended, and whose targets are found",
        "Coverage: share of the catalogue in any list. Popularity: mean training interactions of "
        "a recommended item. Recall by the target's training interactions: head, middle and tail "
        "items hold a third of all each; "
        + "; ".join(
            f"{groups[name]}: {size['items']:,} items, targets of {size['users']:,} users"
            for name, size in targets.items()
        )
        + ".",
        _grid(result, _reach(result)),
        "## Cost",
        "SIDs from the cache count as what their fit once took. Milliseconds a user: the test "
        "split, weights loaded first. Peak memory: of the whole process, Python and packages too."
        f"{_threads(result)}",
        _grid(result, _costs(), [_trials]),
        *_refusals(result),
        *_failures(result),
    ]
    return "\n\n".join(parts) + "\n"


def table(result: dict[str, Any]) -> str:
    """CSV: a line a model; of every figure the mean, the standard deviation and the seeds."""
    names = list(dict.fromkeys(name for row in result["models"] for name in row["cells"]))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    parts = ("mean", "sd", "n")
    writer.writerow(
        ["model", "class", "trials", "state", *(f"{n} {part}" for n in names for part in parts)]
    )
    for row in result["models"]:
        cells = [row["cells"].get(name, {}) for name in names]
        values = [cell.get(part) for cell in cells for part in parts]
        shown = ["" if value is None else value for value in (row["trials"], state(row), *values)]
        writer.writerow(map(in_csv, [row["model"], row["class"], *shown]))
    return lines.getvalue()


def listed_again(result: Mapping[str, Any]) -> str:
    """Whether lists may hold what the user had before."""
    if result["exclude_history"]:
        return "No list holds what its user had before the target (exclude_history)."
    return (
        "RecBole's general models never list what a user had before; sequential ones and "
        "semantic-ID models may (exclude_history is off), which costs them places where nobody "
        "takes an item twice."
    )


def _split(result: dict[str, Any]) -> str:
    """What validates and what tests."""
    valid, test = (f"{result['counts'][name]:,}" for name in ("valid", "test"))
    if result["split_times"] is None:
        return (
            f"The last item of a user is the test ({test} users), the one before it the "
            f"validation ({valid})."
        )
    begin, end = result["split_times"]
    return (
        f"Split in time: items before {begin} train, those from then on and before {end} validate "
        f"({valid} rows), those from then on test ({test} rows, several of a user; a user's share "
        "counts in the significance)."
    )


def latex(result: dict[str, Any]) -> str:
    """A ``tabular`` of the test figures for ``booktabs``."""
    columns = _metrics(result, "test")
    head = " & ".join(["Model", *(in_latex(column.heading) for column in columns)])
    lines = [
        f"% {in_one_line(result['dataset'])}, full ranking at item level, "
        f"{result['counts']['test']} users",
        f"% sha256 of the test split: {result['split_hash']['test']}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
    ]
    for row in result["models"]:
        cells = _cells(result, row, columns, lambda text: f"\\textbf{{{text}}}")
        shown = [cell.replace("±", "$\\pm$") for cell in cells]
        lines.append(" & ".join([in_latex(row["model"]), *shown]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def state(row: dict[str, Any]) -> str:
    """``finished``, ``not run``, ``refused: …`` or ``failed: …``, of a model's runs together."""
    states = {run["state"] for run in row["runs"]}
    if states == {"finished"}:
        return "finished"
    for run in row["runs"]:
        if run["state"] in ("refused", "failed"):
            return f"{run['state']}: {run['reason']}"
    return NOT_RUN if states == {NOT_RUN} else "some seeds not run"


# -- columns --------------------------------------------------------------------------------------


def _metrics(result: dict[str, Any], split: str) -> list[Column]:
    names = dict.fromkeys(name for row in result["models"] for name in row["cells"])
    shown = [name for name in names if name.startswith(f"{split}/")]
    return [
        Column(name, heading(name.partition("/")[2]), "{:.4f}".format, best=True) for name in shown
    ]


def heading(metric: str) -> str:
    """``ndcg@10`` as it is spelled in tables."""
    key, _, k = metric.partition("@")
    return f"{_CAPTIONS[key]}@{k}"


def _reach(result: dict[str, Any]) -> list[Column]:
    k = max(result["topk"])
    found = [
        Column(f"recall_{name}@{k}", f"Recall@{k} {name}", "{:.4f}".format, best=True)
        for name in result["targets"]
    ]
    spread = [Column(f"coverage@{k}", f"Coverage@{k}", "{:.3f}".format) for k in result["topk"]]
    liked = [Column(f"popularity@{k}", f"Popularity@{k}", "{:.1f}".format) for k in result["topk"]]
    return [*found, *spread, *liked]


def _costs() -> list[Column]:
    return [
        Column("tokenize_seconds", "SIDs, s", "{:,.0f}".format),
        Column("train_seconds", "Training, s", "{:,.0f}".format),
        Column("test_ms_per_user", "Test, ms a user", "{:.2f}".format),
        Column("peak_memory_mb", "Peak memory, MiB", "{:,.0f}".format),
        Column("parameters", "Parameters", "{:,.0f}".format, sd=False),
    ]


def _trials(row: dict[str, Any]) -> tuple[str, str]:
    return "Tuning trials", "not given" if row["trials"] is None else str(row["trials"])


def _history(row: dict[str, Any]) -> tuple[str, str]:
    return "Sees of a history", row["history"]


def _tuning(result: dict[str, Any]) -> str:
    """A sentence where the models were not tuned alike, as far as numbers of trials are given."""
    given = {row["model"]: row["trials"] for row in result["models"] if row["trials"] is not None}
    if len(set(given.values())) < 2:
        return ""
    least, most = (in_markdown(pick(given, key=given.__getitem__)) for pick in (min, max))
    unknown = len(result["models"]) - len(given)
    rest = f", and for {unknown} of the models no number is given" if unknown else ""
    return (
        f" The models were not tuned equally: with {min(given.values())} ({least}) to "
        f"{max(given.values())} ({most}) trials{rest}; more trials favour a model."
    )


def _threads(result: dict[str, Any]) -> str:
    """A sentence on the threads of the runs that have ended."""
    found: dict[int, list[str]] = {}
    for row in result["models"]:
        for n in row["threads"]:
            found.setdefault(n, []).append(in_markdown(row["model"]))
    if len(found) < 2:
        return "".join(f" Every run had {n} thread{'s'[: n > 1]}." for n in found)
    told = "; ".join(f"{n}: {', '.join(found[n])}" for n in sorted(found))
    return f" Threads were not the same, so that seconds do not compare: {told}."


# -- cells ----------------------------------------------------------------------------------------


def _cells(
    result: dict[str, Any],
    row: dict[str, Any],
    columns: Sequence[Column],
    bold: Callable[[str], str],
) -> list[str]:
    shown = []
    for column in columns:
        cell = row["cells"].get(column.name)
        if cell is None:
            missing = "not measured" if row["cells"] else state(row).partition(":")[0]
            shown.append(missing)
            continue
        text = column.spell(cell["mean"])
        if cell["mean"] == _highest(result, column):
            text = bold(text)
        spread = column.sd and cell["sd"] is not None
        shown.append(f"{text} ± {column.spell(cell['sd'])}" if spread else text)
    return shown


def _highest(result: dict[str, Any], column: Column) -> float | None:
    """The figure that is marked; None where none is, or all are spelled alike."""
    rows = [row["cells"][column.name] for row in result["models"] if column.name in row["cells"]]
    means = [cell["mean"] for cell in rows]
    alike = len(set(map(column.spell, means))) < 2
    return None if alike or not column.best else max(means)


def _grid(
    result: dict[str, Any],
    columns: Sequence[Column],
    words: Sequence[Callable[[dict[str, Any]], tuple[str, str]]] = (),
) -> str:
    rows = result["models"]
    if not columns:
        return "Not run." if not any(row["cells"] for row in rows) else "Not measured."
    headings = ["Model", "Seeds", *(column.heading for column in columns)]
    lines = []
    for row in rows:
        n = sum(run["state"] == "finished" for run in row["runs"])
        seeds = str(n) if n == len(row["runs"]) else f"{n} of {len(row['runs'])}"
        cells = _cells(result, row, columns, "**{}**".format)
        told = (in_markdown(word(row)[1]) for word in words)
        lines.append([in_markdown(row["model"]), seeds, *cells, *told])
    headings += [word(rows[0])[0] for word in words]
    aligned = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, aligned, *lines])


def _significance(result: dict[str, Any]) -> list[str]:
    by_metric = {result["metric"]: result["significance"], **result["further_significance"]}
    metrics = {name: heading(name.partition("/")[2]) for name in by_metric}
    first = metrics[result["metric"]]
    parts = []
    if result["best"] is None and any(row["cells"] for row in result["models"]):
        parts = ["No model has a figure on validation, so that none is the best to test against."]
    for against, tests in result["significance"].items():
        if not tests:
            continue
        role = "the reference"
        if against == result["best"]:
            role = f"the best by {first} on validation (not on the test figures compared here)"
        lines = [
            f"| {in_markdown(label)} | {metrics[name]} | {one['mean']:+.4f} "
            f"| {one['low']:+.4f} to {one['high']:+.4f} | {one['p']:.4f} | {one['adjusted']:.4f} |"
            for label in tests
            for name, found in by_metric.items()
            for one in [found[against][label]]
        ]
        parts += [
            f"Against {in_markdown(against)}, {role}: difference in "
            f"{' and '.join(metrics.values())} over users (of each the mean over seeds), paired "
            f"bootstrap with {result['resamples']:,} resamples, p corrected by Holm for all "
            f"{len(lines)} comparisons of this table. It holds for these runs: how far other seeds "
            "would differ is what ± says.",
            "\n".join(
                [
                    "| Model | Metric | Difference | 95 % interval | p | p, corrected |",
                    "| --- | --- | ---: | ---: | ---: | ---: |",
                    *lines,
                ]
            ),
        ]
    return parts


def _refusals(result: dict[str, Any]) -> list[str]:
    words = [(row["model"], state(row)) for row in result["models"]]
    told = [(label, word) for label, word in words if word.startswith("refused")]
    lines = [f"- {in_markdown(label)}, {in_markdown(word)}" for label, word in told]
    return ["## Refused pairs", "\n".join(lines)] if lines else []


def _failures(result: dict[str, Any]) -> list[str]:
    lines = [
        f"- {in_markdown(row['model'])}, seed {run['seed']}, failed: "
        f"{in_markdown(run['reason'])} (log: {in_markdown(run['log'])})"
        for row in result["models"]
        for run in row["runs"]
        if run["state"] == "failed"
    ]
    return ["## Failed runs", "\n".join(lines)] if lines else []


def _has_sd(result: dict[str, Any]) -> bool:
    return any(cell["sd"] is not None for row in result["models"] for cell in row["cells"].values())
