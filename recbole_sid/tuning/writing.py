"""What a search leaves: the table of trials, the importance of the settings, the best settings.

``result.json``, ``trials.csv``, ``trials.md`` and ``best.yaml`` follow from settings, data and seed
alone; how long trials took stands in ``timing.json``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from recbole_sid.escaping import in_csv, in_markdown
from recbole_sid.files import written_whole
from recbole_sid.run_folder import write_json
from recbole_sid.tuning.importance import LEAST_TRIALS, importance
from recbole_sid.tuning.journal import Journal, Record
from recbole_sid.tuning.plan import Plan
from recbole_sid.tuning.running import threads

BEST = "best.yaml"
RESULT = "result.json"


def write_results(plan: Plan, journal: Journal) -> dict[str, Any]:
    """Write all files, each whole or not at all; gives what ``result.json`` holds."""
    ranked = journal.ranked()
    best = journal.best()
    assert best is not None, "a search without a finished trial is refused before"
    trials = [{k: v for k, v in asdict(one).items() if k != "seconds"} for one in ranked]
    result: dict[str, Any] = {
        "model": plan.base["model"],
        "dataset": plan.base["dataset"],
        "engine": plan.settings.engine,
        "algo": plan.settings.algo,
        "seed": plan.seed,
        "metric": plan.metric,
        "valid_score_bigger": plan.bigger,
        "space": plan.space.plain(),
        "best_trial": best.trial,
        "best_valid_score": best.score,
        "best_valid_result": best.metrics,
        "best_params": best.params,
        "importance": importance(plan.space, ranked, plan.seed),
        "trials": trials,
    }
    seconds = {str(one.trial): one.seconds for one in sorted(ranked, key=lambda one: one.trial)}
    write_json(plan.folder / "timing.json", {"threads": threads(plan), "seconds": seconds})
    for name, text in (
        ("trials.csv", table(plan, ranked)),
        ("trials.md", markdown(plan, result, ranked)),
        (BEST, best_settings(plan, best)),
    ):
        with written_whole(plan.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    write_json(plan.folder / RESULT, result)
    return result


def table(plan: Plan, ranked: list[Record]) -> str:
    """CSV: a line a trial, best first."""
    metrics = list(dict.fromkeys(key for one in ranked for key in one.metrics or {}))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    head = ["trial", "state", *plan.space.keys, "score", "epochs", "same_as", *metrics, "reason"]
    writer.writerow(head)
    for one in ranked:
        settings = [_spelled(in_csv(one.params[key])) for key in plan.space.keys]
        reason = in_csv(one.reason)
        measured = [(one.metrics or {}).get(key, "") for key in metrics]
        score = "" if one.score is None else one.score
        same = "" if one.same_as is None else one.same_as
        writer.writerow(
            [one.trial, one.state, *settings, score, _epochs(one), same, *measured, reason]
        )
    return lines.getvalue()


def markdown(plan: Plan, result: Mapping[str, Any], ranked: list[Record]) -> str:
    """The report."""
    states = [one.state for one in ranked]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("finished", "stopped", "failed")
    )
    rows = [["Trial", f"Valid {plan.metric}", "Epochs", "State", *plan.space.keys]]
    rows.append(["---:", "---:", "---:", "---", *["---"] * len(plan.space.keys)])
    for one in ranked:
        score = "~" if one.score is None else f"{one.score:.6f}"
        note = f"{one.state}, as trial {one.same_as}" if one.same_as else one.state
        settings = [_spelled(one.params[key]) for key in plan.space.keys]
        rows.append([str(one.trial), score, str(_epochs(one)), note, *settings])
    shares = result["importance"]
    named = [["Setting", "Importance"], ["---", "---:"]]
    for key in sorted(plan.space.keys, key=lambda key: -shares[key] if shares else 0):
        named.append([key, f"{shares[key]:.3f}" if shares else "~"])
    failed = [
        f"- Trial {one.trial} failed: {in_markdown(one.reason)}" for one in ranked if one.reason
    ]
    own = plan.settings
    parts = [
        f"# {in_markdown(result['model'])} on {in_markdown(result['dataset'])}: "
        f"{len(ranked)} trials",
        f"Engine {own.engine}, algorithm {own.algo}, seed {plan.seed}; {counts}. Scores are on the "
        "validation split, of each trial's best epoch; the test split was not read. Epochs: those "
        "up to the last validation. Stopped: ended early by ASHA, ranked behind the finished ones.",
        _grid(rows),
        "## Importance of the settings",
        "Share of the loss in a random forest's account of the scores when a setting is shuffled "
        f"(~: fewer than {LEAST_TRIALS} finished trials, or equal scores). A hint, not a test.",
        _grid(named),
        *(["## Failed trials", "\n".join(failed)] if failed else []),
        "## The best settings",
        f"`recbole-sid run --config_files {BEST}` trains them, and tests.",
    ]
    return "\n\n".join(parts) + "\n"


def best_settings(plan: Plan, best: Record) -> str:
    """All settings of a trial as yaml, as a run takes them; those that were searched come first."""
    settings = plan.config(best.params).to_plain()
    tuned = {key: settings.pop(key) for key in plan.space.keys}
    return "\n".join(
        [
            f"# Trial {best.trial} of {plan.total}: validation {plan.metric} {best.score:.6f},",
            f"# with {threads(plan)} threads (OMP_NUM_THREADS): with others it may differ a bit.",
            "# What was searched:",
            yaml.safe_dump(tuned, sort_keys=False).rstrip(),
            "# All other settings:",
            yaml.safe_dump(settings, sort_keys=True),
        ]
    )


def _epochs(one: Record) -> int:
    return int(one.evaluations[-1][0]) + 1 if one.evaluations else 0


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _grid(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(in_markdown, row))} |" for row in rows)
