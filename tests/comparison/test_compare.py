"""Whole comparisons on a small data set: what is run, what is kept, what is refused."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from recbole_sid import InputError, cli
from recbole_sid.comparison.compare import compare
from recbole_sid.comparison.plan import make_plan, with_batches
from recbole_sid.comparison.running import finished_before
from recbole_sid.comparison.splits import read_split
from recbole_sid.comparison.table import figures
from recbole_sid.comparison.writing import latex, markdown
from tests.comparison.settings import FILE, OF_ALL, OF_TIGER, SPLIT_IN_TIME, write
from tests.comparison.test_outcomes import agrees
from tests.sealing import write_json


def arguments(folder: Path, models: str, *more: str) -> list[str]:
    base = ["compare", f"--models={models}", "--dataset=ml-100k", "--show_progress=false"]
    base += [f"--settings={folder / 'settings.yaml'}", f"--output={folder / 'out'}"]
    return [*base, f"--cache_dir={folder / 'cache'}", "--resamples=200", *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, one seed, by the command line."""
    folder = tmp_path_factory.mktemp("compare")
    write(folder, FILE)
    assert cli.main(arguments(folder, "TIGER,Pop")) == 0
    return folder


def report(folder: Path) -> dict:
    return json.loads((folder / "out" / "comparison.json").read_text())


def rows(text: str, heading: str) -> dict[str, list[str]]:
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    # Of several tables, a model's row of the first.
    return {line[0]: line[1:] for line in reversed(lines)}


def test_outcomes_give_the_metrics_of_the_run(folder):
    for name in ("TIGER-2020", "Pop-2020"):
        run = folder / "out" / "runs" / name
        agrees_without_hit(run)


def agrees_without_hit(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    test = result["test_result"]
    # With one target a row, a hit is a recall.
    hits = {f"hit@{k}": test[f"recall@{k}"] for k in (5, 10)}
    agrees(run, {"test_result": test | hits})


def test_the_tables_say_the_same(folder):
    found = report(folder)
    assert [row["model"] for row in found["models"]] == ["TIGER", "Pop"]
    stored = json.loads((folder / "out" / "runs" / "Pop-2020" / "result.json").read_text())
    pop = found["models"][1]["cells"]
    assert pop["test/ndcg@10"] == {"mean": stored["test_result"]["ndcg@10"], "sd": None, "n": 1}
    assert pop["valid/recall@5"]["mean"] == stored["best_valid_result"]["recall@5"]
    text = (folder / "out" / "comparison.md").read_text()
    assert found["split_hash"]["test"] in text
    assert f"{pop['test/ndcg@10']['mean']:.4f}" in rows(text, "Test")["Pop"][4]
    assert "±" not in text.replace("what ± says", "")
    assert "Full ranking at item level" in text
    assert "No list holds what its user had before the target" in text
    told = markdown({**found, "exclude_history": False})
    assert "RecBole's general models never list what a user had before; sequential ones" in told
    lines = list(csv.DictReader((folder / "out" / "comparison.csv").open()))
    assert float(lines[1]["test/ndcg@10 mean"]) == pop["test/ndcg@10"]["mean"]
    assert lines[1]["test/ndcg@10 sd"] == ""
    assert "\\begin{tabular}" in (folder / "out" / "comparison.tex").read_text()
    # The catalogue is what the data set says, and the parts of the test users make up all.
    groups = found["targets"]
    parts = [groups[name]["users"] for name in ("head", "middle", "tail")]
    assert sum(parts) == found["counts"]["test"]


def test_one_more_model_runs_that_one_alone_and_a_failed_one_is_told(folder, capsys):
    runs = folder / "out" / "runs"
    before = {path: os.stat(path).st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    half_written = [
        folder / "out" / ".comparison.csv.7.tmp",
        folder / "out" / "settings" / ".TIGER-2020.yaml.7.tmp",
    ]
    for path in half_written:
        path.write_text("of one that was killed")
    capsys.readouterr()
    assert cli.main(arguments(folder, "TIGER,Pop,odd,SASRec", "--reference=Pop")) == 1
    assert not any(path.exists() for path in half_written)
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    assert {path.name for path in runs.iterdir()} == {"TIGER-2020", "Pop-2020", "SASRec-2020"}
    text = (folder / "out" / "comparison.md").read_text()
    assert text in capsys.readouterr().out
    test = rows(text, "Test")
    assert test["odd"] == ["0 of 1", *["failed"] * 6, "the last 20"]
    assert "- odd, seed 2020, failed: ValueError: The hidden size (15)" in text
    log = folder / "out" / "logs" / "odd-2020.log"
    assert f"(log: {log})" in text
    assert "Traceback" in log.read_text()
    found = report(folder)
    assert set(found["significance"]) == {found["best"], "Pop"}
    assert "odd" not in found["significance"]["Pop"]
    (further,) = found["further_significance"].values()
    assert list(found["further_significance"]) == ["test/recall@10"]
    means = {row["model"]: row["cells"] for row in found["models"] if row["cells"]}
    for label, one in further["Pop"].items():
        gap = means[label]["test/recall@10"]["mean"] - means["Pop"]["test/recall@10"]["mean"]
        assert one["mean"] == pytest.approx(gap, abs=1e-6)
    assert "difference in NDCG@10 and Recall@10 over users" in text
    assert "p corrected by Holm for all 4 comparisons of this table" in text
    assert f"| Recall@10 | {further['Pop']['TIGER']['mean']:+.4f} |" in text
    assert rows(text, "Cost")["SASRec"][-1] == "4"
    agrees_without_hit(runs / "SASRec-2020")
    # Each model is told to hold the same log.
    assert "2 of them finished before" in (folder / "out" / "comparison.log").read_text()


def test_a_finished_run_of_other_settings_is_refused(folder):
    values = {**FILE, "models": {**FILE["models"], "Pop": {"seeds": [2020], "epochs": 2}}}
    file = write(folder / "out", values)
    given = {"output": str(folder / "out"), "cache_dir": str(folder / "cache")}
    with pytest.raises(InputError, match=r"model Pop, seed 2020: .*of other settings") as error:
        compare(["Pop"], "ml-100k", settings=file, config_dict=given)
    assert "Or --overwrite_models=Pop, which keeps the runs of the other models" in str(error.value)


def test_one_model_is_run_anew_and_runs_beside_the_table_are_told(folder):
    runs = folder / "out" / "runs"
    before = {path.parent.name: os.stat(path).st_mtime_ns for path in runs.glob("*/result.json")}
    assert cli.main(arguments(folder, "Pop", "--overwrite_models=Pop")) == 0
    after = {path.parent.name: os.stat(path).st_mtime_ns for path in runs.glob("*/result.json")}
    assert {name for name in after if after[name] != before[name]} == {"Pop-2020"}
    told = (folder / "out" / "comparison.log").read_text().rpartition("not in the table: ")[2]
    assert "TIGER (seed 2020). To add them: --models=Pop," in told


@pytest.fixture
def copied(folder, tmp_path):
    """The finished runs of TIGER and Pop in a folder that may be changed, and what makes a table
    of it."""
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    trials = {"TIGER": {**OF_TIGER, "trials": 12}, "Pop": {"trials": 0}, "BPR": {}}
    file = write(tmp_path, {"all": OF_ALL, "models": trials})
    given = {"dataset": "ml-100k", "cache_dir": str(folder / "cache"), "output": str(out)}
    plan = make_plan(["TIGER", "Pop", "BPR"], file, [], {**given, "resamples": 200})
    split = read_split(plan.runs[0].config)
    plan = with_batches(plan, split.counts["items"])

    def tables() -> dict:
        return figures(plan, finished_before(plan.runs), split)

    return out, tables


def change(file: Path, **values: object) -> None:
    write_json(file, {**json.loads(file.read_text()), **values})


def test_validation_says_which_one_is_best(copied):
    out, tables = copied
    for best, other in (("Pop", "TIGER"), ("TIGER", "Pop")):
        for label, score in ((best, 0.75), (other, 0.5)):
            found = json.loads((out / "runs" / f"{label}-2020" / "result.json").read_text())
            valid = {**found["best_valid_result"], "ndcg@10": score, "recall@10": 1 - score}
            change(out / "runs" / f"{label}-2020" / "result.json", best_valid_result=valid)
        result = tables()
        assert result["best"] == best
        assert list(result["significance"]) == [best]
        text = markdown(result)
        assert f"Against {best}, the best by NDCG@10 on validation (not on the test" in text
        assert "| **0.7500** |" in text
    for label in ("TIGER", "Pop"):
        change(out / "runs" / f"{label}-2020" / "result.json", best_valid_result=None)
    result = tables()
    assert (result["best"], result["significance"]) == (None, {})
    assert "No model has a figure on validation, so that none is the best" in markdown(result)


def test_codes_from_the_cache_cost_what_their_fit_took(copied):
    out, tables = copied
    change(out / "runs" / "TIGER-2020" / "timing.json", fit_seconds=321.0)
    by_model = {row["model"]: row["cells"] for row in tables()["models"]}
    assert by_model["TIGER"]["tokenize_seconds"]["mean"] == 321.0
    assert by_model["Pop"]["tokenize_seconds"]["mean"] < 5


def test_what_was_not_alike_is_said(copied):
    out, tables = copied
    threads = json.loads((out / "runs" / "Pop-2020" / "timing.json").read_text())["threads"]
    text = markdown(tables())
    assert f"Every run had {threads} thread" in text
    assert (
        "The models were not tuned equally: with 0 (Pop) to 12 (TIGER) trials, and for 1 of the "
        "models no number is given; more trials favour a model."
    ) in text
    change(out / "runs" / "TIGER-2020" / "timing.json", threads=threads + 3)
    told = f"Threads were not the same, so that seconds do not compare: {threads}: Pop; "
    assert told + f"{threads + 3}: TIGER." in markdown(tables())
    result = tables()
    for row in result["models"]:
        row["trials"] = 4 if row["model"] == "BPR" else None
    assert "tuned equally" not in markdown(result)


def test_models_are_compared_on_a_split_in_time(made, tmp_path):
    file = write(tmp_path, {
        "models": {
            "TIGER": {key: value for key, value in OF_TIGER.items()},
            "SASRec": FILE["models"]["SASRec"],
        }
    })  # fmt: skip
    given = {**made, **SPLIT_IN_TIME, "show_progress": False, "split_times": "[1.5, 3]"}
    compare(None, settings=file, config_dict=given)
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["counts"]["test"] == 6
    for row in found["models"]:
        result = json.loads(Path(row["runs"][0]["folder"], "result.json").read_text())
        assert row["cells"]["test/ndcg@2"]["mean"] == result["test_result"]["ndcg@2"]
        agrees_without_hit_at_2(Path(row["runs"][0]["folder"]))
    best = found["best"]
    (other,) = found["significance"][best]
    means = {row["model"]: row["cells"]["test/ndcg@2"]["mean"] for row in found["models"]}
    gap = means[other] - means[best]
    assert found["significance"][best][other]["mean"] == pytest.approx(gap, abs=1e-6)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "items before 1.5 (1970-01-01T00:00:01Z) train" in text
    assert "The last item of a user" not in text


def agrees_without_hit_at_2(run: Path) -> None:
    test = json.loads((run / "result.json").read_text())["test_result"]
    agrees(run, {"test_result": test | {"hit@2": test["recall@2"]}})


# -- without training -----------------------------------------------------------------------------


def test_what_was_not_run_says_so(made):
    made["user_inter_num_interval"] = "[4,inf)"
    plan = make_plan(["Pop", "BPR"], None, [], made)
    result = figures(plan, finished_before(plan.runs), read_split(plan.runs[0].config))
    # By hand: b has 3 of the 9 training interactions, a and c 2 each, d and f 1, e none. The
    # targets are e, a and d.
    assert result["targets"] == {
        "head": {"users": 0, "items": 1},
        "middle": {"users": 1, "items": 2},
        "tail": {"users": 2, "items": 3},
        "cold": {"users": 3, "items": 6},
        "unseen": {"users": 1, "items": 1},
    }
    text = markdown(result)
    assert text.count("Not run.") == 2
    assert rows(text, "Cost")["BPR"] == ["0 of 1", *["not run"] * 5, "not given"]
    assert "\\midrule\nPop \\\\\nBPR \\\\" in latex(result)


def test_best_is_bold_and_deviations_are_given():
    def row(name: str, mean: float, sd: float | None) -> dict:
        cells = {"test/ndcg@10": {"mean": mean, "sd": sd, "n": 2}}
        # Different, but spelled alike: nothing is best there.
        cells["test/mrr@10"] = {"mean": mean / 10**5, "sd": None, "n": 2}
        runs = [{"state": "finished", "seed": 1}]
        return {"model": name, "cells": cells, "runs": runs, "history": "", "trials": None}

    result = {"models": [row("a_b", 0.25, 0.01), row("c", 0.5, 0.125)], "dataset": "d"}
    result |= {"counts": {"test": 3}, "split_hash": {"test": "h"}}
    text = latex(result)
    assert "a\\_b & 0.2500 $\\pm$ 0.0100 & 0.0000 \\\\\n" in text
    assert "c & \\textbf{0.5000} $\\pm$ 0.1250 & 0.0000 \\\\\n" in text
