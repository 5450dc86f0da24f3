"""The tables on SIDs: how codes are used, SID reports, what goes with a recommender's scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recbole_sid.page.sources import Document, spelled
from recbole_sid.page.tables import Table, number, word
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid_report_table import score_notes


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
                word(label),
                word(dataset),
                number(sids.n_items, "{:,}"),
                word(" x ".join(map(str, sids.sizes))),
                word(sids.collision),
                *(number(found.get(name), form) for _, name, form in figures),
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
            word(one["label"]),
            word(" x ".join(map(str, one["sizes"]))),
            word(one["collision"]),
            *(number(of(one), form) for _, of, form in kept),
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
            word(row["figure"]),
            number(row["rho"], "{:+.2f}"),
            number(row["p"], "{:.3f}"),
            number(row["adjusted"], "{:.3f}"),
            number(row["sets"], "{}"),
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
        tuple(score_notes(document.content, spelled)),
    )


def _levels(
    heading: str, part: str, name: str, depth: int
) -> Iterator[tuple[str, Callable[[Any], Any], str]]:
    for level in range(1, depth + 1):
        yield f"{heading} {level}", _figure(part, name.format(level)), "{:.4f}"


def _figure(part: str, name: str) -> Callable[[Any], Any]:
    return lambda entry: (entry.get(part) or {}).get(name)
