import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import recbole.config
import yaml
from recbole.utils.argument_list import dataset_arguments

from recbole_sid import config as config_module
from recbole_sid import registry, resources
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender

INTER = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n"


def made(folder: Path, name: str = "made") -> str:
    """A dataset folder with headers and one row; gives the data_path."""
    (folder / name).mkdir()
    (folder / name / f"{name}.inter").write_text(INTER)
    (folder / name / f"{name}.item").write_text("item_id:token\ttitle:token\ni\tShoe\n")
    return str(folder)


def tiger(**settings):
    return Config("TIGER", "ml-100k", config_dict={"tokenizer": "rqvae"} | settings)


@pytest.fixture
def table(monkeypatch):
    """The table of names, with changes that last for one test."""
    registry.model_names()
    full = registry._TABLE
    copied = registry._Table(dict(full.tokenizers), dict(full.generators), dict(full.models))
    monkeypatch.setattr(registry, "_TABLE", copied)


class Coder:
    parallel = False
    needs_parallel_codes = False
    needs_vectors = False
    needs_source = False

    @dataclass(frozen=True)
    class Settings:
        size: int


def test_each_layer_goes_before_the_one_below(tmp_path, monkeypatch, table):
    """`layer` and one key a layer: the key is set in that layer and in all layers below it."""
    stock = tmp_path / "stock" / "config"
    ours = tmp_path / "ours"
    names = [
        "stock/properties/overall",
        "stock/properties/dataset/sample", "stock/properties/dataset/made",
        "ours/properties/overall", "ours/properties/items", "ours/properties/pairs",
        "ours/properties/behaviour", "ours/properties/schema",
        "tokenizer", "generator", "model",
        "ours/dataset_configs/made", "stock/properties/quick_start_config/sequential",
        "file1", "file2", "dict", "command",
    ]  # fmt: skip
    keys = [f"key{i}" for i in range(len(names))]
    layers = {name: {key: name for key in keys[i:]} for i, name in enumerate(names)}
    stock.mkdir(parents=True)
    real = Path(recbole.config.configurator.__file__).parent.parent / "properties"
    for name, values in layers.items():
        base = {}
        if name.startswith("stock"):
            file = real / f"{name.removeprefix('stock/properties/')}.yaml"
            base = yaml.safe_load(file.read_text()) if file.is_file() else {}
        elif name.startswith("ours/properties"):
            file = resources.resource_dir("properties") / f"{Path(name).name}.yaml"
            base = yaml.safe_load(file.read_text())
        if "/" in name or name.startswith("file"):
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(base | values))
    monkeypatch.setattr(recbole.config.configurator, "__file__", str(stock / "configurator.py"))
    monkeypatch.setattr(config_module, "resource_dir", lambda name: ours / name)
    registry.register_tokenizer("coder", Coder, {"tokenizer_size": 1} | layers["tokenizer"])
    registry.register_generator("writer", Coder, {"size": 1} | layers["generator"])
    registry.register_model(
        "Mine", tokenizer="coder", generator="writer", defaults=layers["model"],
        recommender=SIDRecommender, trainer=object,
    )  # fmt: skip
    made(tmp_path)
    config = Config(
        "Mine",
        "made",
        [tmp_path / "file1.yaml", tmp_path / "file2.yaml"],
        {
            "data_path": str(tmp_path),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            **layers["dict"],
        },
        [f"--{key}={value}" for key, value in layers["command"].items()],
    )
    assert {key: config[key] for key in keys} == dict(zip(keys, names, strict=True))


def test_defaults_of_our_models_and_the_chosen_components():
    config = Config("TIGER", "ml-100k")
    spec = registry.model("TIGER")
    assert (config["tokenizer"], config["generator"]) == (spec.tokenizer, spec.generator)
    assert config.tokenizer_spec == registry.tokenizer(spec.tokenizer)
    assert config.tokenizer_settings.levels == config["tokenizer_levels"]
    assert config.generator_settings.beam_size == config["beam_size"]
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["repeatable"] is True
    assert config["MAX_ITEM_LIST_LENGTH"] == 20  # RecBole's sample.yaml and ml-100k.yaml say 50
    assert Config("SASRec", "ml-100k")["MAX_ITEM_LIST_LENGTH"] == 50
    assert "movie_title" in config["item_text_fields"]
    other = tiger(tokenizer="random")
    assert other.tokenizer_settings == other.tokenizer_spec.cls.Settings(
        other["tokenizer_levels"], other["tokenizer_codebook_size"]
    )
    assert "tokenizer_epochs" not in other


def test_a_model_tunes_only_its_own_tokenizer(table):
    registry.register_model(
        "Mine", tokenizer="rqvae", generator="tiger", defaults={"tokenizer_epochs": 3},
        recommender=SIDRecommender, trainer=object,
    )  # fmt: skip
    assert Config("Mine", "ml-100k")["tokenizer_epochs"] == 3
    other = Config("Mine", "ml-100k", config_dict={"tokenizer": "random"})
    assert "tokenizer_epochs" not in other


def test_a_dataset_tunes_only_the_tokenizer_it_names(tmp_path, monkeypatch):
    (tmp_path / "ml-100k.yaml").write_text("tokenizer_epochs: 3\nitem_text_fields: [class]\n")
    real = config_module.resource_dir
    folders = {"dataset_configs": tmp_path}
    monkeypatch.setattr(config_module, "resource_dir", lambda name: folders.get(name) or real(name))
    assert tiger()["tokenizer_epochs"] == 3
    for other in (tiger(tokenizer="random"), Config("BPR", "ml-100k")):
        assert "tokenizer_epochs" not in other
        assert other["item_text_fields"] == ["class"]


def test_what_a_dataset_says_of_generators_is_for_them_alone():
    assert tiger()["epochs"] == 8
    assert tiger(epochs=3)["epochs"] == 3
    for other in ("SASRec", "R2LED"):
        config = Config(other, "ml-100k")
        assert config["epochs"] > 8
        assert "generative" not in config
    assert "generative" not in tiger()


def test_recbole_models_keep_their_stock_settings(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog"])
    for model in ("BPR", "LightGCN", "GRU4Rec"):
        given = {"train_neg_sample_args": None} if model == "GRU4Rec" else {}
        stock = recbole.config.Config(model, "ml-100k", config_dict=dict(given)).final_config_dict
        ours = Config(model, "ml-100k").final_config_dict
        own = {
            "output",
            "resume",
            "overwrite",
            "strict",
            "cache_dir",
            "collision",
            "collision_capacity",
            "collision_headroom",
            "split_times",
            "prompt_template",
        }
        assert {k for k in ours.keys() - stock.keys() if not k.startswith("item_")} == own
        different = {k for k in stock if stock[k] != ours[k]}
        assert different == {"checkpoint_dir", "data_path"}
        assert os.path.samefile(stock["data_path"], ours["data_path"])


def test_headroom_is_for_the_dedup_digit_alone():
    assert tiger(collision_headroom=4096).run.collision_headroom == 4096
    for changes, message in (
        ({"collision_headroom": -1}, "'collision_headroom' is -1, but must be 0 to 4096"),
        ({"collision_headroom": 4097}, "'collision_headroom' is 4097"),
        ({"collision_headroom": 1, "collision": "none"}, "0 with collision: none"),
    ):
        with pytest.raises(InputError, match=message):
            tiger(**changes)


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


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "BPR"])
def test_plain_settings_give_the_same_config_again(tmp_path, model):
    data = made(tmp_path)
    first = Config(
        model,
        "made",
        config_dict={
            "data_path": data,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "topk": 10,
            "epochs": 3,
        },
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(first.to_plain()))
    again = Config(config_file_list=[file])
    assert again.to_plain() == first.to_plain()
    assert again.settings_hash() == first.settings_hash()
    assert again.run_folder == first.run_folder
    assert again["data_path"] == first["data_path"] == str(tmp_path / "made")
    assert again["train_neg_sample_args"] == first["train_neg_sample_args"]


def test_the_hash_sees_what_changes_a_result_and_nothing_else():
    first = tiger().settings_hash()
    same = [{"output": "x"}, {"resume": True}, {"show_progress": False}, {"cache_dir": "/c"},
            {"gpu_id": "1"}, {"state": "DEBUG"}, {"learning_rate": tiger()["learning_rate"]},
            {"generator": "tiger"}]  # fmt: skip
    other = [{"learning_rate": 0.1}, {"seed": 1}, {"tokenizer": "random"}, {"collision": "none"},
             {"topk": [10]}, {"prompt_template": "{movie_title}"}]  # fmt: skip
    assert [tiger(**given).settings_hash() == first for given in same] == [True] * len(same)
    hashes = {tiger(**given).settings_hash() for given in other}
    assert len(hashes | {first}) == len(other) + 1


def test_plain_settings_hold_in_any_folder_and_name_no_start(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    made(tmp_path / "data")
    for name in ("v.npy", "ids.txt", "s.json"):
        (tmp_path / name).write_text("{}")
    loaded = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    own = {"item_embedding_file": "v.npy", "item_embedding_ids": "ids.txt",
           "tokenizer": "file", "sid_file": "s.json"}  # fmt: skip
    start = {"output": "out", "overwrite": True, "resume": False}
    monkeypatch.chdir(tmp_path)
    first = Config("TIGER", "made", None, {"data_path": "data", **loaded, **own, **start})
    plain = first.to_plain()
    assert not start.keys() & plain.keys()
    assert plain["data_path"] == str(tmp_path / "data")
    for key in ("item_embedding_file", "item_embedding_ids", "sid_file"):
        assert plain[key] == str(tmp_path / own[key])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Config(config_dict=plain)
    assert again.settings_hash() == first.settings_hash()
    assert not again.run.overwrite
    (tmp_path / "s.json").unlink()
    with pytest.raises(InputError, match=r"'sid_file' is .* no such file"):
        Config(config_dict=plain)
    assert Config(config_dict=plain, stage_1=False).settings_hash() == first.settings_hash()


def test_one_number_in_two_spellings_has_one_hash():
    assert tiger(weight_decay=1).settings_hash() == tiger(weight_decay=1.0).settings_hash()


def test_the_run_folder_and_that_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiger()
    assert config.run_folder == Path("runs") / f"ml-100k-TIGER-{config.settings_hash()[:10]}"
    assert config["checkpoint_dir"] == f"{config.run_folder}-stock"
    named = tiger(output="here")
    assert named.run_folder == Path("here")
    assert named["checkpoint_dir"] == "here-stock"
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("RECBOLE_SID_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiger().run.cache_folder == tmp_path / ".cache" / "recbole_sid"
    monkeypatch.setenv("RECBOLE_SID_CACHE", "/from/environment")
    assert tiger().run.cache_folder == Path("/from/environment")
    assert tiger(cache_dir="/named").run.cache_folder == Path("/named")


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
