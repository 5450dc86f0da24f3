"""DiffGRM from the command to item ids, on ml-100k cut small and with content vectors of a file."""

import pytest

import recbole_sid
from recbole_sid import registry
from recbole_sid.errors import InputError
from recbole_sid.sid.table import SemanticIDs
from tests.runs import SMALL
from tests.test_pair_models import vectors

CODES = {"tokenizer_codebook_size": 8, "tokenizer_levels": 3}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {
            "noising": "random",
            "views": 2,
            "pool": "views",
            "decoder_start": "learned",
            "window_targets": 2,
            "collision": "none",
            "exclude_history": True,
        },
    ],
)
def test_a_run_and_its_use(kind, tmp_path, cache):
    given = {**SMALL, **CODES, **vectors(tmp_path), **kind, "tokenizer": "opq", "epochs": 2}
    settings = {**given, "cache_dir": cache, "output": str(tmp_path / "run")}
    result = recbole_sid.run("DiffGRM", "ml-100k", config_dict=settings)
    assert result["best_valid_score"] > 0
    assert result["test_result"]["generated@10"] == 1
    longer = recbole_sid.evaluate(
        tmp_path / "run", topk=[10, 30], beam_size=30, show_progress=False
    )["test_result"]
    assert longer["generated@30"] == 1
    assert longer["recall@30"] >= longer["recall@10"] > 0
    history = SemanticIDs.load(tmp_path / "run" / "sids.json").tokens[:2]
    (lists,) = recbole_sid.recommend(tmp_path / "run", [history], k=3, show_progress=False)
    assert len(set(lists.items)) == 3
    assert sorted(lists.scores, reverse=True) == list(lists.scores)


def test_a_run_repeats_itself(tmp_path, cache):
    given = {**SMALL, **CODES, **vectors(tmp_path), "tokenizer": "opq", "cache_dir": cache}
    first, second = (
        recbole_sid.run("DiffGRM", "ml-100k", config_dict={**given, "output": str(tmp_path / name)})
        for name in "ab"
    )
    assert first["test_result"] == second["test_result"]
    again = recbole_sid.evaluate(tmp_path / "a", show_progress=False)
    assert again["test_result"] == first["test_result"]


def test_it_stands_for_parallel_codes():
    spec = registry.model("DiffGRM")
    assert spec is not None
    assert (spec.tokenizer, spec.generator) == ("opq", "diffgrm")
    assert registry.generator("diffgrm").cls.needs_parallel_codes


def test_a_bad_setting_is_refused_before_anything_is_trained(tmp_path, cache):
    given = {**SMALL, **CODES, **vectors(tmp_path), "tokenizer": "opq", "cache_dir": cache}
    with pytest.raises(InputError, match="views"):
        recbole_sid.run("DiffGRM", "ml-100k", config_dict={**given, "views": 0})
