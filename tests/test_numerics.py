"""NaN, infinity, collapsed codes and too little memory: where it stops, what is said and kept."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR
from torch import nn

import recbole_sid
from recbole_sid import InputError, checkpoint, cli, inference
from recbole_sid.checkpoint import Checkpoint
from recbole_sid.generator.tiger import Tiger
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.out_of_memory import OutOfMemory, is_out_of_memory, memory_for
from recbole_sid.tokenizer.finite import FiniteWatch
from recbole_sid.tokenizer.mmq import MMQ
from recbole_sid.tokenizer.rqkmeans import RQKMeans
from recbole_sid.tokenizer.rqvae import RQVAE
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_data import TrainingData
from tests.runs import SMALL, write_data
from tests.tokenizer import mmq_items, test_rqvae

CPU = torch.device("cpu")
ROWS = [(f"u{u}", f"i{(u * 7 + n * n) % 30}", n) for u in range(20) for n in range(6 + u % 3)]


@pytest.fixture
def made(tmp_path, cache) -> dict:
    given = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    return given | {"epochs": 4, "cache_dir": cache, **write_data(tmp_path / "data", ROWS)}


def run(folder: Path, made: dict, **changes) -> dict:
    return recbole_sid.run("TIGER", "made", config_dict={**made, "output": str(folder), **changes})


# -- stage 2 --------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_batch_and_the_state_to_go_on_from(
    made, tmp_path, monkeypatch
):
    whole = run(tmp_path / "whole", made)
    check = SIDTrainer._check_finite

    def spoiled(self, loss, epoch, step):
        check(self, loss * math.nan if (epoch, step) == (2, 0) else loss, epoch, step)

    folder = tmp_path / "run"
    monkeypatch.setattr(SIDTrainer, "_check_finite", spoiled)
    with pytest.raises(InputError) as caught:
        run(folder, made)
    said = str(caught.value)
    assert said.startswith("stage 2, training of TIGER: the loss is nan in epoch 2, batch 0. Lower")
    assert f"of the start of epoch 2, is '{folder / 'training.pt'}': --resume goes on" in said
    monkeypatch.undo()
    assert run(folder, made, resume=True)["test_result"] == whole["test_result"]
    for name in ("result.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_first_batch_that_is_infinite_has_no_state_to_name(made, tmp_path, monkeypatch):
    def infinite(self, *batch):
        return sum(p.sum() for p in self.parameters()) * math.inf

    monkeypatch.setattr(Tiger, "packed_loss", infinite)
    with pytest.raises(InputError, match=r"in epoch 0, batch 0.*No state was saved yet$"):
        run(tmp_path / "run", made)


def test_weights_that_the_last_step_spoiled_are_not_saved(made, tmp_path, monkeypatch):
    """The loss of every batch is a number, and so the next epoch would have begun."""
    trainers: list[SIDTrainer] = []
    train, batches = SIDTrainer._train_epoch, TrainingData.epoch

    def noted(self, *args, **kwargs):
        trainers.append(self)
        return train(self, *args, **kwargs)

    def spoiling(self, epoch):
        yield from batches(self, epoch)
        if epoch == 1:
            next(trainers[-1].model.parameters()).data[0] = math.nan

    monkeypatch.setattr(SIDTrainer, "_train_epoch", noted)
    monkeypatch.setattr(TrainingData, "epoch", spoiling)
    with pytest.raises(InputError, match=r"weights are NaN or infinite after epoch 1.*epoch 1, is"):
        run(tmp_path / "run", made)
    state = torch.load(tmp_path / "run" / "training.pt", weights_only=True)
    assert state["next_epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_model_of_recbole_says_what_to_do(made, tmp_path, monkeypatch):
    def broken(self, interaction):
        return sum(p.sum() for p in self.parameters()) * math.nan

    monkeypatch.setattr(BPR, "calculate_loss", broken)
    keys = ("epochs", "cache_dir", "load_col", "data_path", "show_progress")
    own = {key: made[key] for key in keys} | {"output": str(tmp_path / "run")}
    with pytest.raises(InputError, match=r"training of BPR: the loss is nan\. Lower .*saved yet$"):
        recbole_sid.run("BPR", "made", config_dict=own)


# -- stage 1 --------------------------------------------------------------------------------------


def rqvae():
    return test_rqvae.tokenizer(epochs=5), test_rqvae.mixture(200)[0]  # 4 batches an epoch


def mmq():
    settings = mmq_items.configured(epochs=5, batch_size=30)
    tokenizer = MMQ(settings, seed=0, device=CPU, progress=False)
    return tokenizer, mmq_items.catalogue()  # 4 batches an epoch


@pytest.mark.parametrize("make", [rqvae, mmq])
@pytest.mark.parametrize("term", [math.nan, math.inf])
def test_a_tokenizer_names_epoch_batch_and_state_and_goes_on(make, term, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(checkpoint, "PAUSE_PER_SECOND_OF_WRITING", 0)
    tokenizer, items = make()
    whole = tokenizer.fit(items)
    cls, calls = type(tokenizer), []
    losses = cls.losses

    def spoiled(self, *args):
        calls.append(1)
        terms = losses(self, *args)
        return terms | {"spoiled": torch.tensor(term if len(calls) == 10 else 0.0)}

    monkeypatch.setattr(cls, "losses", spoiled)
    tokenizer, _ = make()
    tokenizer.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    with pytest.raises(InputError) as caught:
        tokenizer.fit(items)
    said = str(caught.value)
    assert said.startswith(f"stage 1, tokenizer {cls.name}: the loss is {term} in epoch 3, batch 2")
    assert f"The last good state is '{tmp_path / 'codes.training.pt'}': the same command" in said
    assert f"Lower tokenizer_learning_rate ({tokenizer.settings.learning_rate})" in said
    monkeypatch.setattr(cls, "losses", losses)
    tokenizer, _ = make()
    tokenizer.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    assert np.array_equal(tokenizer.fit(items).codes, whole.codes)


def test_without_a_cpu_no_step_waits_and_the_end_of_the_epoch_tells_the_first_bad_batch():
    watch = FiniteWatch("rqvae", "Lower it", None, CPU)
    watch.at_once = False
    good = nn.Linear(2, 2)
    for epoch in (1, 2):
        watch.begin_epoch(epoch)
        for batch in range(1, 5):
            bad = epoch == 2 and batch in (2, 4)
            watch.see(torch.tensor(math.nan if bad else 1.0))
        if epoch == 1:
            watch.end_epoch(good)
    with pytest.raises(InputError, match=r"not finite in epoch 2, batch 2\. Lower it\. No state"):
        watch.end_epoch(good)
    watch.begin_epoch(3)
    good.weight.data[1, 1] = -math.inf
    with pytest.raises(InputError, match="weights are NaN or infinite after epoch 3"):
        watch.end_epoch(good)


# -- codes that have collapsed --------------------------------------------------------------------


@pytest.fixture
def alike(made, tmp_path) -> dict:
    """Items of one vector: all of them get the same codes."""
    np.save(tmp_path / "v.npy", np.ones((30, 4), np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"i{n}\n" for n in range(30)))
    return made | {
        "tokenizer": "rqkmeans",
        "tokenizer_levels": 2,
        "tokenizer_codebook_size": 20,
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "cache_dir": str(tmp_path / "cache"),
        "epochs": 1,
    }


def test_collapsed_codes_are_a_loud_warning_and_under_strict_an_end(alike, tmp_path, caplog):
    with pytest.raises(InputError, match=r"strict: tokenizer rqkmeans: LEVEL 1 HAS COLLAPSED") as e:
        run(tmp_path / "run", alike, strict=True)
    assert "below the bound 2.0 (tokenizer_collapse_below = 0.1)" in str(e.value)
    assert "Remedy: " in str(e.value)
    assert not (tmp_path / "run" / "config.yaml").exists()
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        plain = run(tmp_path / "run", alike | {"cache_dir": str(tmp_path / "other")})
    assert "LEVEL 1 HAS COLLAPSED" in caplog.text
    # Strict now finds the codes in the cache, and the settings are those of the same run.
    with pytest.raises(InputError, match="strict"):
        run(tmp_path / "new", alike, strict=True)
    assert run(tmp_path / "run", alike, strict=True)["settings_hash"] == plain["settings_hash"]
    assert run(tmp_path / "sound", made_sound(alike, tmp_path), strict=True)["test_result"]


def made_sound(alike: dict, folder: Path) -> dict:
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
    return alike


# -- memory ---------------------------------------------------------------------------------------


def too_much(*_args, **_kwargs):
    torch.empty(2**50)  # 4 PiB: no allocator has them


def too_much_numpy(*_args, **_kwargs):
    np.empty(2**55)


@pytest.mark.parametrize(
    ("cls", "name", "fails", "said"),
    [
        (Tiger, "packed_loss", too_much, r"^stage 2, training: out of .*Lower train_batch_size \("),
        (
            SIDRecommender,
            "rank",
            too_much,
            r"^stage 2, evaluation: .*Lower eval_batch_size \(256\)",
        ),
        (RQKMeans, "fit_sorted", too_much_numpy, r"^stage 1, tokenizer rqkmeans: out of memory \("),
    ],
)
def test_too_little_memory_says_what_to_lower(cls, name, fails, said, made, tmp_path, monkeypatch):
    np.save(tmp_path / "v.npy", np.ones((30, 4), np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"i{n}\n" for n in range(30)))
    own = {"item_embedding_file": str(tmp_path / "v.npy")}
    own |= {"item_embedding_ids": str(tmp_path / "ids.txt"), "tokenizer": "rqkmeans"}
    monkeypatch.setattr(cls, name, fails)
    with pytest.raises(OutOfMemory, match=said) as caught:
        run(tmp_path / "run", made | own | {"cache_dir": str(tmp_path / "cache")})
    assert str(caught.value).endswith("nothing was lowered by itself")
    assert "\n" not in str(caught.value)


def test_a_command_without_memory_ends_with_one_line(trained, tmp_path, monkeypatch, capsys):
    run_folder = shutil.copytree(trained[0]["run_folder"], tmp_path / "run")
    (tmp_path / "h.tsv").write_text("a\t1 50\n")
    monkeypatch.setattr(inference, "recommend", too_much)
    files = [f"--histories={tmp_path / 'h.tsv'}", f"--output={tmp_path / 'o.tsv'}"]
    assert cli.main(["recommend", f"--run={run_folder}", *files]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[-1].startswith("error: recommend: out of memory (")
    assert shown[-1].endswith("Lower batch_size or beam_size; nothing was lowered by itself")


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), memory_for("x", (), {}):
        raise RuntimeError("shapes differ")
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[alloc.cpp] not enough memory: you tried to allocate 8"))
    few = memory_for("s", ("a", "b", "c"), {"a": 3, "b": None})
    with pytest.raises(OutOfMemory, match=r"^s: out of memory\. Lower a \(3\); nothing"), few:
        raise MemoryError


def test_rqvae_weights_at_the_end_are_looked_at(monkeypatch):
    """A gradient without a number behind a finite loss: the last step of an epoch."""
    step = torch.optim.AdamW.step
    count = []

    def spoil(self, *args, **kwargs):
        count.append(1)
        done = step(self, *args, **kwargs)
        if len(count) == 8:
            self.param_groups[0]["params"][0].data[0] = math.nan
        return done

    tokenizer, items = rqvae()
    assert isinstance(tokenizer, RQVAE)
    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(InputError, match="weights are NaN or infinite after epoch 2, batch 4"):
        tokenizer.fit(items)
