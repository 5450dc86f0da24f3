"""Duet from the command to item ids, on ml-100k cut small."""

import pytest
import torch

import recbole_sid
from recbole_sid.run_folder import WEIGHTS
from recbole_sid.stored_run import open_run
from tests.runs import CUT

DUET = {
    **CUT,
    "tokenizer": "random",
    "tokenizer_codebook_size": 8,
    "hidden_size": 16,
    "inner_size": 16,
    "n_heads": 2,
    "head_size": 8,
    "layers": 1,
    "codebook_inner_size": 16,
    "beam_size": 10,
    "epochs": 2,
    "eval_step": 1,
    "warmup_steps": 5,
    "precision": "float32",
}


def test_a_run_and_its_use(tmp_path, cache):
    settings = {**DUET, "cache_dir": cache, "output": str(tmp_path / "run")}
    result = recbole_sid.run("Duet", "ml-100k", config_dict=settings)
    assert result["best_valid_score"] > 0
    assert result["test_result"]["generated@10"] == 1
    found = {
        name: recbole_sid.evaluate(tmp_path / "run", show_progress=False, **changes)["test_result"]
        for name, changes in {
            "again": {},
            "exact": {"decoding": "exact"},
            "wide": {"beam_size": 3000},
            "codes": {"items_share": 0.0},
            "items": {"items_share": 1.0},
        }.items()
    }
    assert found["again"] == result["test_result"]
    assert found["wide"] == found["exact"]
    assert found["codes"] != found["items"]
    history = recbole_sid.load(tmp_path / "run").model.sids.tokens[:2]
    (lists,) = recbole_sid.recommend(tmp_path / "run", [history], k=3, show_progress=False)
    assert len(set(lists.items)) == 3
    assert sorted(lists.scores, reverse=True) == list(lists.scores)


def test_hits_are_those_of_the_item_itself_where_items_share_a_sid(tmp_path, cache):
    settings = DUET | {
        "collision": "none",
        "decoding": "exact",
        "tokenizer_codebook_size": 2,
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
    }
    result = recbole_sid.run("Duet", "ml-100k", config_dict=settings)
    _, model, *_, test_data = open_run(tmp_path / "run" / WEIGHTS, {})
    rows = test_data.dataset[torch.arange(len(test_data.dataset))]
    targets = rows["item_id"]
    every_item = torch.arange(1, model.sids.n_items + 1).expand(len(targets), -1)
    with torch.no_grad():
        scores = model.generator.log_likelihood(*model.history(rows), every_item)
    better = (scores > scores.gather(1, targets[:, None] - 1)).sum(dim=1)
    recall = (better < 10).double().mean().item()
    assert result["test_result"]["recall@10"] == pytest.approx(recall, abs=5.1e-5)
