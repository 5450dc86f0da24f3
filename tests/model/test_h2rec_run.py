"""H2Rec from the command to item ids, on ml-100k cut small."""

import numpy as np
import pytest
import torch

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.run_folder import WEIGHTS
from recbole_sid.serving.append import append
from recbole_sid.stored_run import open_run
from tests.runs import CUT, write_data

H2REC = {
    **CUT,
    "tokenizer": "random",
    "tokenizer_codebook_size": 8,
    "hidden_size": 16,
    "inner_size": 16,
    "n_heads": 2,
    "head_size": 8,
    "layers": 1,
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
        {
            "fusion": "mean",
            "share_backbone": False,
            "window_targets": 2,
            "collision": "none",
            "exclude_history": True,
        },
    ],
)
def test_a_run_and_its_use(kind, tmp_path, cache):
    settings = {**H2REC, **kind, "cache_dir": cache, "output": str(tmp_path / "run")}
    result = recbole_sid.run("H2Rec", "ml-100k", config_dict=settings)
    assert result["best_valid_score"] > 0
    assert result["test_result"]["generated@10"] == 1
    longer = recbole_sid.evaluate(
        tmp_path / "run", topk=[5, 10, 30], beam_size=30, show_progress=False
    )["test_result"]
    assert result["test_result"].items() <= longer.items()
    assert longer["generated@30"] == 1
    history = recbole_sid.load(tmp_path / "run").model.sids.tokens[:2]
    (lists,) = recbole_sid.recommend(tmp_path / "run", [history], k=3, show_progress=False)
    assert len(set(lists.items)) == 3
    assert sorted(lists.scores, reverse=True) == list(lists.scores)


def test_hits_are_those_of_the_item_itself_where_items_share_a_sid(tmp_path, cache):
    settings = H2REC | {
        "collision": "none",
        "tokenizer_codebook_size": 2,
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
    }
    result = recbole_sid.run("H2Rec", "ml-100k", config_dict=settings)
    _, model, *_, test_data = open_run(tmp_path / "run" / WEIGHTS, {})
    assert len(np.unique(model.sids.codes, axis=0)) <= 8
    rows = test_data.dataset[torch.arange(len(test_data.dataset))]
    targets = rows["item_id"]
    every_item = torch.arange(1, model.sids.n_items + 1).expand(len(targets), -1)
    with torch.no_grad():
        scores = model.generator.log_likelihood(*model.history(rows), every_item)
    better = (scores > scores.gather(1, targets[:, None] - 1)).sum(dim=1)
    recall = (better < 10).double().mean().item()
    assert result["test_result"]["recall@10"] == pytest.approx(recall, abs=5.1e-5)
    assert recall < result["test_result"]["sid_recall@10"]


def test_new_items_are_refused_by_name(tmp_path, cache):
    data = write_data(
        tmp_path, [(f"u{u}", f"i{(u + t) % 9}", t) for u in range(12) for t in range(6)]
    )
    np.save(tmp_path / "v.npy", np.eye(9, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"i{item}\n" for item in range(9)))
    settings = {key: value for key, value in H2REC.items() if "interval" not in key} | data
    settings |= {
        "tokenizer": "rqkmeans",
        "tokenizer_codebook_size": 2,
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "topk": [3],
        "valid_metric": "NDCG@3",
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
    }
    recbole_sid.run("H2Rec", "made", config_dict=settings)
    (tmp_path / "new.item").write_text("item_id:token\ttitle:token\nn0\tThing\n")
    np.save(tmp_path / "new.npy", np.eye(9, dtype=np.float32)[:1])
    (tmp_path / "new.txt").write_text("n0\n")
    with pytest.raises(InputError, match=r"'h2rec' learned 'hid_embedding\.weight'"):
        append(
            tmp_path / "run",
            items=tmp_path / "new.item",
            output=tmp_path / "out",
            item_embedding_file=str(tmp_path / "new.npy"),
            item_embedding_ids=str(tmp_path / "new.txt"),
            show_progress=False,
        )
