"""What a search found, taken into a comparison: values, trials, refusals."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import yaml

from recbole_sid import InputError, tune
from recbole_sid.comparison.plan import make_plan
from recbole_sid.tuning import hyper_tuning
from recbole_sid.tuning.journal import Record
from tests.runs import CUT, SMALL
from tests.sealing import write_json

SPACE = {"learning_rate": {"choice": [0.01, 0.02, 0.03]}, "dropout": {"choice": [0.2]}}
MINE = {key: value for key, value in SMALL.items() if key not in CUT}


def execute(job, on_evaluation) -> Record:
    """Stands for the process of a trial: 0.02 is best."""
    found = 1 - abs(job.params["learning_rate"] - 0.02)
    return Record(job.trial, job.params, "finished", found, {"ndcg@10": found}, [[0, found]])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a search for TIGER that has ended, after three trials."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    given = {**SMALL, "cache_dir": str(folder / "cache"), "output": str(folder / "tuned" / "TIGER")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyper_tuning, "execute", execute)
        patch.setattr(logging.getLogger("recbole_sid"), "level", logging.NOTSET)
        own = {"algo": "exhaustive", "max_trials": 3}
        tune("TIGER", "ml-100k", space=folder / "space.yaml", config_dict={**given, **own})
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(made / "tuned", tmp_path / "tuned")
    return tmp_path


def plan_of(folder: Path, file: dict, models=None, tokenizers=None, generators=None, **given):
    (folder / "settings.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
    given = {"dataset": "ml-100k", **given}
    return make_plan(models, folder / "settings.yaml", [], given, tokenizers, generators)


def refusal(folder: Path, row: dict, **given) -> str:
    with pytest.raises(InputError) as error:
        plan_of(folder, {"models": {"TIGER": row}}, **given)
    return str(error.value)


def test_values_and_trials_are_those_of_the_search(folder):
    row = {"tuned": "tuned/TIGER", **MINE}
    elsewhere = {"model": "TIGER", "tuned": str(folder / "tuned" / "TIGER"), "dropout": 0.4}
    plan = plan_of(folder, {
        "all": {"learning_rate": 0.5, "trials": 7},
        "models": {"TIGER": row, "mine": elsewhere, "Pop": {}},
    })  # fmt: skip
    found = [(run.config["learning_rate"], run.settings.get("dropout")) for run in plan.runs]
    # A row's own value goes before the search, and the search before what holds for all.
    assert found == [(0.02, 0.2), (0.02, 0.4), (0.5, None)]
    assert [model.trials for model in plan.models] == [3, 3, 7]
    assert all("tuned" not in run.settings for run in plan.runs)
    high = plan_of(folder, {"models": {"TIGER": row}}, learning_rate=0.25)
    assert high.runs[0].config["learning_rate"] == 0.25


def test_a_pair_has_what_its_generator_was_tuned_to(folder):
    generator = {"model": "TIGER", "tuned": "tuned/TIGER", "dropout": 0.3, **MINE}
    del generator["tokenizer"], generator["tokenizer_codebook_size"]
    parts = {"tokenizers": {"random": {"learning_rate": 0.5}}, "generators": {"tiger": generator}}
    (run,) = plan_of(folder, parts, None, ["random"], ["tiger"]).runs
    assert (run.config["learning_rate"], run.config["dropout"]) == (0.02, 0.3)
    # A row's search goes before what its generator says.
    parts["models"] = {"random+tiger": {"tuned": "tuned/TIGER"}}
    plan = plan_of(folder, parts, None, ["random"], ["tiger"])
    assert (plan.runs[0].config["dropout"], plan.models[0].trials) == (0.2, 3)
    parts["models"] = {"random+tiger": {"trials": 3}}
    with pytest.raises(InputError, match=r"random\+tiger: 'trials' and 'tuned' are both given"):
        plan_of(folder, parts, None, ["random"], ["tiger"])


def test_the_number_of_trials_is_not_given_twice(folder):
    for row, given in ({"tuned": "tuned/TIGER", "trials": 3}, {}), (
        {"tuned": "tuned/TIGER"}, {"trials": 3}
    ):  # fmt: skip
        assert "model TIGER: 'trials' and 'tuned' are both given" in refusal(folder, row, **given)


def test_a_search_for_something_else_is_refused(folder):
    other = "another model, 'TIGER', but here it is 'IntRR'"
    assert other in refusal(folder, {"tuned": "tuned/TIGER", "model": "IntRR"})
    told = refusal(folder, {"tuned": "tuned/TIGER"}, dataset="office")
    assert "another data set, 'ml-100k', but here it is 'office'" in told
    best = folder / "tuned" / "TIGER" / "best.yaml"
    values = yaml.safe_load(best.read_text())
    values["eval_args"]["split"] = {"RS": [0.8, 0.1, 0.1]}
    best.write_text(yaml.safe_dump(values))
    told = refusal(folder, {"tuned": "tuned/TIGER"})
    found = "{'split': {'RS': [0.8, 0.1, 0.1]}, 'order': 'TO', 'withheld_items': 0}"
    assert f"another split, {found}, but here" in told
    assert "with the same --eval_args" in told


def test_a_folder_without_a_result_is_refused(folder):
    assert "where no search has ended: there is no result.json" in refusal(
        folder, {"tuned": "nowhere"}
    )
    result = folder / "tuned" / "TIGER" / "result.json"
    text = result.read_text()
    result.write_text(text.replace("0.02", "0.03"))
    assert "is damaged or was edited" in refusal(folder, {"tuned": "tuned/TIGER"})
    write_json(result, {"model": "TIGER", "test_result": {}})
    assert "whose result.json is not of a search" in refusal(folder, {"tuned": "tuned/TIGER"})
    result.write_text(text)
    assert json.loads(text)["model"] == "TIGER"
    plan_of(folder, {"models": {"TIGER": {"tuned": "tuned/TIGER", **MINE}}})


def test_where_a_search_may_be_named(folder):
    assert "models: TIGER: 'tuned' is 3, but must be a folder" in refusal(folder, {"tuned": 3})
    with pytest.raises(InputError, match="tokenizers: random: 'tuned' is what a search found"):
        plan_of(folder, {"tokenizers": {"random": {"tuned": "x"}}}, ["Pop"])
    for file, given in ({"all": {"tuned": "x"}}, {}), ({}, {"tuned": "x"}):
        with pytest.raises(InputError, match="'tuned' is given for all runs"):
            plan_of(folder, file, ["Pop"], **given)
