"""MMQv2 on ml-100k, end to end, by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import recbole_sid
from recbole_sid.model import behaviour
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.mmq import MMQ
from tests.runs import SMALL
from tests.test_pair_models import vectors

MMQ_SMALL = {
    **{key: value for key, value in SMALL.items() if key != "tokenizer"},  # the model's own one
    "tokenizer_codebook_size": 8,
    "tokenizer_epochs": 2,
    "tokenizer_hidden_sizes": [16],
    "tokenizer_shared_dim": 8,
    "tokenizer_latent_dim": 8,
    "behaviour_hidden_size": 8,
    "behaviour_epochs": 2,
}


def image_vectors(folder: Path) -> dict[str, str]:
    """Of the first 1,000 items, two each."""
    rng = np.random.default_rng(1)
    np.save(folder / "images.npy", rng.normal(size=(1000, 2, 4)).astype(np.float32))
    (folder / "images.txt").write_text("".join(f"{item}\n" for item in range(1, 1001)))
    return {
        "item_image_file": str(folder / "images.npy"),
        "item_image_ids": str(folder / "images.txt"),
    }


def test_mmq_runs_and_repeats_itself_from_the_cache(tmp_path: Path, cache, monkeypatch):
    given = {**MMQ_SMALL, **vectors(tmp_path), "cache_dir": cache}

    def run(name: str, **changes) -> dict:
        output = {"output": str(tmp_path / name)}
        return recbole_sid.run("MMQv2", "ml-100k", config_dict={**given, **changes, **output})

    first = run("a")
    assert first["test_result"]["generated@10"] == 1
    sids = SemanticIDs.load(tmp_path / "a" / "sids.json")
    assert sids.n_base_levels == 4
    report = json.loads((tmp_path / "a/sids.json").read_text())["provenance"]["report"]
    assert report["levels"] == ["shared", "text", "behaviour", "behaviour"]
    last = report["history"][-1]
    assert {"alignment", "sparsity", "perplexity"} <= last.keys()
    assert 0.59 < last["strength_above_half"] < 0.61  # of the items with behaviour
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["model"] == "MMQv2"

    monkeypatch.setattr(behaviour, "train", None)
    # Other codes of the same behaviour vectors, with images; and then the same codes again.
    images = run("b", **image_vectors(tmp_path))
    assert images["test_result"]["generated@10"] == 1
    assert SemanticIDs.load(tmp_path / "b" / "sids.json").n_base_levels == 5
    monkeypatch.setattr(MMQ, "fit", None)
    again = run("c")
    assert (tmp_path / "c/sids.json").read_bytes() == (tmp_path / "a/sids.json").read_bytes()
    assert again["test_result"] == first["test_result"]


def test_tokenize_gives_codes_to_items_held_out_of_the_fit(tmp_path: Path, monkeypatch):
    fitted, assigned = [], []
    fit, assign = MMQ.fit, MMQ.assign
    monkeypatch.setattr(MMQ, "fit", lambda self, items: fitted.append(items) or fit(self, items))
    monkeypatch.setattr(
        MMQ, "assign", lambda self, items, w: assigned.append(items) or assign(self, items, w)
    )
    without = {key: value for key, value in MMQ_SMALL.items() if key != "epochs"}
    given = {**without, **vectors(tmp_path), **image_vectors(tmp_path),
             "cache_dir": str(tmp_path / "cache"), "held_out_share": 0.3,
             "retrieval": False}  # fmt: skip
    result = recbole_sid.tokenize(
        "MMQv2", "ml-100k", config_dict={**given, "output": str(tmp_path / "run")}
    )
    sids = SemanticIDs.load(tmp_path / "run" / "sids.json")
    assert sids.n_base_levels == 5
    assert 0 < result["tokenizer_report"]["without"]["image"] < sids.n_items
    assert len(np.unique(sids.base_codes[:, 1])) > 1
    # The items of the fit keep their behaviour when codes are assigned; the others have none.
    kept = dict(zip(fitted[0].tokens, fitted[0].behaviour, strict=True))
    assert np.any(fitted[0].behaviour)
    for token, row in zip(assigned[0].tokens, assigned[0].behaviour, strict=True):
        np.testing.assert_array_equal(row, kept.get(token, np.zeros_like(row)))
