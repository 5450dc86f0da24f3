import sys
from pathlib import Path

import pytest
from recbole.utils.argument_list import dataset_arguments

from recbole_sid.config import Config
from recbole_sid.errors import InputError
from tests.configs import tiger


def test_cross_entropy_needs_no_negatives_unless_asked_for():
    assert Config("SASRec", "ml-100k")["train_neg_sample_args"]["distribution"] == "none"
    pairwise = Config("SASRec", "ml-100k", config_dict={"loss_type": "BPR"})
    assert pairwise["train_neg_sample_args"]["distribution"] == "uniform"
    with pytest.raises(InputError, match="should be None when the loss_type is CE"):
        Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": {"sample_num": 1}})


def test_the_command_line_is_read_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog", "--epochs=7", "--topk", "[10, 20]", "--resume"])
    assert tiger()["epochs"] != 7
    config = Config("TIGER", "ml-100k", command_line=None)
    assert (config["epochs"], config["topk"], config.run.resume) == (7, [10, 20], True)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    Config("TIGER", "ml-100k", command_line=None)


def test_a_setting_that_is_no_flag_needs_a_value():
    with pytest.raises(InputError, match="'epochs' needs a value: --epochs=VALUE"):
        Config("TIGER", "ml-100k", command_line=["--epochs"])
    with pytest.raises(InputError, match="'output' needs a value"):
        Config("BPR", "ml-100k", command_line=["--output", "--resume"])


def test_model_and_dataset_come_from_any_source(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("model: BPR\ndataset: ml-100k\n")
    assert Config(config_file_list=[file]).model == "BPR"
    assert Config(config_file_list=[file], command_line=["--model", "TIGER"]).model == "TIGER"
    with pytest.raises(InputError, match="no model is given"):
        Config(dataset="ml-100k")
    with pytest.raises(InputError, match="no dataset is given"):
        Config("TIGER")


def test_values_are_parsed_and_the_dictionary_stays_as_it_was(tmp_path):
    given = {
        "topk": "[5, 10]",
        "learning_rate": "1e-3",
        "item_inter_num_interval": "[0,inf)",
        "wandb_project": f"open({str(tmp_path / 'ran')!r}, 'w')",
        "eval_args": {"mode": "full", "order": "TO", "split": {"LS": "valid_and_test"}},
        "train_batch_size": 1e2,
    }
    before = dict(given)
    config = Config("TIGER", "ml-100k", config_dict=given)
    assert (config["topk"], config["learning_rate"]) == ([5, 10], 0.001)
    assert config["item_inter_num_interval"] == "[0,inf)"
    assert config["wandb_project"] == given["wandb_project"]
    assert type(config["train_batch_size"]) is int
    assert config["eval_args"]["mode"] == {"valid": "full", "test": "full"}
    assert given == before
    assert given["eval_args"]["mode"] == "full"
    assert not (tmp_path / "ran").exists()


def test_nested_settings_of_the_caller_stay_as_they_were():
    given = {"train_neg_sample_args": {"distribution": "popularity"}}
    config = Config("BPR", "ml-100k", config_dict=given)
    assert config["train_neg_sample_args"]["sample_num"] == 1
    assert given == {"train_neg_sample_args": {"distribution": "popularity"}}


def test_the_run_folder_and_that_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiger()
    assert config.run_folder == Path("runs") / f"ml-100k-TIGER-{config.settings_hash()[:10]}"
    assert config["checkpoint_dir"] == f"{config.run_folder}-stock"
    named = tiger(output="here")
    assert named.run_folder == Path("here")
    assert named["checkpoint_dir"] == "here-stock"
    assert list(tmp_path.iterdir()) == []


def test_recbole_global_lists_stay_as_they_were():
    before = list(dataset_arguments)
    config = tiger()
    config.parameters["Dataset"].append("more")
    assert dataset_arguments == before
    assert "load_col" in config.parameters["Dataset"]


def test_a_model_class_is_taken_as_it_is():
    from recbole.model.general_recommender import BPR

    config = Config(BPR, "ml-100k")
    assert (config.model, config.model_spec) == ("BPR", None)
    with pytest.raises(InputError, match="neither a name nor a model class"):
        Config(3, "ml-100k")
