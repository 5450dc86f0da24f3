"""Trio from the command to item ids, on data made by hand with vectors of its own."""

import numpy as np

import recbole_sid
from tests.model.test_duet_run import DUET
from tests.runs import write_data


def test_a_run_and_its_use(tmp_path, cache):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(12)}", t) for u in range(12) for t in range(6)]
    data = write_data(tmp_path, rows, {f"i{item}": "thing" for item in range(12)})
    np.save(tmp_path / "v.npy", rng.normal(size=(12, 4)).astype(np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"i{item}\n" for item in range(12)))
    given = {key: value for key, value in DUET.items() if "interval" not in key} | data
    given |= {
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "topk": [3],
        "valid_metric": "NDCG@3",
        "cache_dir": cache,
        "output": str(tmp_path / "run"),
    }
    result = recbole_sid.run("Trio", "made", config_dict=given)
    assert result["best_valid_score"] > 0
    for name in ("v.npy", "ids.txt"):
        (tmp_path / name).unlink()
    found = {
        name: recbole_sid.evaluate(tmp_path / "run", show_progress=False, **changes)["test_result"]
        for name, changes in {
            "again": {},
            "exact": {"decoding": "exact"},
            "wide": {"beam_size": 100},
            "texts": {"items_share": 0.0, "text_share": 1.0},
            "items": {"items_share": 1.0, "text_share": 0.0},
            "codes": {"items_share": 0.0, "text_share": 0.0},
        }.items()
    }
    assert found["again"] == result["test_result"]
    assert found["wide"] == found["exact"]
    assert len({str(found[name]) for name in ("texts", "items", "codes")}) == 3
    recbole_sid.export(tmp_path / "run", tmp_path / "export")
    (lists,) = recbole_sid.recommend(tmp_path / "export", [["i1", "i2"]], k=3, show_progress=False)
    (same,) = recbole_sid.recommend(tmp_path / "run", [["i1", "i2"]], k=3, show_progress=False)
    assert lists.items == same.items
    assert sorted(lists.scores, reverse=True) == list(lists.scores)
