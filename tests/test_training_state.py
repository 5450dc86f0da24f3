"""Runs that are killed go on from their state, and only from one that fits."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recbole_sid
from recbole_sid.checkpoint import save_state
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.reading import read_data
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_state import read_state
from tests.runs import SMALL, snapshot, write_data
from tests.small_models import build, uncut

LONGER = {"epochs": 4, "eval_step": 1, "dropout": 0.3, "stopping_step": 3}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, cache):
    """The folder of a run that was killed in the middle of its third epoch, and its settings."""
    folder = tmp_path_factory.mktemp("resume") / "run"
    settings = {**SMALL, **LONGER, "cache_dir": cache, "output": str(folder)}
    check = SIDTrainer._check_finite

    def kill(self, loss, epoch, step):
        check(self, loss, epoch, step)
        if (epoch, step) == (2, 1):
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SIDTrainer, "_check_finite", kill)
        with pytest.raises(KilledError):
            recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    return folder, settings


def copied(interrupted, to: Path) -> tuple[Path, dict]:
    folder, settings = interrupted
    shutil.copytree(folder, to)
    return to, settings | {"output": str(to)}


def test_a_resumed_run_ends_as_an_undisturbed_one(interrupted, tmp_path):
    folder, settings = copied(interrupted, tmp_path / "resumed")
    whole = tmp_path / "whole"
    recbole_sid.run("TIGER", "ml-100k", config_dict=settings | {"output": str(whole)})
    state = torch.load(folder / "training.pt", weights_only=True)
    assert state["next_epoch"] == 2
    assert 0 < state["seconds"] < 600
    save_state(folder / "training.pt", state | {"seconds": 5000.0})
    recbole_sid.run("TIGER", "ml-100k", config_dict=settings | {"resume": True})
    train = json.loads((folder / "timing.json").read_text())["seconds"]["train"]
    assert 5000 < train < 5600, "what was trained before the kill counts too"
    assert "3 of 4, at most about" in (log := (folder / "run.log").read_text())
    assert "4 of 4, the last one" in log
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (folder / "training.pt").exists()
    log = (folder / "run.log").read_text()
    assert "epoch 0 training" in log
    assert "Resuming from epoch 2" in log


def test_an_unfinished_run_is_not_lost_unasked(interrupted, tmp_path):
    folder, settings = copied(interrupted, tmp_path / "run")
    before = snapshot(folder)
    for changes, message in (
        ({}, "unfinished run. Go on with --resume"),
        ({"resume": True, "learning_rate": 0.1}, "made with other settings"),
        ({"resume": True, "overwrite": True}, "give one of them"),
        ({"resume": True, "user_inter_num_interval": "[20,29]"}, "other items or other SIDs"),
    ):
        with pytest.raises(InputError, match=message):
            recbole_sid.run("TIGER", "ml-100k", config_dict=settings | changes)
    assert snapshot(folder) == before


def test_a_state_of_other_interactions_is_refused_before_anything_is_written(tmp_path, cache):
    rows = [(f"u{u}", f"i{(u + i) % 6}", i) for u in range(6) for i in range(6)]
    settings = uncut(write_data(tmp_path, rows)) | {
        "cache_dir": cache, "output": str(tmp_path / "run"), "epochs": 3
    }  # fmt: skip
    check = SIDTrainer._check_finite

    def kill(self, loss, epoch, step):
        check(self, loss, epoch, step)
        if epoch == 2:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SIDTrainer, "_check_finite", kill)
        with pytest.raises(KilledError):
            recbole_sid.run("TIGER", "made", config_dict=settings)
    shutil.rmtree(tmp_path / "made")
    write_data(tmp_path, [(u, i, -t) for u, i, t in rows])
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match="on other interactions"):
        recbole_sid.run("TIGER", "made", config_dict=settings | {"resume": True})
    assert snapshot(tmp_path / "run") == before


def test_states_of_other_sids_and_foreign_files_are_refused(interrupted, cache, tmp_path):
    folder, settings = interrupted
    config = Config("TIGER", "ml-100k", config_dict=settings)
    _, loaders = read_data(config)
    model = SIDRecommender(config, loaders[0].dataset)
    assert read_state(folder / "training.pt", config, model)["next_epoch"] == 2
    codes = model.sids.base_codes[::-1].copy()
    other = SemanticIDs(model.sids.tokens, codes, model.sids.sizes[:-1], "none", {})
    with pytest.raises(InputError, match="on other items or other SIDs"):
        read_state(
            folder / "training.pt", config, SIDRecommender(config, loaders[0].dataset, other)
        )
    broken = tmp_path / "training.pt"
    broken.write_bytes((folder / "training.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="it is damaged"):
        read_state(broken, config, model)
    save_state(broken, {"epoch": 3})
    with pytest.raises(InputError, match="is not a training state"):
        read_state(broken, config, model)


def test_a_state_of_other_interactions_is_refused(tmp_path):
    rows = [(f"u{u}", f"i{(u + i) % 6}", i) for u in range(6) for i in range(6)]
    settings = uncut(write_data(tmp_path, rows)) | {"cache_dir": str(tmp_path)}
    config, loaders, model = build(tmp_path, "made", **settings, output=str(tmp_path / "run"))
    trainer = SIDTrainer(config, model)
    trainer.fit(loaders[0], None, verbose=False)
    trainer._save_state(1)
    swapped = [(u, i, -t) for u, i, t in rows]
    shutil.rmtree(tmp_path / "made")
    write_data(tmp_path, swapped)
    _, loaders = read_data(config)
    trainer.resume_checkpoint(trainer.state_file)
    with pytest.raises(InputError, match="on other interactions"):
        trainer.fit(loaders[0], None, verbose=False)
