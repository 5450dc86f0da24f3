"""IntRR from the command to item ids, on ml-100k cut small and with content vectors of a file."""

import numpy as np
import pytest
import torch

import recbole_sid
from recbole_sid.errors import InputError
from tests.runs import CUT, write_data

INTRR = {
    **CUT,
    "tokenizer": "random",
    "tokenizer_codebook_size": 8,
    "hidden_size": 16,
    "inner_size": 16,
    "n_heads": 2,
    "head_size": 8,
    "codebook_inner_size": 16,
    "beam_size": 10,
    "epochs": 2,
    "eval_step": 1,
    "warmup_steps": 5,
    "precision": "float32",
}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"item_token": "recursive", "backbone": "hstu", "softmax": "level", "node_vectors": False},
    ],
)
def test_a_run_and_its_use(kind, tmp_path, cache):
    settings = {**INTRR, **kind, "cache_dir": cache, "output": str(tmp_path / "run")}
    result = recbole_sid.run("IntRR", "ml-100k", config_dict=settings)
    assert result["best_valid_score"] > 0
    assert result["test_result"]["generated@10"] == 1
    again = recbole_sid.evaluate(tmp_path / "run", show_progress=False)
    assert again["test_result"] == result["test_result"]
    exact = recbole_sid.evaluate(tmp_path / "run", decoding="exact", show_progress=False)
    wide = recbole_sid.evaluate(tmp_path / "run", beam_size=3000, show_progress=False)
    assert wide["test_result"] == exact["test_result"]
    assert exact["test_result"]["generated@10"] == 1
    history = recbole_sid.load(tmp_path / "run").model.sids.tokens[:2]
    (lists,) = recbole_sid.recommend(tmp_path / "run", [history], k=3, show_progress=False)
    assert len(set(lists.items)) == 3
    assert sorted(lists.scores, reverse=True) == list(lists.scores)


def test_content_vectors_stay_with_the_run(tmp_path, cache):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(12)}", t) for u in range(8) for t in range(6)]
    data = write_data(tmp_path, rows, {f"i{item}": "thing" for item in range(12)})
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("".join(f"i{item}\n" for item in range(12)))
    given = {key: value for key, value in INTRR.items() if "interval" not in key} | data
    given |= {
        "content_vectors": True,
        "item_embedding": False,
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "topk": [3],
        "valid_metric": "NDCG@3",
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
    }
    result = recbole_sid.run("IntRR", "made", config_dict=given)
    for name in ("v.npy", "ids.txt"):
        (tmp_path / name).unlink()
    _, dataset, model = recbole_sid.load(tmp_path / "run")
    tokens = dataset.field2id_token["item_id"]
    expected = torch.from_numpy(vectors[[int(token[1:]) for token in tokens[1:]]])
    torch.testing.assert_close(model.generator.catalogue.vectors[1:].cpu(), expected)
    again = recbole_sid.evaluate(tmp_path / "run", show_progress=False)
    assert again["test_result"] == result["test_result"]

    (tmp_path / "run" / "item_vectors.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no item_vectors\.safetensors"):
        recbole_sid.load(tmp_path / "run")
