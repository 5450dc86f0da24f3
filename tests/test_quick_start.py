import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import recbole.quick_start
import recbole.quick_start.quick_start as stock
import recbole.trainer
import recbole.utils
import torch
import yaml
from recbole.trainer import HyperTuning
from safetensors.torch import load_file

import recbole_sid
from recbole_sid import quick_start, run_folder
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.memory import peak_memory_mb
from recbole_sid.run_folder import read_json
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer import pipeline
from recbole_sid.trainer import SIDTrainer
from tests.runs import SAMPLED, SMALL, made, run, snapshot, write_data

ACCURACY = ("recall", "ndcg", "mrr", "hit")


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the session's run that a test may change, and the settings that lead to it."""
    result, settings = trained
    shutil.copytree(result["run_folder"], tmp_path / "copy")
    return tmp_path / "copy", settings | {"output": str(tmp_path / "copy")}


# -- what a run returns and writes ----------------------------------------------------------------


def test_what_run_returns(trained):
    result, _ = trained
    stock_keys = {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert stock_keys | {"sid", "run_folder", "timing"} <= result.keys()
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"] > 0
    assert result["valid_score_bigger"] is True
    names = [*ACCURACY, "sid_recall", "credited_recall", "generated"]
    assert set(result["test_result"]) == {f"{name}@{k}" for name in names for k in (5, 10)}
    assert result["test_result"]["generated@10"] == 1
    assert result["trained_in"] == "float32"
    assert 0 <= result["sid"]["sid/collision_rate"] < 1
    assert set(result["timing"]["seconds"]) == {"data", "tokenize", "train", "test", "total"}
    memory = result["timing"]["peak_memory_mb"]
    assert memory > 50
    assert memory <= peak_memory_mb()


def test_what_is_in_the_folder(trained):
    result, settings = trained
    folder = Path(result["run_folder"])
    files = [path for path in folder.rglob("*") if path.is_file()]
    events = [path for path in files if path.name.startswith("events.out.tfevents.")]
    assert events
    assert {path.name for path in files} - {path.name for path in events} == {
        "config.yaml", "sids.json", "model.safetensors", "run.log", "result.json", "timing.json",
        "outcomes.safetensors",
    }  # fmt: skip
    stored = read_json(folder / "result.json", "")
    assert stored["model"] == "TIGER"
    assert stored["settings_hash"] == Config("TIGER", "ml-100k", None, settings).settings_hash()
    assert {k: v for k, v in result.items() if k not in ("run_folder", "timing")} == stored
    sids = SemanticIDs.load(folder / "sids.json")
    assert sids.provenance["tokenizer"] == "random"
    log = (folder / "run.log").read_text()
    assert log.index("Stage 1:") < log.index("Stage 2:") < log.index("epoch 0 training")
    assert "\x1b" not in log


def test_nothing_is_made_beside_the_run_folder(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    settings = {**SMALL, "cache_dir": cache}
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [str(path) for path in Path("runs").iterdir()] == [result["run_folder"]]
    assert Path(result["run_folder"]).name.startswith("ml-100k-TIGER-")


def test_a_run_is_repeated_to_the_last_byte_with_cold_and_warm_cache(tmp_path):
    own = {"tokenizer": "rqvae", "tokenizer_codebook_size": 8, "tokenizer_epochs": 3,
           "item_embedding_file": str(vectors(tmp_path)),
           "item_embedding_ids": str(tmp_path / "ids.txt")}  # fmt: skip
    for name in ("cold", "warm"):
        run(tmp_path / name, str(tmp_path / "cache"), **own)
    cold, warm = tmp_path / "cold" / "run", tmp_path / "warm" / "run"
    assert "SIDs from the cache" not in (cold / "run.log").read_text()
    assert "SIDs from the cache" in (warm / "run.log").read_text()
    for name in ("result.json", "sids.json"):
        assert (cold / name).read_bytes() == (warm / name).read_bytes()
    fits = [read_json(folder / "timing.json", "")["fit_seconds"] for folder in (cold, warm)]
    assert fits[0] == fits[1] > 0, "codes from the cache tell what their fit took"
    first, second = (load_file(folder / "model.safetensors") for folder in (cold, warm))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_drawn_for_a_terminal_alone(tmp_path, cache, monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    run(tmp_path, cache, show_progress=True, epochs=1)
    assert ("Train     0" in capsys.readouterr().err) == terminal


def vectors(folder: Path) -> Path:
    """Vectors of ml-100k's items 1 to 1682, with the file of their ids."""
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(1682, 12)).astype(np.float32))
    (folder / "ids.txt").write_text("".join(f"{item}\n" for item in range(1, 1683)))
    return folder / "v.npy"


# -- the folder of an earlier run -----------------------------------------------------------------


def test_the_same_command_gives_the_stored_result(copy, trained, monkeypatch):
    folder, settings = copy
    before = snapshot(folder)
    monkeypatch.setattr(SIDTrainer, "fit", lambda *a, **k: pytest.fail("it trained again"))
    again = recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    assert again == trained[0] | {"run_folder": str(folder)}
    assert snapshot(folder) == before


def test_a_run_of_other_settings_is_kept(copy):
    folder, settings = copy
    before = snapshot(folder)
    with pytest.raises(InputError, match="holds a run of other settings"):
        recbole_sid.run("TIGER", "ml-100k", config_dict=settings | {"seed": 5})
    assert snapshot(folder) == before


def test_a_run_on_data_that_has_changed_since_is_not_taken_for_this_one(tmp_path, cache):
    given = made(tmp_path, 8, 10)
    first = run(tmp_path, cache, dataset="made", **given)
    assert run(tmp_path, cache, dataset="made", **given) == first
    items = tmp_path / "made" / "made.item"
    items.write_text(items.read_text().replace("Thing", "thing"))
    with pytest.raises(InputError, match="on other data"):
        run(tmp_path, cache, dataset="made", **given)


def test_overwrite_leaves_nothing_of_the_earlier_run(copy):
    folder, settings = copy
    (folder / "training.pt").write_text("stale")
    (folder / "notes.txt").write_text("mine")
    old = set(folder.rglob("events*"))
    recbole_sid.run("TIGER", "ml-100k", config_dict=settings | {"overwrite": True, "seed": 5})
    assert not (folder / "training.pt").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert not old & set(folder.rglob("events*"))
    assert (folder / "run.log").read_text().count("Stage 2:") == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 5


def test_a_failing_stage_1_changes_nothing(copy, tmp_path):
    folder, settings = copy
    short = tmp_path / "short.json"
    short.write_text(json.dumps({"1": [0, 1]}))
    before = snapshot(folder)
    bad = {"tokenizer": "file", "sid_file": str(short), "overwrite": True}
    kept = {k: v for k, v in settings.items() if not k.startswith("tokenizer")}
    with pytest.raises(InputError, match="have no SID"):
        recbole_sid.run("TIGER", "ml-100k", config_dict=kept | bad)
    assert snapshot(folder) == before
    with pytest.raises(InputError, match="have no SID"):
        recbole_sid.run(
            "TIGER", "ml-100k", config_dict=kept | bad | {"output": str(tmp_path / "n")}
        )
    assert not (tmp_path / "n").exists()


def test_folders_that_are_no_run_are_left_alone(tmp_path, cache):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(InputError, match=r"not the folder of a run, but has 'config\.yaml'"):
        run(tmp_path, cache)
    for name in ("sids.json", "model.safetensors", "training.pt", "result.json", "timing.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        with pytest.raises(InputError, match=f"not the folder of a run, but has '{name}'"):
            run(tmp_path, cache, output=str(tmp_path / name))
    with pytest.raises(InputError, match="is a file"):
        run(tmp_path, cache, output=str(tmp_path / "run" / "config.yaml"))
    assert (tmp_path / "run" / "config.yaml").read_text() == "mine: 1\n"


def test_inputs_that_the_run_would_replace_are_refused(copy):
    folder, settings = copy
    before = snapshot(folder)
    kept = {k: v for k, v in settings.items() if not k.startswith("tokenizer")}
    own = {"tokenizer": "file", "sid_file": str(folder / ".." / "copy" / "sids.json")}
    with pytest.raises(InputError, match=r"'sid_file' is .*which this run would replace"):
        recbole_sid.run("TIGER", "ml-100k", config_dict=kept | own | {"overwrite": True})
    assert snapshot(folder) == before


def test_folders_that_cannot_be_made_are_refused_before_stage_1(tmp_path, monkeypatch):
    monkeypatch.setattr(quick_start, "read_data", lambda *a: pytest.fail("it read the data"))
    for key in ("output", "cache_dir"):
        folders = {"output": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache")}
        with pytest.raises(InputError, match=f"'{key}' leads to '/dev/null/x', but '/dev/null' is"):
            recbole_sid.run("TIGER", "ml-100k", None, SMALL | folders | {key: "/dev/null/x"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vectors", "codes"])
def test_a_cache_that_cannot_be_written_is_named(name, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).write_text("")
    own = {"tokenizer": "rqkmeans", "tokenizer_codebook_size": 4}
    with pytest.raises(InputError, match=r"cache .* cannot be .* name another --cache_dir"):
        run(tmp_path, str(tmp_path / "cache"), dataset="made", **made(tmp_path, 8, 10), **own)
    assert not (tmp_path / "run").exists()


def test_a_result_of_other_code_is_not_taken_for_this_one(copy, monkeypatch):
    _, settings = copy
    config = Config("TIGER", "ml-100k", None, settings)
    before = run_folder.inputs_hash(config), run_folder.data_hash(config)
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "__version__", "0.0.0")
        assert run_folder.inputs_hash(config) != before[0]
        assert run_folder.data_hash(config) == before[1]
    real = run_folder.source_hash
    for changed in (config.tokenizer_spec.cls, config.generator_spec.cls):
        sources = {config.tokenizer_spec.cls: "", config.generator_spec.cls: "", changed: "new"}
        with monkeypatch.context() as patch:
            patch.setattr(
                run_folder, "source_hash", lambda cls, new=sources: f"{real(cls)}{new[cls]}"
            )
            with pytest.raises(InputError, match="by other code"):
                recbole_sid.run("TIGER", "ml-100k", config_dict=settings)


def test_the_source_of_a_tokenizer_of_ours_is_its_whole_folder(tmp_path, monkeypatch):
    real = Path(pipeline.__file__).parent
    shutil.copytree(real, tmp_path / "tokenizer")
    module = sys.modules["recbole_sid.tokenizer.random_codes"]
    cls = Config("TIGER", "ml-100k", None, SMALL).tokenizer_spec.cls
    before = pipeline.source_hash(cls)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "tokenizer" / "random_codes.py"))
    assert pipeline.source_hash(cls) == before
    with (tmp_path / "tokenizer" / "kmeans.py").open("a") as file:
        file.write("#")
    assert pipeline.source_hash(cls) != before


@pytest.mark.parametrize("name", ["result.json", "timing.json"])
def test_a_damaged_result_is_named(copy, name):
    folder, settings = copy
    (folder / name).write_text("{")
    with pytest.raises(InputError, match=r"has no checksum.*--overwrite"):
        recbole_sid.run("TIGER", "ml-100k", config_dict=settings)


def test_the_written_config_gives_the_same_run(trained):
    result, settings = trained
    config = Config(config_file_list=[Path(result["run_folder"]) / "config.yaml"])
    assert config.settings_hash() == Config("TIGER", "ml-100k", None, settings).settings_hash()
    again = recbole_sid.run(
        config_file_list=[str(Path(result["run_folder"]) / "config.yaml")],
        config_dict={"output": result["run_folder"]},
    )
    assert again == result


def test_the_written_config_does_not_overwrite(copy):
    folder, settings = copy
    recbole_sid.run("TIGER", "ml-100k", config_dict=settings | {"overwrite": True})
    before = snapshot(folder)
    config = Config(config_file_list=[folder / "config.yaml"], config_dict={"output": str(folder)})
    assert not config.run.overwrite
    recbole_sid.run(
        config_file_list=[str(folder / "config.yaml")],
        config_dict={"output": str(folder), "cache_dir": None},
    )
    assert snapshot(folder) == before


# -- models, tokenizers, ways to train ------------------------------------------------------------


@pytest.mark.parametrize("model", ["Pop", "BPR"])
def test_recboles_models_run(model, tmp_path, cache, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = {"metrics": ["Recall", "ItemCoverage"], "topk": [5], "valid_metric": "Recall@5"}
    result = run(tmp_path, cache, model, **given)
    assert "sid" not in result
    assert 0 < result["test_result"]["itemcoverage@5"] <= 1
    assert list(Path.cwd().iterdir()) == []
    assert run(tmp_path, cache, model, **given) == result


def published(folder: Path) -> dict:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (1682, 3)).tolist()
    rows = {
        str(item): [f"<{letter}_{code}>" for letter, code in zip("abc", row, strict=True)]
        for item, row in enumerate(codes, start=1)
    }
    (folder / "sids.json").write_text(json.dumps(rows))
    return {"sid_file": str(folder / "sids.json"), "sid_unknown_items": "ignore"}


@pytest.mark.parametrize("tokenizer", ["rqkmeans", "rqvae", "file"])
@pytest.mark.parametrize("training", ["packed", "prefix"])
def test_every_tokenizer_with_every_training(tokenizer, training, tmp_path, cache):
    given = {"tokenizer": tokenizer, "training": training, "tokenizer_codebook_size": 8}
    if training == "prefix":
        given["encoder_attention"] = "bidirectional"
    if tokenizer == "rqvae":
        own = {"item_embedding_file": str(vectors(tmp_path)), "tokenizer_epochs": 2,
               "item_embedding_ids": str(tmp_path / "ids.txt")}  # fmt: skip
    elif tokenizer == "file":
        own = published(tmp_path)
    else:
        own = {"text_encoder_precision": "float32"}  # from the titles
    settings = {**SMALL, **given, **own, "cache_dir": cache, "output": str(tmp_path / "run")}
    if tokenizer == "file":
        del settings["tokenizer_codebook_size"]
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    sids = SemanticIDs.load(tmp_path / "run" / "sids.json")
    assert sids.sizes[:3] == ((6, 6, 6) if tokenizer == "file" else (8, 8, 8))
    assert result["test_result"]["generated@10"] == 1
    assert result["trained_in"] == "float32"
    assert result["test_result"]["recall@10"] > 0
    assert recbole_sid.load(tmp_path / "run").model.sids.fingerprint() == sids.fingerprint()


def test_without_a_collision_rule_metrics_keep_their_bounds(tmp_path, cache):
    given = {"collision": "none", "tokenizer_codebook_size": 3, "tokenizer_levels": 2}
    result = run(tmp_path, cache, **given)
    assert result["sid"]["sid/collision_rate"] > 0.9
    for metrics in (result["test_result"], result["best_valid_result"]):
        for k in (5, 10):
            assert 0 <= metrics[f"mrr@{k}"] <= metrics[f"ndcg@{k}"] <= metrics[f"recall@{k}"] <= 1
            assert metrics[f"recall@{k}"] <= metrics[f"sid_recall@{k}"]
            assert metrics[f"hit@{k}"] == metrics[f"recall@{k}"]
        assert metrics["recall@5"] <= metrics["recall@10"]
    assert SemanticIDs.load(tmp_path / "run" / "sids.json").n_levels == 2


def test_sampled_evaluation_goes_through_predict(tmp_path, cache):
    given = {"metrics": ["Recall", "GAUC"], "valid_metric": "GAUC"}
    result = run(tmp_path, cache, eval_args=SAMPLED, **given)
    # 11 candidates: every list of 10 misses at most one of them.
    assert result["test_result"]["recall@10"] > 0.8
    assert 0.3 < result["test_result"]["gauc"] < 0.9


def test_coverage_metrics(tmp_path, cache):
    names = ["ItemCoverage", "GiniIndex", "AveragePopularity", "ShannonEntropy", "TailPercentage"]
    test = run(tmp_path, cache, metrics=["NDCG", *names])["test_result"]
    assert 10 / 90 <= test["itemcoverage@10"] <= 1
    assert 0 < test["giniindex@10"] < 1
    assert test["averagepopularity@10"] >= 1
    assert 0 < test["shannonentropy@10"] < 1
    assert 0 <= test["tailpercentage@10"] <= 1


# -- data at the edge -----------------------------------------------------------------------------


def test_a_catalogue_of_one_item(tmp_path, cache):
    result = run(tmp_path, cache, dataset="made", **made(tmp_path, 3, 1))
    assert result["test_result"]["recall@1"] == 1


def test_lists_longer_than_the_catalogue_are_refused(tmp_path, cache):
    given = made(tmp_path, 3, 7, topk=[8], valid_metric="NDCG@8")
    for model in ("TIGER", "BPR"):
        with pytest.raises(InputError, match=r"'topk' is \[8\], but must be at most 7"):
            run(tmp_path, cache, model, "made", **given)
    assert not (tmp_path / "run").exists()


def test_odd_ids_and_users_of_one_interaction(tmp_path, cache):
    users = ["007", "7", "été", "a b", "NULL-ish", "1.0"]
    items = ["01", "1", "x/y", "ça", "it's", "[0]"]
    rows = [(u, items[(n + i) % 6], i) for n, u in enumerate(users) for i in range(4)]
    rows.append(("lone", "01", 1))
    cut = {"user_inter_num_interval": None, "item_inter_num_interval": None}
    given = cut | {"topk": [3], "valid_metric": "NDCG@3"} | write_data(tmp_path, rows)
    run(tmp_path, cache, dataset="made", **given)
    assert set(SemanticIDs.load(tmp_path / "run" / "sids.json").tokens) == set(items)
    *_, test_data = recbole_sid.load_data_and_model(tmp_path / "run" / "model.safetensors")
    assert len(test_data.dataset) == len(users)


def test_what_run_does_not_do_is_refused(tmp_path, cache):
    with pytest.raises(InputError, match="'nproc' is 2, but several processes are started by"):
        run(tmp_path, cache, nproc=2)
    with pytest.raises(InputError, match="goes on with models that generate, but 'BPR' is not one"):
        run(tmp_path, cache, "BPR", resume=True)
    with pytest.raises(InputError, match="setting 'learner' is 'lion'"):
        run(tmp_path, cache, learner="lion")
    assert not (tmp_path / "run").exists()


# -- stock RecBole --------------------------------------------------------------------------------


@pytest.fixture
def registered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # stock functions write into the working directory
    monkeypatch.setattr(sys, "argv", ["program"])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    recbole_sid.register()
    yield
    recbole_sid.unregister()
    root.handlers[:], root.level = handlers, level  # stock functions add handlers of their own


def test_stock_run_recbole_finds_our_models(registered, trained, cache):
    settings = {**SMALL, "cache_dir": cache}
    result = recbole.quick_start.run_recbole(
        model="TIGER", dataset="ml-100k", config_dict=dict(settings)
    )
    assert dict(result["test_result"]) == trained[0]["test_result"]


def test_stock_run_recbole_leaves_our_runs_alone(registered, tmp_path, cache):
    run(tmp_path, cache)
    before = snapshot(tmp_path / "run")
    settings = SMALL | {"cache_dir": cache, "output": str(tmp_path / "run"), "epochs": 3}
    recbole.quick_start.run_recbole(model="TIGER", dataset="ml-100k", config_dict=settings)
    assert snapshot(tmp_path / "run") == before
    assert (tmp_path / "run-stock" / "model.safetensors").is_file()
    assert not (tmp_path / "run-stock" / "training.pt").exists()


def test_stock_hyper_tuning_tunes_our_models(registered, cache):
    file = Path("fixed.yaml")
    fixed = {**SMALL, "cache_dir": cache, "model": "TIGER", "dataset": "ml-100k"}
    del fixed["hidden_size"]
    file.write_text(yaml.safe_dump(fixed))
    tuning = HyperTuning(
        recbole.quick_start.objective_function,
        algo="exhaustive",
        params_dict={"choice": {"hidden_size": [8, 16]}},
        fixed_config_file_list=[str(file)],
    )
    tuning.run()
    assert tuning.best_params["hidden_size"] in (8, 16)
    assert len(tuning.params2result) == 2
    sizes = [len(path.read_bytes()) for path in Path("runs").glob("*/model.safetensors")]
    assert len(set(sizes)) == 2


def test_unregister_gives_recbole_back(tmp_path, monkeypatch):
    before = stock.Config, set(vars(recbole.trainer)), {m for m in sys.modules if "recbole." in m}
    recbole_sid.register()
    recbole_sid.register()
    assert recbole.utils.get_model("TIGER").__name__ == "SIDRecommender"
    assert recbole.utils.get_trainer(None, "TIGER") is SIDTrainer
    assert not torch.is_anomaly_enabled()
    recbole_sid.unregister()
    after = stock.Config, set(vars(recbole.trainer)), {m for m in sys.modules if "recbole." in m}
    assert after[:2] == before[:2]
    assert "recbole.model.sequential_recommender.tiger" not in after[2]
