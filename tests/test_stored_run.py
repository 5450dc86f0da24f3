"""A finished run is opened again, and only where all it needs is as it was."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.trainer import SIDTrainer
from tests.runs import SMALL, made, run, snapshot
from tests.sealing import write_json


def test_a_loaded_model_gives_the_same_metrics(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, _ = trained
    before = snapshot(Path(result["run_folder"]))
    loaded = recbole_sid.load(result["run_folder"])
    config, dataset, model = loaded
    assert (config.model, dataset.item_num) == ("TIGER", model.n_items)
    assert snapshot(Path(result["run_folder"])) == before
    assert list(tmp_path.iterdir()) == []
    file = Path(result["run_folder"]) / "model.safetensors"
    config, model, dataset, _, valid_data, test_data = recbole_sid.load_data_and_model(file)
    assert dataset.item_num == loaded.dataset.item_num
    config["checkpoint_dir"] = str(tmp_path)
    config.final_config_dict["output"] = str(tmp_path)
    trainer = SIDTrainer(config, model)
    assert trainer.evaluate(test_data, load_best_model=False) == result["test_result"]
    assert trainer.evaluate(valid_data, model_file=str(file)) == result["best_valid_result"]


def test_what_cannot_be_loaded(trained, tmp_path, cache):
    with pytest.raises(InputError, match=r"has no config\.yaml"):
        recbole_sid.load(tmp_path)
    shutil.copytree(trained[0]["run_folder"], tmp_path / "copy")
    sids = tmp_path / "copy" / "sids.json"
    stored = json.loads(sids.read_text())
    first = next(iter(stored["items"]))
    del stored["items"][first]
    write_json(sids, stored)
    with pytest.raises(InputError, match=f"no SID: '{first}'"):
        recbole_sid.load(tmp_path / "copy")
    run(tmp_path, cache, "Pop")
    with pytest.raises(InputError, match=r"has no sids\.json"):
        recbole_sid.load(tmp_path / "run")


def test_a_run_on_data_that_has_changed_cannot_be_loaded(tmp_path, cache):
    run(tmp_path, cache, dataset="made", **made(tmp_path, 8, 10))
    recbole_sid.load(tmp_path / "run")
    file = tmp_path / "made" / "made.inter"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(InputError, match="holds a run on other data"):
        recbole_sid.load(tmp_path / "run")


def test_a_run_can_be_loaded_elsewhere_and_without_the_files_of_stage_1(
    tmp_path, cache, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = made(tmp_path, 8, 10) | {"data_path": "."}
    vectors_file = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    np.save("v.npy", vectors_file)
    Path("ids.txt").write_text("".join(f"i{item}\n" for item in range(10)))
    own = {"tokenizer": "rqkmeans", "item_embedding_file": "v.npy", "item_embedding_ids": "ids.txt"}
    run(tmp_path / "a", cache, dataset="made", **given, **own, tokenizer_codebook_size=4)
    codes = {f"i{item}": [item % 3, item // 3] for item in range(10)}
    Path("s.json").write_text(json.dumps(codes))
    file = {k: v for k, v in SMALL.items() if not k.startswith("tokenizer")} | given
    file |= {"tokenizer": "file", "sid_file": "s.json", "cache_dir": cache, "output": "b/run"}
    recbole_sid.run("TIGER", "made", config_dict=file)
    for name in ("v.npy", "ids.txt", "s.json"):
        Path(name).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("a", "b"):
        assert recbole_sid.load(tmp_path / name / "run").dataset.item_num == 11
