"""The tables of a search by ``tune``: its trials, and how much each setting mattered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recbole_sid.page.sources import Document, spelled
from recbole_sid.page.tables import Cell, Table, number, word


def search_tables(document: Document) -> list[Table]:
    """The trials of ``result.json``, best first, and the importance of the settings if it is known.

    The first table also tells why trials failed.
    """
    result = document.content
    trials, shares = result["trials"], result["importance"]
    name = f"{spelled(str(result['model']))} on {spelled(str(result['dataset']))}"
    distinct = len({one["score"] for one in trials}) > 1
    rows = tuple(
        (
            number(one["trial"], "{}"),
            _score(one, best=distinct and one["trial"] == result["best_trial"]),
            number(int(one["evaluations"][-1][0]) + 1 if one["evaluations"] else None, "{}"),
            word(one["state"] + (f", as trial {one['same_as']}" if one["same_as"] else "")),
            *(_setting(one["params"][key]) for key in result["space"]),
        )
        for one in trials
    )
    columns = [("Trial", True), (f"Valid {spelled(str(result['metric']))}", True)]
    columns += [("Epochs", True), ("State", False)]
    columns += [(spelled(key), _numeric(result, key)) for key in result["space"]]
    unknown = "" if shares else " Too few trials, or equal scores, tell no importance of settings."
    found = [
        Table(
            f"Trials of {name}, {document.label}",
            tuple(columns),
            rows,
            f"Engine {result['engine']}, algorithm {result['algo']}, seed {result['seed']}. Scores "
            "are on the validation split, of each trial's best epoch; the test split was not read. "
            "Stopped: ended early, ranked behind the finished ones." + unknown,
            tuple(
                spelled(f"Trial {one['trial']} failed: {one['reason']}")
                for one in trials
                if one["reason"]
            ),
        )
    ]
    if shares:
        ranked = sorted(shares, key=lambda key: -shares[key])
        found.append(
            Table(
                f"Importance of the settings of {name}, {document.label}",
                (("Setting", False), ("Importance", True)),
                tuple((word(key), number(shares[key], "{:.3f}")) for key in ranked),
                "Share of the loss in a random forest's account of the scores when a setting is "
                "shuffled. A hint, not a test.",
            )
        )
    return found


def _score(trial: Mapping[str, Any], best: bool) -> Cell:
    score = trial["score"]
    return Cell("-", None) if score is None else Cell(f"{score:.6f}", score, best)


def _setting(value: Any) -> Cell:
    """Numbers are sorted as such, all else by what it says."""
    if type(value) in (int, float):
        return number(value, "{}")
    return word(value if isinstance(value, str) else json.dumps(value))


def _numeric(result: Mapping[str, Any], key: str) -> bool:
    return all(type(one["params"][key]) in (int, float) for one in result["trials"])
