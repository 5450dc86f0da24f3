"""Runs and exports are opened without their data set, and damaged ones are refused."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import recbole_sid
from recbole_sid import registry
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.recommender import Recommender
from tests.sealing import write_json, write_yaml
from tests.serving.conftest import WINDOW, K


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return Path(shutil.copytree(made.export, tmp_path / "copy"))


def equal(first, second) -> bool:
    """To the last bit."""
    return first[0] == second[0] and first[1].tobytes() == second[1].tobytes()


@pytest.mark.parametrize("exclude", [False, True])
def test_run_export_and_single_requests_give_the_lists_of_evaluation(made, exclude):
    for folder in (made.run, made.export):
        found = recbole_sid.recommend(
            folder, made.histories, K, exclude_history=exclude, batch_size=1
        )
        recommender = Recommender.load(folder)
        for user, items, scores in found:
            assert equal((items, scores), made.lists[exclude][user])
            single = recommender.recommend(made.histories[user], K, user, exclude)
            assert equal(single, made.lists[exclude][user])
            assert single.unknown == []
    together = recbole_sid.recommend(made.export, made.histories, K, exclude_history=exclude)
    many = recommender.recommend_many(
        list(made.histories.values()), K, list(made.histories), exclude
    )
    for (_, items, scores), answer in zip(together, many, strict=True):
        assert equal((items, scores), answer)


def test_an_export_holds_the_run(made):
    run, exported = open_bundle(made.run), open_bundle(made.export)
    assert exported.sids.tokens == run.sids.tokens
    assert exported.sids.fingerprint() == run.sids.fingerprint()
    assert (exported.window, exported.beam_size, exported.exclude_history) == (WINDOW, 10, False)
    weights = run.generator.state_dict()
    assert weights.keys() == exported.generator.state_dict().keys()
    for name, tensor in exported.generator.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert not exported.generator.training
    assert not any(weight.requires_grad for weight in exported.generator.parameters())
    if (made.run / "item_vectors.safetensors").is_file():
        assert np.array_equal(exported.vectors, run.vectors)
    assert (exported.vectors is None) == (exported.settings["generator"] == "tiger")
    assert {path.suffix for path in made.export.iterdir()} == {".json", ".safetensors"}


def test_users_are_told_apart_by_the_hash_of_their_names(made):
    bundle = open_bundle(made.export)
    if bundle.settings["generator"] == "tiger":
        # crc32 of u0, u1 and [PAD], modulo 3, worked out elsewhere.
        assert bundle.users(["u0", "u1", None, "[PAD]"]).tolist() == [
            893956064 % 3, 1112514422 % 3, 2994423514 % 3, 2994423514 % 3
        ]  # fmt: skip
    else:
        assert bundle.users(["u0", None]).tolist() == [0, 0]


FILES = ("export.json", "model.safetensors", "sids.safetensors")


@pytest.mark.parametrize("name", [*FILES, "item_vectors.safetensors"])
def test_damage_to_any_file_is_refused(copied, name):
    path = copied / name
    if not path.is_file():
        pytest.skip("only generators that read vectors have them")
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 3):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match=name):
            open_bundle(copied)
    path.write_bytes(whole[:-1])
    if name != "export.json":  # whose last byte is the end of the line
        with pytest.raises(InputError, match=f"{name}' is damaged: its sha256 is .* Copy it again"):
            open_bundle(copied)
    path.unlink()
    with pytest.raises(InputError, match=r"has no config.yaml" if name == FILES[0] else name):
        open_bundle(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has format version 2, but this release reads 1"),
        ({"format": "other"}, "is not the head of an export"),
        ({"settings": []}, "was edited"),
        ({"files": {"../run/config.yaml": "0"}}, "was edited"),
    ],
)
def test_another_head_is_refused(copied, change, message):
    path = copied / "export.json"
    edited = json.loads(path.read_text()) | change
    path.write_text(json.dumps(edited))
    with pytest.raises(InputError, match="is damaged or was edited: it does not fit its checksum"):
        open_bundle(copied)
    write_json(path, edited)
    with pytest.raises(InputError, match=message):
        open_bundle(copied)


def test_a_file_that_the_head_does_not_name_is_refused(copied):
    (copied / "items.json").write_text("{}")
    with pytest.raises(InputError, match=r"items.json' does not belong to the export"):
        open_bundle(copied)


def test_what_is_no_run_of_ours_is_refused(made, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"'nowhere' has no config.yaml"):
        open_bundle("nowhere")
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    for generator, message in (
        (None, "has no generator to recommend"),
        ("tigre", "Did you mean 'tiger'"),
    ):
        write_yaml(run / "config.yaml", config | {"generator": generator})
        with pytest.raises(InputError, match=message):
            open_bundle(run)

    class Own(SIDRecommender):
        def rank_histories(self, *args):
            return super().rank_histories(*args)

    spec = registry.model(config["model"])
    monkeypatch.setattr(registry, "model", lambda name: replace(spec, recommender=Own))
    with pytest.raises(InputError, match="ranks by a rank_histories of its own"):
        open_bundle(made.run)


def test_an_older_run_gets_the_defaults_of_settings_that_are_new(made, tmp_path):
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["exclude_history"], config["window_stride"]
    write_yaml(run / "config.yaml", config)
    bundle = open_bundle(run)
    assert bundle.exclude_history is False
    assert bundle.settings["window_stride"] >= 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("title", 5),
        ("allowed", [1] * 40),
        ("allowed", ["no"] * 40),
        ("available_from", ["soon"] * 40),
        ("available_until", [True] * 40),
    ],
)
def test_columns_of_other_values_are_refused(copied, name, values):
    write_json(copied / "items.json", {name: values})
    head = json.loads((copied / "export.json").read_text())
    head["files"]["items.json"] = sha256((copied / "items.json").read_bytes()).hexdigest()
    write_json(copied / "export.json", head)
    with pytest.raises(InputError, match=rf"items.json' holds wrong values of '{name}'"):
        open_bundle(copied)


@pytest.mark.parametrize("window", [None, 0, -1, 2.5, "20", True, [20]])
def test_a_window_that_is_no_number_is_refused(copied, window):
    head = json.loads((copied / "export.json").read_text())
    head["settings"]["MAX_ITEM_LIST_LENGTH"] = window
    write_json(copied / "export.json", head)
    with pytest.raises(InputError, match=r"'MAX_ITEM_LIST_LENGTH' is .* at least 1"):
        open_bundle(copied)
