import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import recbole_sid
from recbole_sid.checkpoint import save_state
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender, training_rows
from recbole_sid.quick_start import read_data
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.trainer import SIDTrainer, TrainingData, TrainingSettings, lr_factor, read_state
from recbole_sid.weights import load_weights, save_weights
from tests.runs import SMALL, snapshot, write_data
from tests.sealing import write_tensors

DAY = 86_400


def build(cache: str | Path, dataset: str = "ml-100k", **changes):
    base = SMALL if dataset == "ml-100k" else uncut({})
    config = Config("TIGER", dataset, config_dict={**base, "cache_dir": str(cache), **changes})
    _, loaders = read_data(config)
    torch.manual_seed(0)
    return config, loaders, SIDRecommender(config, loaders[0].dataset)


def uncut(settings: dict) -> dict:
    """The small settings for a data set of a few rows."""
    kept = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    return kept | {"topk": [2], "valid_metric": "NDCG@2"} | settings


def rows_as_triples(dataset, config) -> list[tuple]:
    columns = (array.tolist() for array in training_rows(dataset, config))
    window = config["MAX_ITEM_LIST_LENGTH"]
    return [
        (user, tuple(history[:length][-window:]), target)
        for user, history, length, target in zip(*columns, strict=True)
    ]


def trained_triples(data: TrainingData) -> list[tuple]:
    """What an epoch's batches train on."""
    found = []
    for batch in data.epoch(0):
        if data.packs:
            users, history, places, targets = batch
            for row, number in torch.nonzero(targets).tolist():
                items = tuple(history[row, : places[row, number] + 1].tolist())
                found.append((users[row].item(), items, targets[row, number].item()))
        else:
            for user, history, length, target in zip(*(b.tolist() for b in batch), strict=True):
                found.append((user, tuple(history[:length]), target))
    return found


# -- what is trained on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [{"training": "packed", "window_targets": None}, {"window_targets": 3}, {"training": "prefix"}],
)
def test_trained_triples_are_those_of_recboles_training_split(cache, training):
    changes = {"window_stride": 1, "MAX_ITEM_LIST_LENGTH": 8}
    config, loaders, model = build(cache, **changes, **training)
    data = TrainingData(loaders[0].dataset, config, model)
    expected = rows_as_triples(loaders[0].dataset, config)
    found = trained_triples(data)
    assert len(expected) > 1000
    assert max(len(history) for _, history, _ in expected) == 8
    assert Counter(found) == Counter(expected)
    assert sum(1 for _ in data.epoch(0)) == data.steps_per_epoch
    held_out = set()
    for loader in loaders[1:]:
        held_out |= set(rows_as_triples(loader.dataset, config))
    assert len(held_out) == 2 * len({user for user, _, _ in found})
    assert not held_out & set(found)


def test_a_wider_stride_trains_each_target_once_with_less_history(cache):
    config, loaders, model = build(cache, window_stride=5, MAX_ITEM_LIST_LENGTH=8)
    data = TrainingData(loaders[0].dataset, config, model)
    expected = rows_as_triples(loaders[0].dataset, config)
    found = trained_triples(data)
    assert Counter((u, t) for u, _, t in found) == Counter((u, t) for u, _, t in expected)
    assert Counter(found) != Counter(expected)


def test_batches_follow_seed_and_epoch_alone(cache):
    config, loaders, model = build(cache)
    data = TrainingData(loaders[0].dataset, config, model)
    torch.manual_seed(1)
    first = [batch[1].tolist() for batch in data.epoch(3)]
    torch.manual_seed(2)
    assert [batch[1].tolist() for batch in data.epoch(3)] == first
    assert [batch[1].tolist() for batch in data.epoch(4)] != first


def benchmark(folder: Path) -> dict:
    """Pre-augmented files: a chain of three rows, a row alone, histories beyond the window."""
    files = {
        "train": ["u\ta b\tc", "u\ta b c\td", "u\ta b c d\te", "v\tc a\tb"],
        "valid": ["u\ta b c d e\tf", "v\tc a b\td"],
        "test": ["u\ta b c d e f\tg", "v\tc a b d\te"],
    }
    (folder / "pre").mkdir()
    for name, lines in files.items():
        head = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (folder / "pre" / f"pre.{name}.inter").write_text("\n".join([head, *lines]) + "\n")
    (folder / "pre" / "pre.item").write_text(
        "\n".join(["item_id:token\ttitle:token", *(f"{item}\tThing {item}" for item in "abcdefg")])
    )
    return {
        "data_path": str(folder),
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "MAX_ITEM_LIST_LENGTH": 3,
        "window_stride": 1,
    }


def test_pre_augmented_files_are_trained_row_by_row(tmp_path):
    given = uncut(benchmark(tmp_path))
    config, loaders, model = build(tmp_path, "pre", **given)
    dataset = loaders[0].dataset
    found = trained_triples(TrainingData(dataset, config, model))
    items, users = dataset.field2id_token["item_id"], dataset.field2id_token["user_id"]
    named = sorted((users[u], "".join(items[list(h)]), items[t]) for u, h, t in found)
    assert named == [("u", "ab", "c"), ("u", "abc", "d"), ("u", "bcd", "e"), ("v", "ca", "b")]
    result = recbole_sid.run("TIGER", "pre", config_dict=given | {"output": str(tmp_path / "run")})
    assert result["test_result"]["generated@2"] == 1


def test_leave_one_out_keeps_the_order_of_the_file_within_a_day(tmp_path):
    """Unix seconds of whole days around 1.3e9, users interleaved, days out of order."""
    day = {n: 1_300_000_000 // DAY * DAY + n * DAY for n in range(4)}
    rows = [
        ("u", "d", day[2]), ("v", "a", day[0]), ("u", "b", day[1]), ("u", "a", day[0]),
        ("v", "c", day[3]), ("u", "c", day[1]), ("v", "b", day[3]), ("u", "f", day[2]),
        ("w", "a", day[0]), ("v", "d", day[3]), ("u", "e", day[2]), ("v", "e", day[3]),
    ]  # fmt: skip
    config, loaders, model = build(tmp_path, "made", **uncut(write_data(tmp_path, rows)))
    items = loaders[0].dataset.field2id_token["item_id"]
    users = loaders[0].dataset.field2id_token["user_id"]

    def named(triples):
        return sorted((users[u], "".join(items[list(h)]), items[t]) for u, h, t in triples)

    # In time, ties as in the file: u is a bc dfe, v is a cbde; w has one item and no sample.
    valid, test = (rows_as_triples(loader.dataset, config) for loader in loaders[1:])
    assert named(test) == [("u", "abcdf", "e"), ("v", "acbd", "e")]
    assert named(valid) == [("u", "abcd", "f"), ("v", "acb", "d")]
    found = trained_triples(TrainingData(loaders[0].dataset, config, model))
    assert named(found) == [
        ("u", "a", "b"), ("u", "ab", "c"), ("u", "abc", "d"), ("v", "a", "c"), ("v", "ac", "b"),
    ]  # fmt: skip


# -- learning rate and settings -------------------------------------------------------------------


def test_learning_rates_by_hand():
    def factors(schedule, steps):
        return [lr_factor(step, schedule, 4, 12) for step in steps]

    assert factors("constant", [0, 1, 3, 4, 11]) == [0.25, 0.5, 1, 1, 1]
    assert factors("inverse_sqrt", [0, 3, 4, 16, 64]) == [0.25, 1, 1, 0.5, 0.25]
    half = math.cos(math.pi / 4) / 2 + 0.5
    expected = [0.25, 1, 1, half, 0.5, 0, 0]
    assert factors("cosine", [0, 3, 4, 6, 8, 12, 20]) == pytest.approx(expected)
    assert lr_factor(0, "inverse_sqrt", 0, 5) == 1
    assert lr_factor(0, "cosine", 0, 5) == 1


SOUND = {
    "precision": "auto",
    "lr_schedule": "cosine",
    "warmup_steps": 0,
    "learner": "AdamW",
    "clip_grad_norm": None,
    "enable_amp": False,
    "enable_scaler": False,
    "shuffle": True,
    "transform": None,
    "train_neg_sample_args": {"distribution": "none"},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("warmup_steps", -1),
        ("learner", "lion"),
        ("clip_grad_norm", {"norm": 1}),
        ("enable_amp", True),
        ("enable_scaler", True),
        ("shuffle", False),
        ("transform", "mask_itemseq"),
        ("train_neg_sample_args", {"distribution": "uniform"}),
    ],
)
def test_what_the_trainer_would_not_do_is_refused(key, value):
    TrainingSettings(**SOUND)
    with pytest.raises(InputError, match=f"setting '{key}' is .*, but must be"):
        TrainingSettings(**SOUND | {key: value})


# -- going on -------------------------------------------------------------------------------------

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
    assert torch.load(folder / "training.pt", weights_only=True)["next_epoch"] == 2
    recbole_sid.run("TIGER", "ml-100k", config_dict=settings | {"resume": True})
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


# -- weights --------------------------------------------------------------------------------------


def test_weights_come_back(cache, tmp_path):
    _, _, model = build(cache)
    _, _, other = build(cache)
    torch.nn.init.normal_(other.generator.token_embedding.weight)
    save_weights(model, tmp_path / "w.safetensors", 3)
    load_weights(other, tmp_path / "w.safetensors")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_weights_that_do_not_belong_are_refused(cache, tmp_path):
    config, loaders, model = build(cache)
    file = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_weights(model, file)
    save_weights(model, file, 3)
    other = SIDRecommender(
        config,
        loaders[0].dataset,
        SemanticIDs(
            model.sids.tokens, model.sids.codes[::-1].copy(), model.sids.sizes, "dedup", {}
        ),
    )
    with pytest.raises(InputError, match="belongs to other items or other SIDs"):
        load_weights(other, file)
    _, _, narrow = build(cache, hidden_size=8)
    with pytest.raises(InputError, match="does not fit the model's settings"):
        load_weights(narrow, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        load_weights(model, file)
    write_tensors(file, {"a": np.zeros(2)})
    with pytest.raises(InputError, match="was not written by recbole_sid"):
        load_weights(model, file)


# -- training -------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_is_named(cache, tmp_path):
    config, loaders, model = build(cache, output=str(tmp_path / "run"))
    torch.nn.init.constant_(model.generator.heads[0].weight, math.nan)
    with pytest.raises(InputError, match=r"loss is nan in epoch 0, batch 0\. Lower learning_rate"):
        SIDTrainer(config, model).fit(loaders[0], None, verbose=False)


def test_training_lowers_the_loss_and_reports_the_mean_of_a_batch(cache, tmp_path):
    config, loaders, model = build(cache, output=str(tmp_path / "run"), epochs=8)
    trainer = SIDTrainer(config, model)
    trainer.fit(loaders[0], None, verbose=False, saved=False)
    losses = list(trainer.train_loss_dict.values())
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.1
    # A uniform guess over 8 codes three times and the digit: about the first epoch's loss.
    uniform = np.mean([math.log(size) for size in model.sids.sizes])
    assert losses[0] == pytest.approx(uniform, rel=0.35)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_an_empty_training_split_is_refused(tmp_path):
    rows = [(f"u{n}", f"i{n}", n) for n in range(4)]
    given = uncut(write_data(tmp_path, rows)) | {"output": str(tmp_path / "run")}
    with pytest.raises(InputError, match="cannot read or split the data"):
        recbole_sid.run("TIGER", "made", config_dict=given)
    assert not (tmp_path / "run").exists()


def test_without_validation_the_last_weights_are_tested(tmp_path, cache):
    settings = {**SMALL, "cache_dir": cache, "output": str(tmp_path / "run"), "eval_step": 0}
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    assert (result["best_valid_score"], result["best_valid_result"]) == (None, None)
    assert result["test_result"]["generated@10"] == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best_valid_score"] is None


def test_sequences_hold_only_what_is_trained(cache):
    config, loaders, model = build(cache)
    data = TrainingData(loaders[0].dataset, config, model)
    counts = Counter(user for user, _, _ in rows_as_triples(loaders[0].dataset, config))
    per_user = dict(
        zip(data.sequences.users.tolist(), np.diff(data.sequences.offsets).tolist(), strict=True)
    )
    assert per_user == {user: count + 1 for user, count in counts.items()}
