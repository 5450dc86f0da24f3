"""Tokenizers times generators: which pairs there are, with which settings, and what is written."""

import json
import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import yaml

from recbole_sid import InputError, registry
from recbole_sid.comparison.compare import compare
from recbole_sid.comparison.grid import make_pairs
from recbole_sid.comparison.grid_table import grid_cells, grid_markdown, write_grid
from recbole_sid.comparison.plan import make_plan
from recbole_sid.comparison.writing import markdown, state, table
from recbole_sid.config import Config
from recbole_sid.generator.tiger import Tiger
from recbole_sid.tokenizer.random_codes import RandomCodes
from tests.runs import CUT, SMALL, write_data
from tests.sid.tables import table as sid_table


class Residual(RandomCodes):
    parallel: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """The registry with a tokenizer whose codes are residual and a generator without a model."""
    registry.model_names()
    full = registry._TABLE
    copied = registry._Table(dict(full.tokenizers), dict(full.generators), dict(full.models))
    monkeypatch.setattr(registry, "_TABLE", copied)
    defaults = registry.tokenizer("random").defaults
    registry.register_tokenizer("residual", Residual, defaults)

    class Lonely(Tiger):
        @dataclass(frozen=True)
        class Settings:
            pass

    registry.register_generator("lonely", Lonely)


@pytest.fixture
def any_order(monkeypatch):
    """Tiger, as if it wrote codes in any order."""
    monkeypatch.setattr(Tiger, "needs_parallel_codes", True)


@pytest.fixture
def made(tmp_path):
    orders = {"u1": "abcde", "u2": "bcdea", "u3": "fabcd", "u4": "acebd"}
    given = [(user, item, n) for user, order in orders.items() for n, item in enumerate(order)]
    values = write_data(tmp_path / "data", given)
    more = {"topk": [2], "valid_metric": "NDCG@2", "dataset": "made", "show_progress": False}
    return {**values, **more, "cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / "out")}


def write(folder, values):
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    return folder / "settings.yaml"


def plan_of(made, tokenizers, generators, models=None, file=None):
    return make_plan(models, file, [], made, tokenizers, generators)


# -- pairs ----------------------------------------------------------------------------------------


def test_all_pairs_trained_as_the_first_model_of_their_generator(made):
    plan = plan_of(made, ["random", "rqvae"], ["tiger", "intrr"], ["Pop"])
    labels = ["Pop", "random+tiger", "random+intrr", "rqvae+tiger", "rqvae+intrr"]
    assert [model.label for model in plan.models] == [run.label for run in plan.runs] == labels
    for label, run in zip(labels[1:], plan.runs[1:], strict=True):
        tokenizer, generator = label.split("+")
        found = run.config
        assert (found["tokenizer"], found["generator"]) == (tokenizer, generator)
        # Of all models with the generator tiger, TIGER is registered first, not LETTER.
        model = {"tiger": "TIGER", "intrr": "IntRR"}[generator]
        assert found["model"] == model
        assert found["epochs"] == registry.model(model).defaults["epochs"]
    assert plan.runs[1].config["epochs"] != plan.runs[2].config["epochs"]


def test_a_grid_stands_alone_unless_models_are_named(made, tmp_path):
    file = write(tmp_path, {"models": {"Pop": {}, "random+tiger": {"epochs": 3}}})
    plan = plan_of(made, ["random"], ["tiger"], None, file)
    assert [(run.label, run.config["epochs"]) for run in plan.runs] == [("random+tiger", 3)]
    assert [run.label for run in plan_of(made, ["random"], ["tiger"], ["Pop"], file).runs] == [
        "Pop",
        "random+tiger",
    ]
    assert make_plan(["Pop"], file, [], made).pairs == ()


def test_what_goes_before_what(made, tmp_path):
    file = write(tmp_path, {
        "all": {"epochs": 1, "learning_rate": 0.1},
        "tokenizers": {"random": {"tokenizer_codebook_size": 7, "epochs": 2}, "rqvae": {}},
        "generators": {"tiger": {"beam_size": 11, "epochs": 3, "model": "TIGER-paper"}},
        "models": {
            "random+tiger": {"epochs": 4, "seeds": [5]},
            "random+intrr": {"model": "IntRR", "trials": 8},
        },
    })  # fmt: skip
    plan = plan_of(made, ["random", "opq"], ["tiger", "intrr"], None, file)
    keys = ("model", "epochs", "learning_rate", "tokenizer_codebook_size")
    found = {run.name: [run.config[key] for key in keys] for run in plan.runs}
    opq = registry.tokenizer("opq").defaults["tokenizer_codebook_size"]
    assert found == {
        "random+tiger-5": ["TIGER-paper", 4, 0.1, 7],
        "random+intrr-2020": ["IntRR", 2, 0.1, 7],
        "opq+tiger-2020": ["TIGER-paper", 3, 0.1, opq],
        "opq+intrr-2020": ["IntRR", 1, 0.1, opq],
    }
    assert plan.runs[0].config["beam_size"] == plan.runs[2].config["beam_size"] == 11
    assert [model.trials for model in plan.models] == [None, 8, None, None]
    high = make_plan(None, file, [], {**made, "epochs": 9}, ["random"], ["tiger"])
    assert high.runs[0].config["epochs"] == 9


BAD = {
    "an unknown tokenizer": (["rqva"], ["tiger"], "unknown tokenizer 'rqva'. .*'rqvae'"),
    "an unknown generator": (["rqvae"], ["tigr"], "unknown generator 'tigr'. .*'tiger'"),
    "tokenizers alone": (["rqvae"], None, "--tokenizers is given without --generators"),
    "generators alone": (None, ["tiger"], "--generators is given without --tokenizers"),
    "a name twice": (["opq", "opq"], ["tiger"], "--tokenizers names one twice: opq, opq"),
    "a generator without a model": (["opq"], ["lonely"], "'lonely' has no model whose training"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_names(case):
    tokenizers, generators, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make_pairs(tokenizers, generators)
    assert make_pairs(None, None) == make_pairs([], []) == ()


BAD_FILES = {
    "a tokenizer for all": ({"all": {"tokenizer": "opq"}}, "for all runs: 'tokenizer' is 'opq'"),
    "a generator of a pair": (
        {"models": {"random+tiger": {"generator": "intrr"}}},
        r"model random\+tiger: 'generator' is 'intrr', but --generators says",
    ),
    "an unknown name": ({"tokenizers": {"rnadom": {}}}, "unknown tokenizer 'rnadom'"),
    "another unknown name": ({"generators": {"TIGER": {}}}, "unknown generator 'TIGER'"),
    "no mapping": ({"generators": {"tiger": 3}}, "'tiger' must hold"),
    "another's key": (
        {"tokenizers": {"random": {"beam_sise": 3}}},
        r"model random\+tiger: unknown setting 'beam_sise'",
    ),
    "RecBole's model": (
        {"generators": {"tiger": {"model": "SASRec"}}},
        r"model random\+tiger: 'model' is 'SASRec', which has no tokenizer",
    ),
    "a model without a generator": (
        {"generators": {"tiger": {"model": "R2LED"}}},
        r"model random\+tiger: 'model' is 'R2LED', which has no tokenizer",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_settings_of_pairs(case, made, tmp_path):
    values, message = BAD_FILES[case]
    with pytest.raises(InputError, match=message):
        plan_of(made, ["random"], ["tiger"], None, write(tmp_path, values))


# -- refusals -------------------------------------------------------------------------------------

REASON = (
    "the codes of tokenizer 'residual' are residual, each refines those before it, but generator "
    "'tiger' writes them in any order: choose tokenizer mmq, "
)


def test_residual_codes_are_refused_to_a_generator_of_any_order(made, any_order):
    settings = {key: value for key, value in made.items() if key != "dataset"}
    for model in ("TIGER", "UniSID"):
        with pytest.raises(InputError) as error:
            Config(model, "made", config_dict={**settings, "tokenizer": "residual"})
        assert str(error.value).startswith(REASON)
        assert ", file, or generator intrr" in str(error.value)
    assert Config("TIGER", "made", config_dict={**settings, "tokenizer": "random"})
    assert Config(
        "TIGER", "made", config_dict={**settings, "tokenizer": "residual", "generator": "intrr"}
    )
    # `tokenize` trains no generator.
    assert Config("TIGER", "made", config_dict={**settings, "tokenizer": "residual"}, measures=True)


def test_codes_of_a_file_pass_with_a_word(made, any_order, tmp_path, caplog):
    made["sid_file"] = str(tmp_path / "sids.json")
    sid_table({"a": [0], "b": [1]}, (2,)).save(made["sid_file"])
    settings = {key: value for key, value in made.items() if key != "dataset"}
    for generator, told in (("intrr", False), ("tiger", True)):
        caplog.clear()
        given = {**settings, "tokenizer": "file", "generator": generator}
        with caplog.at_level(logging.WARNING, "recbole_sid"):
            Config("TIGER", "made", config_dict=given)
        assert ("whether those of the SID file mean something" in caplog.text) is told


def test_a_refused_pair_is_a_row_without_runs(made, any_order):
    plan = plan_of(made, ["residual", "random"], ["tiger", "intrr"])
    assert [run.label for run in plan.runs] == ["residual+intrr", "random+tiger", "random+intrr"]
    assert [bool(model.refused) for model in plan.models] == [True, False, False, False]
    with pytest.raises(InputError, match=r"'residual\+tiger', which is not among"):
        plan_of({**made, "reference": "residual+tiger"}, ["residual", "random"], ["tiger"])
    with pytest.raises(InputError, match="no pair of the grid can be run: the codes of tokenizer"):
        plan_of(made, ["residual"], ["tiger"])
    assert plan_of(made, ["residual"], ["tiger"], ["Pop"]).runs[0].label == "Pop"


# -- what is written ------------------------------------------------------------------------------


def row(label, words, mean=None, sd=None):
    """``words``: the state of each seed."""
    runs = [{"seed": n, "state": word, "reason": "so", "log": "l"} for n, word in enumerate(words)]
    cells = {}
    if mean is not None:
        n = words.count("finished")
        cells = {
            "test/ndcg@10": {"mean": mean, "sd": sd, "n": n},
            "valid/ndcg@10": {"mean": 1 - mean, "sd": sd, "n": n},
        }
    return {"model": label, "class": "TIGER", "trials": None, "cells": cells, "runs": runs}


def result(*rows):
    return {
        "dataset": "office",
        "metric": "test/ndcg@10",
        "counts": {"test": 1234},
        "split_hash": {"test": "abc"},
        "grid": {"tokenizers": ["x", "y"], "generators": {"g": "G", "h": "H"}},
        "models": [row("Pop", ["finished"], 0.9), *rows],
    }


FULL = (
    row("x+g", ["finished", "finished"], 0.25, 0.125),
    row("x+h", ["refused", "refused"]),
    row("y+g", ["finished", "not run"], 0.5),
    row("y+h", ["not run", "not run"]),
)


def test_the_grid_by_hand():
    text = grid_markdown(result(*FULL))
    parts = text.split("\n## ")
    test, valid = (part.partition("\n")[2] for part in parts[1:3])
    assert test.strip().splitlines() == [
        "| Tokenizer | g | h |",
        "| --- | ---: | ---: |",
        "| x | 0.2500 ± 0.1250 | refused |",
        "| y | **0.5000 (1 of 2 seeds)** | not run |",
    ]
    assert valid.strip().splitlines()[2:] == [
        "| x | **0.7500 ± 0.1250** | refused |",
        "| y | 0.5000 (1 of 2 seeds) | not run |",
    ]
    assert "NDCG@10" in text
    assert "1,234 test users" in text
    assert "g as G, h as H" in text
    assert "## Refused and failed\n\n- x+h, refused: so\n" in text
    assert [[cell.mean for cell in line] for line in grid_cells(result(*FULL), "test")] == [
        [0.25, None],
        [0.5, None],
    ]


def test_the_other_tables_say_refused_too():
    assert state(FULL[1]) == "refused: so"
    lines = table(result(*FULL)).splitlines()
    assert lines[2].startswith("x+g,TIGER,,finished,0.25,")
    assert lines[3].startswith("x+h,TIGER,,refused: so,")


def test_the_plot_is_drawn_once_there_is_a_figure(tmp_path):
    none = [row(f"{t}+{g}", ["not run"]) for t in "xy" for g in "gh"]
    write_grid(tmp_path, result(*none))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.md"]
    assert "**" not in (tmp_path / "grid.md").read_text()
    write_grid(tmp_path, result(*FULL))
    svg = (tmp_path / "grid.svg").read_text()
    texts = ("NDCG@10, office", "Validation", "0.2500 ± 0.1250", "refused", "(1 of 2 seeds)", ">h<")
    for text in texts:
        assert text in svg
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    before = svg, (tmp_path / "grid.png").read_bytes()
    write_grid(tmp_path, result(*FULL))
    assert before == ((tmp_path / "grid.svg").read_text(), (tmp_path / "grid.png").read_bytes())


def test_a_grid_is_run_and_the_rest_kept(made, any_order, tmp_path):
    small = {key: value for key, value in SMALL.items() if key not in CUT}
    codes = {"tokenizer_codebook_size": small.pop("tokenizer_codebook_size")}
    del small["tokenizer"]
    file = write(tmp_path, {
        "all": {"epochs": 1, "resamples": 200},
        "tokenizers": {"random": codes},
        "generators": {"tiger": small},
    })  # fmt: skip

    def grid():
        return compare(
            None,
            tokenizers=["random", "residual"],
            generators=["tiger"],
            settings=file,
            config_dict=made,
        )

    found = grid()
    out = tmp_path / "out"
    assert [path.name for path in (out / "runs").iterdir()] == ["random+tiger-2020"]
    stored = json.loads((out / "runs" / "random+tiger-2020" / "result.json").read_text())
    assert (stored["model"], found["grid"]["generators"]) == ("TIGER", {"tiger": "TIGER"})
    text = (out / "grid.md").read_text()
    score = f"**{stored['test_result']['ndcg@2']:.4f}**"
    assert f"| random | {score} |" in text.split("## Validation")[0]
    assert f"| random | **{stored['best_valid_result']['ndcg@2']:.4f}** |" in text
    assert "| residual | refused |" in text
    assert "- residual+tiger, refused: the codes of tokenizer 'residual'" in text
    assert f"residual+tiger is refused: {REASON}" in (out / "comparison.log").read_text()
    whole = (out / "comparison.md").read_text()
    assert whole == markdown(found)
    assert "## Refused pairs\n\n- residual+tiger, refused: the codes" in whole
    assert "| residual+tiger | 0 of 1 | refused |" in whole
    assert (out / "grid.svg").is_file()
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    assert grid()["models"] == found["models"]
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before
