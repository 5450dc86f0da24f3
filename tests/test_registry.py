import sys
from dataclasses import dataclass

import pytest

from recbole_sid import registry
from recbole_sid.errors import InputError


class Coder:
    @dataclass(frozen=True)
    class Settings:
        size: int


class Reader:
    prefix = "reader_"

    @dataclass(frozen=True)
    class Settings:
        file: str


class Bare:
    @dataclass(frozen=True)
    class Settings:
        pass


@pytest.fixture
def table(monkeypatch):
    """An empty table, without what this package brings."""
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    monkeypatch.setattr(registry, "_filled", True)


@pytest.fixture
def pair(table):
    registry.register_tokenizer("coder", Coder, {"tokenizer_size": 4})
    registry.register_generator("writer", Coder, {"size": 5})


def test_what_the_package_brings():
    assert "TIGER" in registry.model_names()
    spec = registry.model("TIGER")
    assert registry.tokenizer(spec.tokenizer).kind == "tokenizer"
    assert registry.tokenizer("rqvae").cls.__name__ == "RQVAE"
    assert registry.generator(spec.generator).cls.__name__ == "Tiger"
    assert spec.recommender.__name__ == "SIDRecommender"
    assert spec.trainer.__name__ == "SIDTrainer"
    for name in ("QuaSID", "UniSID", "MMQv2"):  # the same generator, trained by the same recipe
        other = registry.model(name)
        assert (other.generator, other.defaults) == (spec.generator, spec.defaults)
    kinds = [spec.kind for spec in registry.components()]
    assert kinds == sorted(kinds, key=["tokenizer", "generator", "model"].index)
    assert {"tokenizer", "generator", "model"} == {*kinds}
    assert registry.first_model("tiger") is spec
    assert registry.first_model("none") is None


def test_keys_carry_the_prefix_of_the_kind_or_of_the_class(pair):
    registry.register_tokenizer("reader", Reader, {"reader_file": "x"})
    assert registry.tokenizer("coder").keys == ["tokenizer_size"]
    assert registry.generator("writer").keys == ["size"]
    assert registry.tokenizer("reader").keys == ["reader_file"]


def test_defaults_from_a_file(table, tmp_path):
    file = tmp_path / "coder.yaml"
    file.write_text("tokenizer_size: 7   # (int) codes\n")
    registry.register_tokenizer("coder", Coder, file)
    assert registry.tokenizer("coder").defaults == {"tokenizer_size": 7}


def test_a_component_without_settings_needs_no_defaults(table):
    registry.register_tokenizer("bare", Bare)
    assert registry.tokenizer("bare").defaults == {}


def test_a_setting_without_default_is_refused(table):
    with pytest.raises(InputError, match="'coder' has no default for 'tokenizer_size'"):
        registry.register_tokenizer("coder", Coder, {"size": 4})


def test_a_class_without_settings_is_refused(table):
    with pytest.raises(InputError, match="needs a dataclass called Settings"):
        registry.register_generator("odd", int)


@pytest.mark.parametrize("name", ["", "a/b", "..", "1a", "a b", "a.b"])
def test_names_that_could_be_paths_are_refused(table, name):
    with pytest.raises(InputError, match="is not valid"):
        registry.register_tokenizer(name, Bare)


def test_a_taken_name_needs_replace(pair):
    with pytest.raises(InputError, match="already registered"):
        registry.register_tokenizer("coder", Bare)
    registry.register_tokenizer("coder", Bare, replace=True)
    assert registry.tokenizer("coder").cls is Bare


def test_unknown_components_are_answered_with_the_nearest(pair):
    with pytest.raises(InputError, match=r"unknown tokenizer 'codr'.*Did you mean 'coder'"):
        registry.tokenizer("codr")
    with pytest.raises(InputError, match="unknown generator None"):
        registry.generator(None)


def test_a_model_is_a_pair(pair):
    registry.register_model(
        "Mine", tokenizer="coder", generator="writer", defaults={"epochs": 3}, paper="a paper",
        recommender=Coder, trainer=Reader,
    )  # fmt: skip
    spec = registry.model("Mine")
    assert (spec.tokenizer, spec.generator, spec.paper) == ("coder", "writer", "a paper")
    assert (spec.recommender, spec.trainer, spec.defaults) == (Coder, Reader, {"epochs": 3})
    assert registry.model_names() == ["Mine"]
    assert registry.model("SASRec") is None


def test_models_that_cannot_be(pair):
    with pytest.raises(InputError, match="unknown tokenizer 'x'"):
        registry.register_model("Mine", tokenizer="x", generator="writer")
    with pytest.raises(InputError, match="one of RecBole's"):
        registry.register_model("SASRec", tokenizer="coder", generator="writer")
    with pytest.raises(InputError, match="'tokenizer' belongs in an argument"):
        registry.register_model(
            "Mine", tokenizer="coder", generator="writer", defaults={"tokenizer": "coder"}
        )
    assert registry.model_names() == []


def test_a_failed_start_leaves_an_empty_table_and_is_tried_again(monkeypatch):
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    monkeypatch.setattr(registry, "_filled", False)

    def fail():
        registry.register_tokenizer("bare", Bare)
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_builtins", fail)
        with pytest.raises(RuntimeError, match="half way"):
            registry.model_names()
    assert {"TIGER", "UniSID", "QuaSID", "R2LED"} < set(registry.model_names())


def test_recbole_models_are_listed_without_importing_lightgbm():
    registry.recbole_models.cache_clear()
    models = registry.recbole_models()
    assert models["BERT4Rec"] == "sequential_recommender"
    assert models["LightGCN"] == "general_recommender"
    assert models["XGBoost"] == "exlib_recommender"
    assert len(models) > 85
    assert "recbole.model.exlib_recommender" not in sys.modules
