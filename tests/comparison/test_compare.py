"""Whole comparisons on a small data set: what is run, what is kept, what is refused."""

import csv
import hashlib
import json
import logging
import os
from pathlib import Path

import pytest
import yaml

from recbole_sid import InputError, cli
from recbole_sid.comparison.compare import compare
from recbole_sid.comparison.plan import make_plan, seeds_of, with_batches
from recbole_sid.comparison.running import command, failure_reason, finished_before, progress
from recbole_sid.comparison.splits import Split, check_outcomes, check_same, read_split
from recbole_sid.comparison.writing import latex, markdown
from tests.comparison.test_outcomes import agrees
from tests.runs import CUT, SMALL, write_data

OF_ALL = {key: value for key, value in CUT.items() if key != "show_progress"}
OF_TIGER = {key: value for key, value in SMALL.items() if key not in CUT and key != "eval_step"}
# Two heads do not divide fifteen: RecBole's model finds that out when it is built.
FILE = {
    "all": OF_ALL,
    "models": {
        "TIGER": OF_TIGER,
        "SASRec": {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "trials": 4},
        "odd": {"model": "SASRec", "hidden_size": 15},
    },
}


def write(folder: Path, values: dict) -> str:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


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
    assert rows(text, "Cost")["SASRec"][-1] == "4"
    agrees_without_hit(runs / "SASRec-2020")
    # Each model is told to hold the same log.
    assert "2 of them finished before" in (folder / "out" / "comparison.log").read_text()


def test_a_finished_run_of_other_settings_is_refused(folder):
    values = {**FILE, "models": {**FILE["models"], "Pop": {"seeds": [2020], "epochs": 2}}}
    file = write(folder / "out", values)
    given = {"output": str(folder / "out"), "cache_dir": str(folder / "cache")}
    with pytest.raises(InputError, match=r"model Pop, seed 2020: .*of other settings"):
        compare(["Pop"], "ml-100k", settings=file, config_dict=given)


def test_the_data_is_hashed_alike_for_both_kinds_of_models(folder):
    plan = make_plan(["Pop", "SASRec"], folder / "settings.yaml", [], {"dataset": "ml-100k"})
    pop, sasrec = (read_split(run.config) for run in plan.runs)
    assert pop == sasrec
    short = make_plan(
        ["SASRec"], folder / "settings.yaml", [], {"dataset": "ml-100k", "MAX_ITEM_LIST_LENGTH": 1}
    )
    assert read_split(short.runs[0].config) == pop


# -- without training -----------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """Settings of a data set by hand: ``u0`` has 3 interactions, the others 5."""
    orders = {"u0": "abc", "u1": "abcde", "u2": "bcdea", "u3": "fabcd"}
    given = [(user, item, n) for user, order in orders.items() for n, item in enumerate(order)]
    values = write_data(tmp_path / "data", given)
    more = {"topk": [2], "valid_metric": "NDCG@2", "dataset": "made"}
    return {**values, **more, "cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / "out")}


def test_splits_by_hand(made):
    made["user_inter_num_interval"] = "[4,inf)"
    (run,) = make_plan(["Pop"], None, [], made).runs
    split = read_split(run.config)
    # Trained on: u1 a b c, u2 b c d, u3 f a b.
    assert split.item_counts == {"a": 2, "b": 3, "c": 2, "d": 1, "e": 0, "f": 1}
    assert split.test == {"u1": ["e"], "u2": ["a"], "u3": ["d"]}
    assert split.counts == {"users": 3, "items": 6, "interactions": 15, "valid": 3, "test": 3}
    lines = [
        "['u1', ['a', 'b', 'c'], ['d'], ['e']]",
        "['u2', ['b', 'c', 'd'], ['e'], ['a']]",
        "['u3', ['f', 'a', 'b'], ['c'], ['d']]",
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    assert split.hashes["test"] == hashlib.sha256(text).hexdigest()


SPLIT_IN_TIME = {
    "split_times": [2, 4],
    "user_inter_num_interval": "[0,inf)",
    "eval_step": 1,
    "epochs": 1,
    "resamples": 200,
}


def test_a_split_in_time_by_hand(made, tmp_path):
    """Times are 0 to 4 for everyone; u0 has three items, and late begins at 3."""
    file = tmp_path / "data" / "made" / "made.inter"
    file.write_text(file.read_text() + "late\tb\t3\nlate\tc\t4\nlate\tf\t4.5\n")
    runs = make_plan(["SASRec", "TIGER"], None, [], {**made, **SPLIT_IN_TIME}).runs
    assert runs[0].config["eval_args"]["split"] is None
    one, other = (read_split(run.config) for run in runs)
    assert one == other
    # Trained on: u0 a b, u1 a b, u2 b c, u3 f a; the first ones are history only, and count.
    assert one.item_counts == {"a": 3, "b": 3, "c": 1, "d": 0, "e": 0, "f": 1}
    assert one.counts == {"users": 5, "items": 6, "interactions": 21, "valid": 7, "test": 5}
    assert one.test == {"u1": ["e"], "u2": ["a"], "u3": ["d"], "late": ["c", "f"]}
    lines = [
        "['late', ['b'], [], [], ['c', 'f']]",
        "['u1', [], ['a', 'b'], ['c', 'd'], ['e']]",
        "['u2', [], ['b', 'c'], ['d', 'e'], ['a']]",
        "['u3', [], ['f', 'a'], ['b', 'c'], ['d']]",
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    assert one.hashes["test"] == hashlib.sha256(text).hexdigest()
    # A history may be cut; the split is the same.
    short = {**made, **SPLIT_IN_TIME, "MAX_ITEM_LIST_LENGTH": 1}
    assert read_split(make_plan(["SASRec"], None, [], short).runs[0].config) == one
    moved = {**made, **SPLIT_IN_TIME, "split_times": [2, 4.2]}
    assert read_split(make_plan(["SASRec"], None, [], moved).runs[0].config).hashes != one.hashes


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


def test_models_on_other_data_are_refused(made):
    with pytest.raises(InputError) as error:
        compare(["SASRec", "Pop"], config_dict=made)
    message = str(error.value)
    assert "the train split differs between SASRec (4 users" in message
    assert "fewer than 4 interactions" in message
    assert not Path(made["output"]).exists()


def test_the_split_that_differs_is_named():
    one = Split({"items": "i", "train": "a", "valid": "v", "test": "t"}, {"users": 1}, {}, {})
    other = Split({**one.hashes, "test": "x"}, {"users": 1}, {}, {})
    check_same({"A": one, "B": one})
    with pytest.raises(InputError, match=r"the test split differs between A, C \(.*; B \("):
        check_same({"A": one, "B": other, "C": one})


def test_outcomes_on_other_targets_are_refused():
    check_outcomes("A", {"u": ["a"], "w": ["b", "a"]}, ["w", "u", "w"], ["b", "a", "a"])
    for users, targets in (["u"], ["a"]), (["u", "w"], ["a", "a"]), (["u", "w", "u"], list("aba")):
        with pytest.raises(InputError, match="outcomes of A are not on the test split"):
            check_outcomes("A", {"u": ["a"], "w": ["b"]}, users, targets)


def test_each_kind_of_model_has_its_evaluation_batch(made):
    plan = make_plan(["Pop", "SASRec", "TIGER"], None, [], {**made, "scores_at_once": 61})
    pop, sasrec, tiger = with_batches(plan, 5).runs
    # Ten users, with a score for the empty item 0 too.
    assert [run.config["eval_batch_size"] for run in (pop, sasrec, tiger)] == [60, 10, 256]
    plan = make_plan(["Pop"], None, [], {**made, "eval_batch_size": 7})
    assert with_batches(plan, 5).runs[0].config["eval_batch_size"] == 7


def test_what_goes_before_what(made, tmp_path):
    values = {"all": {"epochs": 3, "seed": 7}, "models": {"B": {"model": "BPR", "epochs": 4}}}
    file = write(tmp_path, values)
    plan = make_plan(["Pop", "B"], file, [], made)
    assert [(r.name, r.config["model"], r.config["epochs"]) for r in plan.runs] == [
        ("Pop-7", "Pop", 3), ("B-7", "BPR", 4)
    ]  # fmt: skip
    plan = make_plan(None, file, [], {**made, "epochs": 5, "seeds": 2})
    assert [(r.name, r.config["epochs"]) for r in plan.runs] == [("B-7", 5), ("B-8", 5)]
    one, two = (make_plan(m, None, [], {"dataset": "ml-100k"}).folder for m in (["Pop"], ["BPR"]))
    assert one == two
    assert one != make_plan(["Pop"], None, [], {"dataset": "ml-100k", "epochs": 9}).folder


def test_a_run_of_ours_goes_on_and_overwrite_starts_anew(made, tmp_path):
    for changes, flags in (({}, (False, True)), ({"overwrite": True}, (False, False))):
        runs = make_plan(["Pop", "TIGER"], None, [], {**made, **changes}).runs
        assert tuple("--resume=True" in command(run, tmp_path) for run in runs) == flags
        assert all(run.settings.get("overwrite", False) is bool(changes) for run in runs)


def test_why_a_run_failed(tmp_path):
    log = tmp_path / "log"
    log.write_text("start\nTraceback …\nValueError: too much\nof everything\n")
    assert failure_reason(1, log) == "ValueError: too much"
    assert failure_reason(-9, log) == "ended by SIGKILL, out of memory?"
    log.write_text("error: unknown setting 'x'\n\n")
    assert failure_reason(2, log) == "unknown setting 'x'"
    log.write_text("all well\n")
    assert failure_reason(0, log) == "it wrote no outcomes.safetensors"
    log.write_text("")
    assert failure_reason(3, log) == "it printed nothing"


def test_a_bar_is_drawn_for_a_terminal_alone(monkeypatch, capsys):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        for show in (True, False):
            with progress(2, "compare", "run", show) as bar:
                bar.refresh()
            assert ("compare" in capsys.readouterr().err) == (terminal and show)


def test_seeds():
    assert seeds_of(3, 2020) == (2020, 2021, 2022)
    assert seeds_of("7,5", 2020) == seeds_of([7, 5], 1) == (7, 5)
    for bad in (0, 2020, [], [1, 1], "1,x", None):
        with pytest.raises(InputError, match="setting 'seeds'"):
            seeds_of(bad, 1)


def test_what_was_not_run_says_so(made):
    made["user_inter_num_interval"] = "[4,inf)"
    plan = make_plan(["Pop", "BPR"], None, [], made)
    from recbole_sid.comparison.table import figures

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
        runs = [{"state": "finished", "seed": 1}]
        return {"model": name, "cells": cells, "runs": runs, "history": "", "trials": None}

    result = {"models": [row("a_b", 0.25, 0.01), row("c", 0.5, 0.125)], "dataset": "d"}
    result |= {"counts": {"test": 3}, "split_hash": {"test": "h"}}
    assert "a\\_b & 0.2500 $\\pm$ 0.0100 \\\\\nc & \\textbf{0.5000} $\\pm$ 0.1250 \\\\" in latex(
        result
    )


REFUSED = {
    "an unknown model": (["Pop", "SASRek"], {}, "model SASRek: unknown model 'SASRek'. Did you"),
    "an unknown key": (["TIGER"], {"beam_sise": 3}, "model TIGER: unknown setting 'beam_sise'"),
    "no models": (None, {}, "no models are given"),
    "a model twice": (["Pop", "pop"], {}, "a model is named twice"),
    "a label that is a path": (["../Pop"], {}, "is no label"),
    "an unknown reference": (["Pop"], {"reference": "Pip"}, "'Pip', which is not among the models"),
    "another split": (
        ["Pop"],
        {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "user"}},
        "'eval_args: split' is",
    ),
    "a general model on a split in time": (
        ["SASRec", "Pop"],
        {"split_times": [1, 3]},
        "model Pop: under split_times a user may have several items to find",
    ),
    "two splits": (
        ["SASRec"],
        {"split_times": [1, 3], "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}},
        "'split_times' and 'eval_args: split'",
    ),
    "sampled evaluation": (
        ["Pop"],
        {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}},
        "'eval_args: mode' is",
    ),
    "a metric without a value a user": (
        ["Pop"],
        {"metrics": ["ItemCoverage"], "valid_metric": "ItemCoverage@2"},
        "'valid_metric' is 'itemcoverage'",
    ),
    "few resamples": (["Pop"], {"resamples": 3}, "'resamples' is 3"),
    "one model for all": (["Pop"], {"model": "Pop"}, "name the models with --models"),
    "resume": (["Pop"], {"resume": True}, "leave --resume out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_before_anything_is_written(case, made):
    models, changes, message = REFUSED[case]
    with pytest.raises(InputError) as error:
        compare(models, config_dict={**made, **changes})
    assert message in str(error.value)
    assert not Path(made["output"]).exists()


def test_a_settings_file_of_another_form_is_refused(made, tmp_path):
    for values, message in (
        ({"model": {}}, "has 'model', but holds 'all:', 'models:', 'tokenizers:' and"),
        ({"models": ["Pop"]}, "'models' must hold"),
        ({"models": {"Pop": 3}}, "'Pop' must hold"),
    ):
        with pytest.raises(InputError, match=message):
            compare(["Pop"], settings=write(tmp_path, values), config_dict=made)


def test_the_logger_is_left_as_it_was(made):
    before = list(logging.getLogger("recbole_sid").handlers)
    with pytest.raises(InputError):
        compare(["SASRec", "Pop"], config_dict=made)
    assert logging.getLogger("recbole_sid").handlers == before
