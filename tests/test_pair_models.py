"""Models whose tokenizer learns from pairs of items or reads the items themselves, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import recbole_sid
from recbole_sid.model.dataset import training_interactions
from recbole_sid.quick_start import checked_config
from recbole_sid.reading import read_data
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer import pipeline
from tests.runs import SMALL, snapshot
from tests.tokenizer.tiny_models import tiny

QUASID = {
    "tokenizer": "quasid",
    "tokenizer_codebook_size": 8,
    "tokenizer_epochs": 2,
    "tokenizer_hidden_sizes": [16],
    "tokenizer_latent_dim": 8,
}
UNISID = {
    "tokenizer": "unisid",
    "tokenizer_codebook_size": 8,
    "tokenizer_epochs": 1,
    "tokenizer_batch_size": 400,
    "tokenizer_embedding_dim": 6,
    "tokenizer_precision": "float32",
    "schema_max_length": 20,
}


def vectors(folder: Path) -> dict[str, str]:
    values = np.random.default_rng(0).normal(size=(1682, 12)).astype(np.float32)
    np.save(folder / "v.npy", values)
    (folder / "ids.txt").write_text("".join(f"{item}\n" for item in range(1, 1683)))
    return {
        "item_embedding_file": str(folder / "v.npy"),
        "item_embedding_ids": str(folder / "ids.txt"),
    }


def test_pairs_see_the_training_split_alone(tmp_path):
    config = checked_config(config_dict={**SMALL, "model": "TIGER", "dataset": "ml-100k"})
    _, (train, valid, test) = read_data(config)
    found = training_interactions(train.dataset, config)
    pairs = set(zip(found.users.tolist(), (found.items + 1).tolist(), strict=True))
    rows = train.dataset[torch.arange(len(train.dataset))]
    users, targets = rows["user_id"].numpy(), rows["item_id"].numpy()
    first = {user: items[0] for user, items in zip(
        users.tolist(), rows["item_id_list"].numpy().tolist(), strict=True)}  # fmt: skip
    expected = set(zip(users.tolist(), targets.tolist(), strict=True))
    held_out = [
        (row["user_id"].numpy(), row["item_id"].numpy())
        for row in (valid.dataset.inter_feat, test.dataset.inter_feat)
    ]
    assert expected <= pairs
    assert {(user, first[user]) for user in first} <= pairs
    for held_users, held_items in held_out:
        # ml-100k has no repeated item of a user: what is held out was never in training.
        assert not pairs & set(zip(held_users.tolist(), held_items.tolist(), strict=True))


def test_quasid_runs_and_repeats_itself_from_the_cache(tmp_path, cache):
    given = {**SMALL, **QUASID, **vectors(tmp_path), "cache_dir": cache}
    first = recbole_sid.run(
        "QuaSID", "ml-100k", config_dict={**given, "output": str(tmp_path / "a")}
    )
    again = recbole_sid.run(
        "QuaSID", "ml-100k", config_dict={**given, "output": str(tmp_path / "b")}
    )
    assert (tmp_path / "a/sids.json").read_bytes() == (tmp_path / "b/sids.json").read_bytes()
    assert first["test_result"] == again["test_result"]
    assert first["test_result"]["generated@10"] == 1
    assert first["test_result"]["credited_recall@10"] <= first["test_result"]["sid_recall@10"]
    report = json.loads((tmp_path / "a/sids.json").read_text())["provenance"]["report"]
    assert report["history"][-1]["pairs_full"] >= 0
    assert report["largest_groups"][0]["size"] >= 2


@pytest.mark.parametrize("rule", ["reassign_last", "nearest_free"])
def test_rules_that_move_items_leave_no_sid_shared(rule, tmp_path, cache):
    given = {**SMALL, **QUASID, **vectors(tmp_path), "cache_dir": cache, "collision": rule}
    result = recbole_sid.run(
        "QuaSID", "ml-100k", config_dict={**given, "output": str(tmp_path / "a")}
    )
    sids = SemanticIDs.load(tmp_path / "a" / "sids.json")
    assert sids.n_levels == 3
    assert len(np.unique(sids.codes, axis=0)) == sids.n_items
    assert result["sid"]["sid/collision_rate"] == 0


def test_unisid_runs_and_leaves_its_vectors(tmp_path, cache, monkeypatch):
    own = {"tokenizer_backbone": tiny("bert", tmp_path), **UNISID, **vectors(tmp_path)}
    given = {**SMALL, **own, "cache_dir": cache}
    run = tmp_path / "run"
    result = recbole_sid.run("UniSID", "ml-100k", config_dict={**given, "output": str(run)})
    assert result["test_result"]["generated@10"] == 1
    file = run / "item_embeddings.safetensors"
    stored = load_file(file)
    sids = SemanticIDs.load(run / "sids.json")
    assert stored["vectors"].shape == (sids.n_items, 6)
    before = snapshot(run)
    loaded = recbole_sid.load(run)
    assert loaded.model.sids.fingerprint() == sids.fingerprint()
    assert snapshot(run) == before

    # Another generator setting finds codes and vectors in the cache.
    monkeypatch.setattr(pipeline.Tokenizer, "fit", None)
    other = {**given, "output": str(tmp_path / "other"), "dropout": 0.3}
    recbole_sid.run("UniSID", "ml-100k", config_dict=other)
    assert (tmp_path / "other" / file.name).read_bytes() == file.read_bytes()
    monkeypatch.undo()

    # And another tokenizer reads the vectors.
    reader = {**SMALL, "item_embedding_file": str(file), "tokenizer": "rqkmeans",
              "tokenizer_codebook_size": 8, "cache_dir": cache}  # fmt: skip
    recbole_sid.run("TIGER", "ml-100k", config_dict={**reader, "output": str(tmp_path / "third")})
