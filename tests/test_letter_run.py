"""LETTER and the tokenizer opq on ml-100k, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import recbole_sid
from recbole_sid import registry
from recbole_sid.errors import InputError
from recbole_sid.model import behaviour
from recbole_sid.quick_start import checked_config
from recbole_sid.sid.table import SemanticIDs
from tests.runs import SMALL
from tests.test_pair_models import vectors

LETTER = {
    "tokenizer": "letter",
    "tokenizer_codebook_size": 8,
    "tokenizer_epochs": 2,
    "tokenizer_hidden_sizes": [16],
    "tokenizer_latent_dim": 8,
    "tokenizer_diversity_clusters": 4,
    "behaviour_hidden_size": 8,
    "behaviour_epochs": 2,
}
OPQ = {"tokenizer": "opq", "tokenizer_codebook_size": 8, "tokenizer_levels": 6}


def test_letter_is_tiger_behind_its_own_tokenizer_with_a_temperature():
    spec = registry.model("LETTER")
    assert spec is not None
    assert (spec.tokenizer, spec.generator) == ("letter", "tiger")
    assert spec.defaults == {**registry.model("TIGER").defaults, "loss_temperature": 0.7}
    used = checked_config("LETTER", "ml-100k", config_dict={"load_col": SMALL["load_col"]})
    assert used["loss_temperature"] == 0.7
    # A generator that does not have it goes without.
    given = {"load_col": SMALL["load_col"], "generator": "intrr"}
    assert "loss_temperature" not in checked_config("LETTER", "ml-100k", config_dict=given)


def test_letter_runs_and_repeats_itself_from_the_cache(tmp_path: Path, cache, monkeypatch):
    given = {**SMALL, **LETTER, **vectors(tmp_path), "cache_dir": cache}

    def run(name: str, **changes) -> dict:
        output = {"output": str(tmp_path / name)}
        return recbole_sid.run("LETTER", "ml-100k", config_dict={**given, **changes, **output})

    first = run("a")
    assert first["test_result"]["generated@10"] == 1
    report = json.loads((tmp_path / "a/sids.json").read_text())["provenance"]["report"]
    assert {"alignment", "diversity"} <= report["history"][-1].keys()
    assert report["without_behaviour"] >= 0

    monkeypatch.setattr(behaviour, "train", None)
    # Other codes of the same behaviour vectors, and then the same codes.
    other = run("b", tokenizer_alignment_weight=5.0)
    assert (tmp_path / "b/sids.json").read_bytes() != (tmp_path / "a/sids.json").read_bytes()
    assert other["test_result"]["generated@10"] == 1
    again = run("c")
    assert (tmp_path / "c/sids.json").read_bytes() == (tmp_path / "a/sids.json").read_bytes()
    assert again["test_result"] == first["test_result"]


def test_tokenize_holds_items_out_of_the_behaviour_vectors_too(tmp_path: Path, cache, monkeypatch):
    seen = []
    train = behaviour.train

    def spy(settings, histories, n_items, **options):
        seen.append((histories, n_items))
        return train(settings, histories, n_items, **options)

    monkeypatch.setattr(behaviour, "train", spy)
    without = {key: value for key, value in SMALL.items() if key != "epochs"}
    given = {**without, **LETTER, **vectors(tmp_path), "cache_dir": str(tmp_path / "cache"),
             "held_out_share": 0.3, "retrieval": False}  # fmt: skip
    result = recbole_sid.tokenize(
        "LETTER", "ml-100k", config_dict={**given, "output": str(tmp_path / "run")}
    )
    sids = SemanticIDs.load(tmp_path / "run" / "sids.json")
    ((histories, n_items),) = seen
    assert n_items < 0.75 * sids.n_items
    assert histories.items.max() <= n_items
    assert result["tokenizer_report"]["without_behaviour"] >= 0


def test_opq_codes_are_written_by_a_generator(tmp_path: Path, cache):
    given = {**SMALL, **OPQ, **vectors(tmp_path), "cache_dir": cache}
    result = recbole_sid.run(
        "TIGER", "ml-100k", config_dict={**given, "output": str(tmp_path / "run")}
    )
    assert result["test_result"]["generated@10"] == 1
    sids = SemanticIDs.load(tmp_path / "run" / "sids.json")
    assert sids.n_base_levels == 6
    assert len(np.unique(sids.codes, axis=0)) == sids.n_items


def test_a_bad_setting_is_refused_before_anything_is_trained(tmp_path: Path, cache):
    given = {**SMALL, **LETTER, **vectors(tmp_path), "cache_dir": cache}
    with pytest.raises(InputError, match="behaviour_hidden_size"):
        recbole_sid.run("LETTER", "ml-100k", config_dict={**given, "behaviour_hidden_size": 9})
