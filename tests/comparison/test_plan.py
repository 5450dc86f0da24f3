"""What a comparison would run, from its settings; nothing is trained."""

import logging
from pathlib import Path

import pytest

from recbole_sid import InputError
from recbole_sid.comparison.compare import arguments_for, compare
from recbole_sid.comparison.plan import make_plan, seeds_of, with_batches
from recbole_sid.comparison.running import (
    command,
    failure_reason,
    finished_before,
    finished_besides,
    progress,
)
from tests.comparison.settings import write


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
    for changes, resumed, anew in (
        ({}, [False, True], [False, False]),
        ({"overwrite": True}, [False, False], [True, True]),
        ({"overwrite_models": "TIGER"}, [False, False], [False, True]),
        ({"overwrite_models": ["Pop"]}, [False, True], [True, False]),
        ({"overwrite_models": "Pop, TIGER"}, [False, False], [True, True]),
    ):
        runs = make_plan(["Pop", "TIGER"], None, [], {**made, **changes}).runs
        assert ["--resume=True" in command(run, tmp_path) for run in runs] == resumed
        assert [run.settings.get("overwrite", False) for run in runs] == anew


def test_what_is_tested(made):
    for changes, tested in (
        ({}, (("ndcg", 2), ("recall", 2))),
        ({"topk": [1, 2], "valid_metric": "Recall@1"}, (("recall", 1), ("ndcg", 2))),
        ({"topk": [1, 2], "valid_metric": "MRR@1"}, (("mrr", 1), ("recall", 2))),
        ({"metrics": ["Hit", "NDCG"], "valid_metric": "Hit@2"}, (("hit", 2), ("ndcg", 2))),
        ({"metrics": "NDCG"}, (("ndcg", 2),)),
    ):
        assert make_plan(["Pop"], None, [], {**made, **changes}).tested == tested


def test_all_models_list_a_history_again_or_none(made, tmp_path):
    runs = make_plan(["SASRec", "Pop", "TIGER"], None, [], made).runs
    assert [run.config["exclude_history"] for run in runs] == [True] * 3
    runs = make_plan(["SASRec", "TIGER"], None, [], {**made, "exclude_history": False}).runs
    assert [run.config["exclude_history"] for run in runs] == [False] * 2
    file = write(tmp_path, {"models": {"SASRec": {"exclude_history": False}}})
    with pytest.raises(InputError, match="valid_metric and exclude_history must be the same"):
        make_plan(["SASRec", "Pop"], file, [], made)


def test_what_would_bring_runs_into_the_table(made, tmp_path):
    runs = tmp_path / "out" / "runs"
    for name in ("B-P-2020", "Pop-2020", "Pop-7", "random+tiger-2020", "half-1", "notes"):
        (runs / name).mkdir(parents=True)
        (runs / name / "result.json").touch()
        if name != "half-1":
            (runs / name / "outcomes.safetensors").touch()
    plan = make_plan(["Pop"], None, [], made)
    found = finished_besides(plan)
    assert found == {"B-P": [2020], "Pop": [7], "random+tiger": [2020]}
    assert arguments_for(plan, found) == [
        "--models=Pop,B-P",
        "--tokenizers=random",
        "--generators=tiger",
        "--seeds=7,2020",
    ]
    plan = make_plan(["Pop", "BPR"], None, [], {**made, "seeds": [2020, 7]}, ["opq"], ["tiger"])
    found = finished_besides(plan)
    assert found == {"B-P": [2020], "random+tiger": [2020]}
    assert arguments_for(plan, found) == [
        "--models=Pop,BPR,B-P", "--tokenizers=opq,random", "--generators=tiger"
    ]  # fmt: skip


def test_all_stale_models_are_named_at_once(made, monkeypatch):
    def refuse(config):
        raise InputError(f"'{config['model']}' is stale")

    runs = make_plan(["Pop", "BPR"], None, [], {**made, "seeds": 2}).runs
    monkeypatch.setattr("recbole_sid.run_folder.stored_result", refuse)
    with pytest.raises(InputError) as error:
        finished_before(runs)
    assert str(error.value) == (
        "model Pop, seed 2020: 'Pop' is stale. Or --overwrite_models=Pop,BPR, which keeps the runs "
        "of the other models, or another label in the settings file. Refused too: BPR"
    )


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
    "an unknown model anew": (
        ["Pop"],
        {"overwrite_models": "Pap"},
        "'overwrite_models' has 'Pap', which is not among the models Pop. Did you mean 'Pop'",
    ),
    "no label anew": (["Pop"], {"overwrite_models": 3}, "'overwrite_models' is 3, but must be"),
    "all anew and one": (
        ["Pop"],
        {"overwrite_models": "Pop", "overwrite": True},
        "give one of them",
    ),
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
        ({"models": {"Pop": {"resamples": 300}}}, "models: Pop: 'resamples' is a setting of the"),
        ({"models": {"BPR": {"reference": "Pop"}}}, "BPR: 'reference' is .* give --reference"),
        ({"generators": {"tiger": {"cold_below": 3}}}, "generators: tiger: 'cold_below' is a"),
        ({"models": {"Pop": {"output": "x"}}}, "Pop: 'output' is nothing that one model has"),
        ({"models": {"Pop": {"resume": True}}}, "Pop: 'resume' is nothing that one model has"),
    ):
        with pytest.raises(InputError, match=message):
            compare(["Pop"], settings=write(tmp_path, values), config_dict=made)


def test_the_logger_is_left_as_it_was(made):
    before = list(logging.getLogger("recbole_sid").handlers)
    with pytest.raises(InputError):
        compare(["SASRec", "Pop"], config_dict=made)
    assert logging.getLogger("recbole_sid").handlers == before
