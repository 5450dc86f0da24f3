import json
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
from sklearn.metrics import log_loss, roc_auc_score

import recbole_sid
from recbole_sid import registry
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.reading import read_data
from recbole_sid.resources import resource_dir
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.stored_run import load_data_and_model
from tests.runs import CUT

from .data import LABELLED, write_ratings

EXAMPLE = Path(__file__).parents[2] / "benchmarks" / "ranking-ml-100k.yaml"
SMALL = {
    **CUT,
    **LABELLED,
    "tokenizer": "random",
    "tokenizer_codebook_size": 8,
    "MAX_ITEM_LIST_LENGTH": 30,
    "epochs": 1,
    "train_batch_size": 128,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    settings = {**SMALL, "cache_dir": cache, "output": str(tmp_path_factory.mktemp("runs") / "run")}
    return recbole_sid.run("R2LED", "ml-100k", config_dict=settings)


def ratings():
    """Of ml-100k, read without RecBole."""
    folder = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    lines = (folder / "ml-100k.inter").read_text().splitlines()[1:]
    return {(user, item): float(r) for user, item, r, _ in map(str.split, lines)}


def test_the_folder_holds_what_a_run_of_ours_holds(finished):
    folder = Path(finished["run_folder"])
    stored = json.loads((folder / "result.json").read_text())
    assert set(stored["test_result"]) == {"auc", "logloss"}
    assert stored["test_result"] == finished["test_result"]
    assert stored["sid"] == finished["sid"]
    assert stored["best_valid_score"] == stored["best_valid_result"]["auc"]
    for name in ("config.yaml", "model.safetensors", "sids.json", "run.log", "timing.json"):
        assert (folder / name).is_file()
    assert "Stage 1: " in (folder / "run.log").read_text()
    assert not list(folder.glob("*.pth"))
    assert SemanticIDs.load(folder / "sids.json").collision == "none"


def test_the_metrics_are_those_of_the_ratings_and_of_the_loaded_model(finished):
    weights = Path(finished["run_folder"]) / "model.safetensors"
    config, model, dataset, _, _, test = load_data_and_model(weights)
    rows = test.dataset.inter_feat
    users = dataset.id2token("user_id", rows["user_id"])
    items = dataset.id2token("item_id", rows["item_id"])
    known = ratings()
    clicked = [known[pair] >= 4 for pair in zip(users, items, strict=True)]
    assert len(clicked) > 100
    assert np.array_equal(clicked, rows["label"].numpy() == 1)
    with torch.no_grad():
        odds = model.predict(rows.to(config["device"])).cpu().double().numpy()
    result = finished["test_result"]
    assert result["auc"] == pytest.approx(roc_auc_score(clicked, odds), abs=6e-5)
    assert result["logloss"] == pytest.approx(log_loss(clicked, odds), abs=6e-5)


def test_what_items_of_one_prefix_have_in_common_is_learned(tmp_path, cache):
    # Users like one of two groups of items, half of them each, and mostly meet items of that group.
    # A group is a first code; no item is liked more than another.
    rng = np.random.default_rng(1)
    rows = []
    for user in range(40):
        groups = np.where(rng.random(30) < 0.75, user % 2, 1 - user % 2)
        items = 2 * rng.integers(0, 30, 30) + groups
        rows += [(f"u{user}", f"i{n}", 5 * (n % 2 == user % 2)) for n in items]
    tokens = tuple(f"i{n}" for n in range(60))
    codes = np.array([[n % 2, rng.integers(4)] for n in range(60)], dtype=np.int32)
    SemanticIDs(tokens, codes, (2, 4), "none", {}).save(tmp_path / "sids.json")
    settings = {
        **write_ratings(tmp_path, rows),
        "tokenizer": "file",
        "sid_file": str(tmp_path / "sids.json"),
        "route_collaborative": False,
        "route_latest": False,
        "train_batch_size": 64,
        "learning_rate": 0.01,
        "epochs": 6,
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
    }
    result = recbole_sid.run("R2LED", "made", config_dict=settings)
    assert result["test_result"]["auc"] > 0.8
    assert result["test_result"]["logloss"] < 0.6


def test_there_are_no_lists_to_recommend_or_to_evaluate(finished):
    with pytest.raises(InputError, match="holds a model of clicks, R2LED, which makes no lists"):
        recbole_sid.evaluate(finished["run_folder"])
    with pytest.raises(InputError, match="R2LED"):
        recbole_sid.recommend(finished["run_folder"], [["1"]])


def test_a_finished_run_is_not_done_again(finished, caplog):
    folder = finished["run_folder"]
    before = (Path(folder) / "model.safetensors").stat().st_mtime_ns
    again = recbole_sid.run(
        config_file_list=[f"{folder}/config.yaml"], config_dict={"output": folder}
    )
    assert again["test_result"] == finished["test_result"]
    assert (Path(folder) / "model.safetensors").stat().st_mtime_ns == before


def test_recboles_models_see_the_same_rows_under_the_example():
    parts = {}
    for name in ("R2LED", "DIN", "DeepFM"):
        small = {"user_inter_num_interval": "[20,21]", "show_progress": False}
        config = Config(name, config_file_list=[EXAMPLE], config_dict=small)
        _, loaders = read_data(config)
        tables = [split.dataset.inter_feat for split in loaders]
        columns = [[rows[f].long() for f in ("user_id", "item_id", "label")] for rows in tables]
        parts[name] = [set(map(tuple, torch.stack(each, dim=1).tolist())) for each in columns]
        if name != "DeepFM":
            assert tables[2]["item_id_list"].shape[1] == 100
    assert parts["R2LED"] == parts["DIN"]
    # DeepFM has a row of every user more, the first interaction, which has no history. With it
    # comes a tenth more row for some users, so that DeepFM is tested on one row more of them.
    sequential, general = parts["DIN"], parts["DeepFM"]
    users = {user for user, _, _ in general[0]}
    assert len(set().union(*general)) == len(set().union(*sequential)) + len(users)
    assert sequential[2] < general[2]
    more = [user for user, _, _ in general[2] - sequential[2]]
    assert len(more) == len(set(more)) < len(users)


def test_defaults_stand_above_recboles_split_for_ranking():
    config = Config("R2LED", "ml-100k", config_dict=LABELLED)
    assert config["eval_args"]["mode"] == {"valid": "labeled", "test": "labeled"}
    assert config["metrics"] == ["AUC", "LogLoss"]
    assert config["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
    assert config.stage_2_settings.route_prefixes is None
    assert {"precision", "generator", "exclude_history"}.isdisjoint(config.final_config_dict)
    again = Config(config_dict=config.to_plain())
    assert again.settings_hash() == config.settings_hash()


def test_own_settings_are_typed_and_those_of_others_refused():
    for changes, message in (
        ({"n_head": 2}, "unknown setting 'n_head'. Did you mean 'n_heads'"),
        ({"beam_size": 5}, "'duet' or 'trio', and 'R2LED' has none: remove"),
        ({"generator": "tiger"}, "'generator' is one of models that generate"),
        ({"precision": "bf16"}, "'precision' is one of models that generate"),
        ({"exclude_history": True}, "'exclude_history' is one of models that generate"),
        ({"tokenizer": "rqkmean"}, "unknown tokenizer 'rqkmean'"),
        ({"embedding_size": 5}, "'embedding_size' is 5, but must be a multiple of n_heads = 2"),
        ({"n_heads": 0}, "'n_heads' is 0, but must be at least 1"),
        ({"route_prefixes": [1, 1]}, "'route_prefixes' is .1, 1., but must be different lengths"),
        ({"route_prefixes": [0]}, "'route_prefixes' is .0., but must be different lengths"),
        ({"route_items": 0}, "'route_items' is 0"),
        ({"mlp_hidden_size": []}, "'mlp_hidden_size' is .., but must be one or more sizes"),
        ({"dropout_prob": 1.0}, "'dropout_prob' is 1.0, but must be in"),
        ({"route_latest": "yes"}, "'route_latest' is 'yes', but must be true or false"),
        (
            {"route_prefixes": [], "route_latest": False, "route_collaborative": False},
            "no route is left",
        ),
    ):
        with pytest.raises(InputError, match=message):
            Config("R2LED", "ml-100k", config_dict={**LABELLED, **changes})


def test_its_settings_are_refused_elsewhere():
    message = "'route_items' belongs to model 'R2LED', which is not run here: remove it, or choose"
    with pytest.raises(InputError, match=message):
        Config("TIGER", "ml-100k", config_dict={"route_items": 3})
    with pytest.raises(InputError, match="'route_items' belongs to model 'R2LED'"):
        Config("SASRec", "ml-100k", config_dict={"route_items": 3})


def test_there_is_nothing_to_resume():
    with pytest.raises(InputError, match="'R2LED' is not one: leave it out"):
        recbole_sid.run("R2LED", "ml-100k", config_dict={**SMALL, "resume": True})


def test_a_model_without_generator_needs_settings_and_their_defaults():
    own = registry.model("R2LED")
    assert own is not None
    with pytest.raises(InputError, match="'Clicks' has no default for 'embedding_size'"):
        registry.register_model(
            "Clicks", tokenizer="random", generator=None, recommender=own.recommender
        )
    with pytest.raises(InputError, match="'Clicks': it needs a dataclass called Settings"):
        registry.register_model("Clicks", tokenizer="random", generator=None)


def test_a_model_of_somebody_elses():
    own = registry.model("R2LED")
    assert own is not None
    file = resource_dir("properties") / "model" / "R2LED.yaml"
    try:
        registry.register_model(
            "Clicks",
            tokenizer="random",
            generator=None,
            defaults=file,
            recommender=own.recommender,
        )
        config = Config("Clicks", "ml-100k", config_dict=LABELLED)
        assert config.stage_2_spec.name == "Clicks"
        assert config.model_spec.trainer.__name__ == "ClickTrainer"
    finally:
        registry._TABLE.models.pop("Clicks", None)
