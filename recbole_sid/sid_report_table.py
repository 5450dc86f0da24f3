"""The files of a SID report: Markdown, CSV, JSON. The same figures give the same bytes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.escaping import in_csv, in_markdown
from recbole_sid.files import written_whole
from recbole_sid.run_folder import write_json

NAME = "sid_report"
SUFFIXES = ("md", "csv", "json")
NOT_MEASURED = "-"
DECIMALS = 8
TITLE_LETTERS = 80
SIGNIFICANT = 0.05
STRONGEST = 12  # correlations that the page shows; all are in the JSON

Entry = dict[str, Any]


def check_folder(folder: Path, overwrite: bool) -> None:
    """InputError unless a report may be written there."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"output '{folder}': '{nearest}' is not a folder; name another --output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"no files may be written in '{nearest}': name another --output")
    for suffix in SUFFIXES:
        file = folder / f"{NAME}.{suffix}"
        if os.path.lexists(file) and not overwrite:
            raise InputError(f"'{file}' exists: name another --output, or add --overwrite")


def write_report(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Write the three files, each whole or not at all.

    Returns:
        ``result`` with its figures rounded, as in the files: rounding hides how a machine adds up.
    """
    rounded = _rounded(result)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{NAME}.json", rounded)
    for suffix, text in (("md", markdown(rounded)), ("csv", table(rounded))):
        with written_whole(folder / f"{NAME}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return rounded


def table(result: dict[str, Any]) -> str:
    """CSV: a line a set, and one of the item vectors; a column a figure."""
    rows = [_flat(entry) for entry in result["sets"]]
    if result["item_vectors"] is not None:
        rows.append(_flat({"label": "item vectors", **result["item_vectors"]}))
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([in_csv(row.get(name, "")) for name in names] for row in rows)
    return lines.getvalue()


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    sets, k = result["sets"], result["settings"]["report_neighbours"]
    parts = [
        f"# Semantic IDs of {in_markdown(result['dataset'])}",
        f"{result['items']:,} items, of {result['items_in_data']:,} in the data. All figures but "
        "those after the collision rule are of the codes without a dedup digit. A published file "
        "tells no collision rule, and the size of a level is its largest code + 1. None of the "
        "figures says by itself how good a recommender is.",
        "## How the codes are used",
        _grid(sets, _use_rows()),
        "Level by level. A prefix collides where another item has the same first codes.",
        _grid(sets, _level_rows(sets)),
        "## Agreement with the categories",
        "Level l: the code of that level by itself; prefix d: the first d codes together. "
        "Homogeneity and V-measure rise with the number of codes even where these say nothing; "
        "adjusted mutual information (AMI) does not.",
        _grid(sets, _agreement_rows(sets)),
        "## Neighbours",
        f"Hit rate: share of the items that an item co-occurs with in training (pairs by "
        f"{result['settings']['pair_source']}) among its {k} nearest, by common prefix and then "
        "Hamming distance; ties in random order."
        + _yardstick(result)
        + f" Near d: share of an item's {k} nearest items by item vectors that have its first d "
        "codes; random d: of all pairs.",
        _grid(sets, _neighbour_rows(sets)),
        *_related(result),
        "## Largest groups",
        *(part for entry in sets for part in _groups(entry)),
        *_left_out(result),
        "## Settings",
        ", ".join(f"{key} {value}" for key, value in result["settings"].items())
        + f". recbole_sid {result['recbole_sid']}; sha256 of the data `{result['data_hash']}`; of "
        "the SIDs "
        + ", ".join(f"{entry['label']} `{entry['fingerprint'][:16]}`" for entry in sets)
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


# -- rows -----------------------------------------------------------------------------------------

Row = tuple[str, Callable[[Entry], Any]]


def _use_rows() -> list[Row]:
    plain = [
        ("Distinct SIDs / items", "distinct_ratio"),
        ("Items with a SID of their own", "unique_items"),
        ("Largest group", "largest_group"),
        ("Entropy", "entropy"),
        ("Its ceiling, ln n", "entropy_ceiling"),
        ("Gini over SIDs in use", "gini"),
    ]
    return [
        ("Levels", lambda entry: " x ".join(map(str, entry["sizes"]))),
        ("Collision rule", lambda entry: entry["collision"]),
        ("Items in the file", lambda entry: entry["items_in_file"]),
        ("Of the data, missing", lambda entry: entry["items_missing"]),
        ("Not in the data", lambda entry: entry["items_unknown"]),
        ("Collision rate", _figure("codes", "collision_rate")),
        ("Collision rate before the rule", _figure("before", "collision_rate")),
        ("Collision rate after the rule", _figure("after", "collision_rate")),
        *((heading, _figure("codes", name)) for heading, name in plain),
    ]


def _level_rows(sets: Sequence[Entry]) -> list[Row]:
    figures = {
        "coverage": "Coverage",
        "dead_codes": "Dead codes",
        "perplexity": "Perplexity",
        "prefix_distinct": "Distinct prefixes",
        "prefix_collision_rate": "Prefix collision rate",
    }
    return [
        (f"{heading} {level}", _figure("codes", f"{name}_{level}"))
        for name, heading in figures.items()
        for level in _levels(sets)
    ]


def _agreement_rows(sets: Sequence[Entry]) -> list[Row]:
    figures = {
        "v_measure": "V-measure",
        "homogeneity": "Homogeneity",
        "completeness": "Completeness",
        "adjusted_mutual_information": "AMI",
    }
    levels = [(f"{level}", f"level {level}") for level in _levels(sets)]
    prefixes = [(f"prefix_{length}", f"prefix {length}") for length in _levels(sets)[1:]]
    return [
        (f"{heading}, {shown}", _figure("v_measure", f"{name}_{part}"))
        for name, heading in figures.items()
        for part, shown in [*levels, *prefixes]
    ]


def _neighbour_rows(sets: Sequence[Entry]) -> list[Row]:
    return [
        ("Hit rate", _figure("hit_rate", "hit_rate")),
        *(
            (f"{name.capitalize()} {length}", _figure("neighbourhood", f"{name}_{length}"))
            for length in _levels(sets)
            for name in ("near", "random")
        ),
    ]


def _levels(sets: Sequence[Entry]) -> range:
    """1 … the number of levels of the longest, the dedup digit left out."""
    return range(
        1, 1 + max(len(entry["sizes"]) - (entry["collision"] == "dedup") for entry in sets)
    )


def _figure(part: str, name: str) -> Callable[[Entry], Any]:
    return lambda entry: None if entry[part] is None else entry[part].get(name)


# -- cells ----------------------------------------------------------------------------------------


def _grid(sets: Sequence[Entry], rows: Sequence[Row]) -> str:
    """A row a figure, a column a set; rows that nobody has are left out."""
    figures = [(heading, [value_of(entry) for entry in sets]) for heading, value_of in rows]
    lines = [
        [heading, *map(_spelled, values)]
        for heading, values in figures
        if any(value is not None for value in values)
    ]
    if not lines:
        return "Not measured: see below, what is left out."
    head = ["", *(in_markdown(entry["label"]) for entry in sets)]
    aligned = ["---", *["---:"] * len(sets)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, aligned, *lines])


def _spelled(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < value < 0.001 else f"{value:.4f}"


def _groups(entry: Entry) -> Iterator[str]:
    yield f"### {in_markdown(entry['label'])}"
    lines = []
    for found in entry["largest_groups"]:
        names = found["items"]
        cut = [f"{n[: TITLE_LETTERS - 1]}…" if len(n) > TITLE_LETTERS else n for n in names]
        short = [in_markdown(name) for name in cut]
        more = "; …" if found["size"] > len(names) else ""
        sid = "-".join(map(str, found["sid"]))
        lines.append(f"- {found['size']} items, {sid}: {'; '.join(short)}{more}")
    yield "\n".join(lines) or "No two items share a SID."


def _left_out(result: dict[str, Any]) -> list[str]:
    lines = "\n".join(f"- {line}" for line in result["left_out"])
    return ["## Left out", lines] if lines else []


def _related(result: dict[str, Any]) -> list[str]:
    rows = result["correlations"]
    if rows is None:
        return []
    scored = [entry for entry in result["sets"] if entry["score"] is not None]
    n_sets = _different(result)
    below = sum(row["adjusted"] < SIGNIFICANT for row in rows)
    notes = score_notes(result, in_markdown)
    head = ["| figure | rho | p | p, corrected | sets |", "| --- | ---: | ---: | ---: | ---: |"]
    lines = [
        f"| {row['figure']} | {row['rho']:+.2f} | {row['p']:.4f} | {row['adjusted']:.4f} | "
        f"{row['sets']} |"
        for row in rows[:STRONGEST]
    ]
    return [
        "## What goes with a recommender's scores",
        f"Scores ({result['scores_from']}): "
        + ", ".join(f"{in_markdown(entry['label'])} {entry['score']:.4f}" for entry in scored)
        + f". Spearman's rank correlation over these {n_sets} sets, for {len(rows)} figures, "
        f"the {len(lines)} strongest, those that most sets have first; p: how often the scores in "
        "a random order give as much, before and after Holm's correction for all "
        f"{len(rows)}. Below .05 after it: {below}.",
        *([" ".join(notes)] if notes else []),
        "\n".join([*head, *lines]),
    ]


def score_notes(result: Mapping[str, Any], spell: Callable[[str], str]) -> list[str]:
    """Sentences on what the correlations of a report can say.

    Args:
        spell: how a label stands where the sentences go.
    """
    notes = [
        f"{', '.join(map(spell, names))} have the same SIDs: they count as one set, with the mean "
        "of their scores."
        for names in result["scored_as_one"]
    ]
    if result["least_p"] > SIGNIFICANT:
        notes.append(
            f"With {_different(result)} sets and {len(result['correlations'])} figures the "
            f"smallest p after correction that could be reached is {result['least_p']:.4f}: "
            "whatever goes with the scores, it cannot be told from chance here."
        )
    return notes


def _different(result: Mapping[str, Any]) -> int:
    """How many different sets have a score."""
    scored = sum(entry["score"] is not None for entry in result["sets"])
    return scored - sum(len(names) - 1 for names in result["scored_as_one"])


def _yardstick(result: dict[str, Any]) -> str:
    measured = [entry["hit_rate"] for entry in result["sets"] if entry["hit_rate"] is not None]
    if not measured:
        return ""
    first, vectors = measured[0], result["item_vectors"]
    by_vectors = (
        "" if vectors is None else f"by item vectors {vectors['hit_rate']['hit_rate']:.4f}, "
    )
    return (
        f" For comparison: {by_vectors}in random order {first['chance']:.4f}, the highest possible "
        f"{first['ceiling']:.4f}; over {first['items']:,} items that have such neighbours."
    )


def _flat(entry: Entry) -> dict[str, Any]:
    """A line of the CSV: the figures of a part under ``part.name``."""
    row: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            row |= {f"{name}.{inner}": figure for inner, figure in value.items()}
        elif name == "sizes":
            row[name] = " ".join(map(str, value))
        elif value is not None and name != "largest_groups":
            row[name] = value
    return row


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
