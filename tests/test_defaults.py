"""Which file's value a setting has where nobody gives one."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import recbole.config
import yaml

from recbole_sid import defaults, registry, resources
from recbole_sid.config import Config
from recbole_sid.model.recommender import SIDRecommender
from tests.configs import made, tiger


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
    monkeypatch.setattr(defaults, "resource_dir", lambda name: ours / name)
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
    real = defaults.resource_dir
    folders = {"dataset_configs": tmp_path}
    monkeypatch.setattr(defaults, "resource_dir", lambda name: folders.get(name) or real(name))
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
            "withheld_items",
            "exclude_history",
            "prompt_template",
        }
        assert {k for k in ours.keys() - stock.keys() if not k.startswith("item_")} == own
        different = {k for k in stock if stock[k] != ours[k]}
        assert different == {"checkpoint_dir", "data_path"}
        assert os.path.samefile(stock["data_path"], ours["data_path"])
