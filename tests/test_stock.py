"""``register()`` inside a program that has a command line of its own."""

import logging
import sys

import pytest
from recbole.quick_start import quick_start as stock

import recbole_sid
from recbole_sid.errors import InputError
from tests.runs import SMALL, write_data

FOREIGN = ["train", "-v", "--params_file=a.hyper", "--flag", "--beam_size", "lonely", "-seed=3"]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Settings of a sound run, with our models registered in a process of foreign arguments."""
    monkeypatch.setattr(sys, "argv", ["program", *FOREIGN])
    recbole_sid.register()
    yield SMALL | write_data(tmp_path, [("u", f"i{n}", n) for n in range(10)])
    recbole_sid.unregister()


@pytest.mark.parametrize("model", ["TIGER", "BPR"])
def test_arguments_of_the_program_are_left_to_it(given, caplog, model):
    if model == "BPR":
        given = {key: given[key] for key in ("data_path", "load_col")}
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        for _ in range(2):
            assert stock.Config(model, "made", config_dict=given).model == model
    assert [record.getMessage() for record in caplog.records] == [
        "arguments that are no settings are left to the program: train -v --params_file=a.hyper "
        "--flag --beam_size lonely -seed=3"
    ]


def test_settings_among_them_count(given, monkeypatch):
    ours = ["--beam_size=30", "--epochs=3", "--eval_args={'mode': 'full', 'order': 'TO'}"]
    monkeypatch.setattr(sys, "argv", ["program", *FOREIGN, *ours])
    config = stock.Config("TIGER", "made", config_dict=given)
    assert (config["beam_size"], config["epochs"]) == (30, 3)
    assert config["seed"] == 2020  # RecBole's default, as -seed=3 is no setting


def test_bad_values_of_settings_are_refused(given, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--beam_size=2"])
    with pytest.raises(InputError, match="'beam_size' is 2"):
        stock.Config("TIGER", "made", config_dict=given)


def test_a_notebook_has_no_settings_in_its_arguments(given, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "--epochs=3", "-f", "kernel.json"])
    assert stock.Config("TIGER", "made", config_dict=given)["epochs"] == SMALL["epochs"]
