"""Behaviour vectors: trained on the training split alone, cached by what they depend on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recbole_sid import settings
from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError
from recbole_sid.model import behaviour
from recbole_sid.model.behaviour import BehaviourSettings, Histories, behaviour_vectors, train
from recbole_sid.model.recommender import training_histories
from recbole_sid.quick_start import checked_config
from recbole_sid.reading import read_data
from recbole_sid.resources import resource_dir
from tests.runs import SMALL

CPU = torch.device("cpu")
YAML = resource_dir("properties") / "behaviour.yaml"
FEW = {"behaviour_hidden_size": 8, "behaviour_epochs": 1, "behaviour_batch_size": 256}


def configured(**changes: Any) -> BehaviourSettings:
    values = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    values |= {f"behaviour_{name}": value for name, value in changes.items()}
    return settings.build(BehaviourSettings, values, "behaviour_")


def config(cache: Path, **changes: Any):
    values = {**SMALL, **FEW, "cache_dir": str(cache), **changes}
    return checked_config(config_dict={**values, "model": "TIGER", "dataset": "ml-100k"})


def histories(*samples: tuple[list[int], int]) -> Histories:
    width = max(len(items) for items, _ in samples)
    return Histories(
        np.array([items + [0] * (width - len(items)) for items, _ in samples]),
        np.array([len(items) for items, _ in samples]),
        np.array([target for _, target in samples]),
    )


def walks(n: int = 300) -> Histories:
    """Users stay among the items 1 to 6 or among 7 to 12; nobody has 13."""
    rng = np.random.RandomState(0)
    side = 6 * rng.randint(2, size=n)
    items = 1 + side[:, None] + rng.randint(6, size=(n, 5))
    lengths = rng.randint(1, 5, size=n)
    held = np.arange(4) < lengths[:, None]
    return Histories(np.where(held, items[:, :4], 0), lengths, items[:, 4])


def trained(samples: Histories, seed: int = 0, **changes: Any) -> np.ndarray:
    options = {"hidden_size": 8, "epochs": 10, "batch_size": 64, "learning_rate": 0.02} | changes
    return train(configured(**options), samples, 13, seed=seed, device=CPU, progress=False)


def test_items_of_the_same_users_come_out_alike():
    vectors = trained(walks())
    assert vectors.shape == (13, 8)
    assert vectors.dtype == np.float32
    unit = vectors[:12] / np.linalg.norm(vectors[:12], axis=1, keepdims=True)
    cosine = unit @ unit.T
    side = np.arange(12) // 6
    same = side[:, None] == side
    assert cosine[same & ~np.eye(12, dtype=bool)].mean() > cosine[~same].mean() + 0.5


def test_an_item_without_training_interactions_gets_zeros():
    vectors = trained(walks(), epochs=1)
    assert vectors.any(axis=1).tolist() == [True] * 12 + [False]


def test_an_item_that_only_begins_histories_is_trained():
    vectors = trained(histories(([3], 1), ([3, 1], 2)), epochs=1)
    assert np.flatnonzero(vectors.any(axis=1)).tolist() == [0, 1, 2]


def test_same_vectors_for_a_seed_whatever_the_global_state():
    torch.manual_seed(1)
    first = trained(walks(), epochs=2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert np.array_equal(first, trained(walks(), epochs=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(first, trained(walks(), seed=1, epochs=2))


def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch, caplog):
    undisturbed = trained(walks(), epochs=4)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE", 0.0)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE_PER_SECOND_OF_WRITING", 0)
    options = {"hidden_size": 8, "epochs": 4, "batch_size": 64, "learning_rate": 0.02}
    given: dict[str, Any] = {"seed": 0, "device": CPU, "progress": False}
    checkpoint = Checkpoint(tmp_path / "vectors.safetensors")
    save, calls = checkpoint.save_when_due, []

    def die_after_the_second(state) -> None:
        save(state)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_when_due", die_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(configured(**options), walks(), 13, **given, checkpoint=checkpoint)
    again = Checkpoint(tmp_path / "vectors.safetensors")
    with caplog.at_level(logging.INFO, "recbole_sid"):
        resumed = train(configured(**options), walks(), 13, **given, checkpoint=again)
    assert np.array_equal(resumed, undisturbed)
    assert any("resuming after epoch 2" in record.getMessage() for record in caplog.records)
    # Killed once more, after the last epoch.
    finished = train(configured(**options), walks(), 13, **given, checkpoint=again)
    assert np.array_equal(finished, undisturbed)


def test_a_loss_that_explodes_is_refused_with_remedy():
    with pytest.raises(InputError, match="lower behaviour_learning_rate"):
        trained(walks(), learning_rate=1e30)


def test_among_leaves_out_items_by_hand():
    samples = histories(([1, 2, 3], 4), ([2], 1), ([4, 2, 4], 3), ([1], 3), ([3, 2, 1, 4], 2))
    found = samples.among(np.array([3, 0, 2]), 4)  # items 4, 1 and 3 become 1, 2 and 3
    assert found.items.tolist() == [[2, 3, 0, 0], [1, 1, 0, 0], [2, 0, 0, 0]]
    assert found.lengths.tolist() == [2, 2, 1]
    assert found.targets.tolist() == [1, 3, 3]


def test_samples_are_those_of_the_training_split_alone(tmp_path):
    made = config(tmp_path)
    _, (train_data, valid, test) = read_data(made)
    found = training_histories(train_data.dataset, made)
    assert len(found.targets) == len(train_data.dataset)

    def samples(histories: Histories) -> set[tuple[int, ...]]:
        lists = zip(*(array.tolist() for array in histories), strict=True)
        return {(*row[:length], target) for row, length, target in lists}

    # Histories with their targets, whoever's they are.
    whole = samples(found)
    for split in (valid, test):
        held_out = samples(training_histories(split.dataset, made))
        assert held_out
        assert not held_out & whole


def test_the_held_out_items_of_users_change_nothing(tmp_path, monkeypatch):
    """What comes out follows from the samples that were handed over, and from nothing else."""
    made = config(tmp_path)
    data, (train_data, _, _) = read_data(made)
    tokens = tuple(data.field2id_token["item_id"][1:].tolist())
    samples = training_histories(train_data.dataset, made)
    first = behaviour_vectors(made, tokens, samples)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(behaviour, "train", refuse)
    # Items numbered in another way, samples in another order: the same file of the cache.
    order = np.random.RandomState(0).permutation(len(tokens))
    rows = np.random.RandomState(1).permutation(len(samples.targets))
    renamed = samples.among(order, len(tokens))
    mixed = Histories(*(array[rows] for array in renamed))
    again = behaviour_vectors(made, tuple(tokens[row] for row in order), mixed)
    assert np.array_equal(again, first[order])
    assert len(list((tmp_path / "behaviour").glob("*.safetensors"))) == 1

    fewer = Histories(*(array[1:] for array in samples))
    for changed, kept in (
        (config(tmp_path, behaviour_dropout=0.1), samples),
        (config(tmp_path, seed=1), samples),
        (made, fewer),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            behaviour_vectors(changed, tokens, kept)


def test_items_without_interactions_are_counted(tmp_path, caplog):
    made = config(tmp_path)
    samples = histories(([1], 2), ([2], 1))
    with caplog.at_level(logging.INFO, "recbole_sid"):
        vectors = behaviour_vectors(made, ("b", "a", "c"), samples)
    assert vectors.any(axis=1).tolist() == [True, True, False]
    assert any(
        "1 of 3 items have no training interaction" in r.getMessage() for r in caplog.records
    )


def test_no_sample_is_refused(tmp_path):
    none = Histories(np.zeros((0, 5), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    with pytest.raises(InputError, match="need training samples"):
        behaviour_vectors(config(tmp_path), ("a",), none)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", 7),
        ("layers", 0),
        ("heads", 0),
        ("dropout", 1.0),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
    ],
)
def test_bounds_are_checked_before_anything_is_read(name, value, tmp_path):
    with pytest.raises(InputError, match=f"behaviour_{name}"):
        config(tmp_path, **{f"behaviour_{name}": value})


def test_the_yaml_file_holds_each_setting_once():
    text = YAML.read_text(encoding="utf-8")
    assert sorted(yaml.safe_load(text)) == sorted(settings.keys(BehaviourSettings, "behaviour_"))
    assert all(line.startswith("# ") or "# (" in line for line in text.splitlines())
    assert configured().hidden_size == 32
