"""``tokenize`` and ``summarize`` on eight items, whose figures are worked out by hand.

Users and their items in order; the last but one is validation, the last is test:

    u0: i0 i1 | i2 | i3      u2: i4 i5 | i6 | i7
    u1: i2 i3 | i0 | i1      u3: i6 i7 | i4 | i5

So training has the pairs 0-1, 2-3, 4-5 and 6-7, and validation brings the queries 0 and 1 to the
positive 2, 2 and 3 to 0, and the same with 4 more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

import recbole_sid
from recbole_sid import registry
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.items import summaries
from recbole_sid.items.vectors import load_item_vectors
from recbole_sid.run_folder import read_json
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer
from recbole_sid.tokenizer.stored_weights import StoredWeights
from tests.runs import SMALL, snapshot, write_data
from tests.tokenizer.tiny_models import tiny

TOKENS = tuple(f"i{n}" for n in range(8))
ORDERS = {"u0": [0, 1, 2, 3], "u1": [2, 3, 0, 1], "u2": [4, 5, 6, 7], "u3": [6, 7, 4, 5]}
CATEGORY = ["A"] * 4 + ["B"] * 4
# Degrees. Items 4 to 7 are as 0 to 3, turned by half a circle: far from them.
ITEM_ANGLES = [0, 20, 5, 40, 180, 200, 185, 220]
MADE_ANGLES = [0, 20, 10, -15, 180, 200, 190, 165]


def at(angles) -> np.ndarray:
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class SpySettings:
    levels: int


class Spy(Tokenizer[SpySettings]):
    """Codes (0, parity) to fitted items, (category, parity) to others; keeps what it was given.

    That the fit does not know the categories shows on which items agreement is measured.
    """

    Settings = SpySettings
    needs_vectors = True
    needs_pairs = True
    can_assign = True
    trains = False
    given: list[Items]
    assigned_to: list[Items]

    def fit_sorted(self, items: Items) -> BaseCodes:
        self.given.append(items)
        made = self._codes(items, set(items.tokens))
        names = np.array([int(token[1:]) for token in items.tokens])
        return made._replace(weights={"fitted": names})

    def assigned(self, items: Items, weights) -> BaseCodes:
        self.assigned_to.append(items)
        return self._codes(items, {f"i{n}" for n in weights["fitted"]})

    def _codes(self, items: Items, fitted: set[str]) -> BaseCodes:
        numbers = np.array([int(token[1:]) for token in items.tokens])
        known = np.array([token in fitted for token in items.tokens])
        codes = np.stack([np.where(known, 0, numbers // 4), numbers % 2], axis=1).astype(np.int32)
        return BaseCodes(codes, (2, 2), {"fitted": len(fitted)}, None, at(MADE_ANGLES)[numbers])


class Seen(Spy):
    """Knows the categories in the fit, too."""

    def _codes(self, items: Items, fitted: set[str]) -> BaseCodes:
        return super()._codes(items, set())


class Rigid(Spy):
    can_assign = False


@pytest.fixture(autouse=True)
def spies(monkeypatch):
    registry.model_names()
    full = registry._TABLE
    copied = registry._Table(dict(full.tokenizers), dict(full.generators), dict(full.models))
    monkeypatch.setattr(registry, "_TABLE", copied)
    for cls in (Spy, Seen, Rigid):
        recbole_sid.register_tokenizer(cls.__name__.lower(), cls, {"tokenizer_levels": 2})
    monkeypatch.setattr(Spy, "given", [], raising=False)
    monkeypatch.setattr(Spy, "assigned_to", [], raising=False)


@pytest.fixture
def base(tmp_path, monkeypatch) -> dict:
    """Settings that read the eight items; the working directory is the test's own."""
    rows = [(u, f"i{n}", time) for u, items in ORDERS.items() for time, n in enumerate(items)]
    given = write_data(tmp_path / "data", rows)
    lines = [f"i{n}\tThing {n}\t{CATEGORY[n]}" for n in range(8)]
    header = "item_id:token\ttitle:token\tkind:token"
    (tmp_path / "data" / "made" / "made.item").write_text("\n".join([header, *lines]) + "\n")
    np.save(tmp_path / "v.npy", at(ITEM_ANGLES))
    (tmp_path / "ids.txt").write_text("\n".join(TOKENS) + "\n")
    monkeypatch.chdir(tmp_path)
    return given | {
        "tokenizer": "seen",
        "item_category_field": "kind",
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "pair_source": "cooccurrence",
        "topk": [3],
        "valid_metric": "NDCG@3",
        "retrieval_top": [1, 2],
        "show_progress": False,
        "cache_dir": str(tmp_path / "cache"),
    }


def tokenize(base: dict, **changes) -> dict:
    return recbole_sid.tokenize("TIGER", "made", config_dict=base | changes)


def paired(items: Items) -> set[tuple[str, str]]:
    assert items.pairs is not None
    rows = np.repeat(np.arange(len(items.tokens)), items.pairs.counts)
    pairs = zip(rows.tolist(), items.pairs.items.tolist(), strict=True)
    return {(items.tokens[row], items.tokens[other]) for row, other in pairs}


# -- fitted on all --------------------------------------------------------------------------------


def test_all_that_is_measured_on_all_items(base):
    result = tokenize(base)
    # Level 1 is the category; level 2, the parity, says nothing of it. Together they are four
    # groups of two: H(C | K) = 0, and 1 - H(K | C) / H(K) = 1 - ln 2 / ln 4 = 1/2.
    agreement = result["v_measure"]
    assert agreement["measured_on"] == "all items"
    assert (agreement["items"], agreement["categories"]) == (8, 2)
    assert agreement["v_measure_1"] == pytest.approx(1)
    assert agreement["v_measure_2"] == pytest.approx(0)
    assert agreement["completeness_prefix_2"] == pytest.approx(1 / 2)
    assert agreement["v_measure_prefix_2"] == pytest.approx(2 / 3)
    # By the vectors, query 3 (40°) finds its negative 1 (20°) before its positive 0 (0°), and 7
    # the same; all else is found first. The embeddings put 3 nearer to 0 than to 1.
    found = result["retrieval"]
    assert found["split"] == "valid"
    assert found["item_vectors"]["queries"] == found["embeddings"]["queries"] == 8
    assert (found["item_vectors"]["recall@1"], found["item_vectors"]["recall@2"]) == (6 / 8, 1)
    assert found["embeddings"]["recall@1"] == 1
    assert result["quality"]["perplexity_1"] == pytest.approx(2)
    assert result["quality"]["collision_rate"] == 1  # two items of each of the four SIDs
    assert result["tokenizer_report"] == {"fitted": 8 - 8}
    (items,) = Spy.given
    one_way = {(f"i{n}", f"i{n + 1}") for n in (0, 2, 4, 6)}
    assert paired(items) == one_way | {(b, a) for a, b in one_way}
    assert Spy.assigned_to == []


def test_the_folder(base, tmp_path):
    result = tokenize(base)
    folder = Path(result["run_folder"])
    assert folder.parent == Path("runs")
    assert folder.name.startswith("made-seen-")
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.yaml", "item_embeddings.safetensors", "result.json", "run.log", "sids.json",
        "timing.json", "tokenizer.safetensors",
    ]  # fmt: skip
    fitted = StoredWeights(folder / "tokenizer.safetensors")["fitted"]
    assert sorted(fitted.tolist()) == list(range(8))
    stored = read_json(folder / "result.json", "")
    assert stored == {k: v for k, v in result.items() if k not in ("run_folder", "timing")}
    sids = SemanticIDs.load(folder / "sids.json").aligned(TOKENS)
    assert sids.collision == "dedup"
    assert sids.base_codes.tolist() == [[n // 4, n % 2] for n in range(8)]
    vectors = load_item_vectors(folder / "item_embeddings.safetensors", None, TOKENS)
    assert np.array_equal(vectors, at(MADE_ANGLES))
    assert {"data", "tokenize", "measure", "total"} == set(result["timing"]["seconds"])
    assert result["timing"]["fit_seconds"] >= 0
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert (settings["held_out_share"], settings["retrieval_top"]) == (0.0, [1, 2])
    again = recbole_sid.tokenize(
        config_file_list=[str(folder / "config.yaml")], config_dict={"output": "again"}
    )
    assert again["run_folder"] == "again"
    assert Path("again/result.json").read_bytes() == (folder / "result.json").read_bytes()


def test_the_test_split_has_other_pairs(base):
    # (0, 3), (1, 3), (2, 1), (3, 1), and the same with 4 more: 0 finds 2 (5°) before 3 (40°), and 2
    # finds 0 before 1.
    found = tokenize(base, retrieval_split="test")["retrieval"]
    assert found["split"] == "test"
    assert found["item_vectors"]["recall@1"] == 4 / 8


def test_what_cannot_be_measured_is_left_out_with_a_reason(base, caplog):
    left = tokenize(base, item_category_field=None, retrieval=False)
    assert (left["v_measure"], left["retrieval"]) == (None, None)
    assert "V-measure is left out: no item_category_field is set" in caplog.text
    assert "Retrieval is left out" not in caplog.text  # it was not asked for
    # With ten to find, no query has negatives enough.
    left = tokenize(base, retrieval_top=[10], item_category_field="item_id")
    assert left["retrieval"] is None
    assert "Retrieval is left out: none of the 8 queries has 10 negatives" in caplog.text
    assert left["v_measure"]["categories"] == 8
    Path("data/made/made.item").write_text(
        "item_id:token\ttitle:token\tkind:token\n" + "".join(f"{t}\tThing\tA\n" for t in TOKENS)
    )
    left = tokenize(base, output="alike")
    assert left["v_measure"] is None
    assert "the 8 items are in 1 categories" in Path("alike/run.log").read_text()


def test_a_split_without_new_pairs(base, caplog):
    rows = [("u0", "i0", 0), ("u0", "i1", 1), ("u0", "i0", 2), ("u0", "i1", 3)]
    rows += [(f"v{n}", f"i{n}", time) for n in range(8) for time in range(4)]
    given = write_data(Path("same"), rows)
    result = tokenize(base | given, item_category_field=None)
    assert result["retrieval"] is None
    assert "bring no item together with one of its user's training items" in caplog.text


def test_a_run_makes_the_same_ids(base):
    tokenize(base, output="alone")
    sizes = {key: SMALL[key] for key in ("hidden_size", "inner_size", "n_heads", "head_size")}
    kept = {k: v for k, v in base.items() if k != "retrieval_top"}
    kept |= sizes | {"epochs": 1, "encoder_layers": 1, "decoder_layers": 1, "output": "run"}
    recbole_sid.run("TIGER", "made", config_dict=kept)
    assert Path("alone/sids.json").read_bytes() == Path("run/sids.json").read_bytes()
    assert paired(Spy.given[0]) == paired(Spy.given[1])


# -- held out -------------------------------------------------------------------------------------


def test_held_out_items_are_unseen(base):
    result = tokenize(base, tokenizer="spy", held_out_share=0.5, output="half")
    (fitted,), (assigned,) = Spy.given, Spy.assigned_to
    held_out = set(TOKENS) - set(fitted.tokens)
    assert len(held_out) == 4
    assert {CATEGORY[int(token[1:])] for token in held_out} == {"A", "B"}
    everyone = {(f"i{n}", f"i{n + 1 - 2 * (n % 2)}") for n in range(8)}
    assert paired(fitted) == {pair for pair in everyone if not held_out & set(pair)}
    assert set(assigned.tokens) == set(TOKENS)
    assert assigned.pairs is None
    # The spy gives those of the fit the code 0 whatever their category: measured with them, level 1
    # would not tell the categories.
    assert result["v_measure"]["measured_on"] == "held-out items"
    assert result["v_measure"]["items"] == 4
    assert result["v_measure"]["v_measure_1"] == pytest.approx(1)
    assert result["tokenizer_report"] == {"fitted": 4}
    sids = SemanticIDs.load("half/sids.json").aligned(TOKENS)
    assert sids.provenance["held_out"] == {"items": 4, "share": 0.5}
    assert sids.collision == "dedup"
    assert sids.base_codes.tolist() == [
        [n // 4 if f"i{n}" in held_out else 0, n % 2] for n in range(8)
    ]
    assert result["retrieval"]["embeddings"]["queries"] == 8


def test_users_of_held_out_items_do_not_count(base):
    """Swing weighs users by how much they have: without a held-out item they have less."""
    rows = [(u, f"i{n}", t) for u in ("u0", "u1", "u2") for t, n in enumerate([0, 1, 2, 3, 4, 5])]
    given = base | write_data(Path("more"), rows) | {"item_category_field": None}
    changes = {"tokenizer": "spy", "pair_source": "swing", "retrieval": False, "topk": [2]}
    changes |= {"valid_metric": "NDCG@2", "held_out_share": 1 / 3}
    tokenize(given, **changes)
    (items,) = Spy.given
    kept = sorted(set(items.tokens) & {"i0", "i1", "i2", "i3"})
    # Three users with the same s training items: two users i, j share s, and Swing is the sum over
    # the pairs of users of w_i w_j / (1 + s) with w = 1 / sqrt(s).
    assert 2 <= len(kept) < 4
    expected = 3 / len(kept) / (1 + len(kept))
    assert items.pairs is not None
    assert items.pairs.scores == pytest.approx(expected)


def test_the_same_seed_holds_out_the_same_items_in_any_order_of_the_data(base):
    tokenize(base, tokenizer="spy", held_out_share=0.25)
    file = Path("data/made/made.inter")
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    tokenize(base, tokenizer="spy", held_out_share=0.25, output="other")
    tokenize(base, tokenizer="spy", held_out_share=0.25, seed=5)
    first, reordered, other = (set(items.tokens) for items in Spy.given)
    assert first == reordered
    assert first != other


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_equal_settings_give_equal_bytes(base, share):
    given = base | {
        "tokenizer": "rqkmeans",
        "tokenizer_levels": 2,
        "tokenizer_codebook_size": 3,
        "collision": "nearest_free",
        "held_out_share": share,
    }
    first = tokenize(given, output="a")
    tokenize(given, output="b")  # codes from the cache
    tokenize(given, output="c", cache_dir="another")
    names = ("result.json", "sids.json")
    a, b, c = ([Path(folder, name).read_bytes() for name in names] for folder in "abc")
    assert a == b == c
    assert first["v_measure"]["items"] == (8 if share == 0 else 4)
    assert len(SemanticIDs.load("a/sids.json").tokens) == 8


# -- refused --------------------------------------------------------------------------------------

BAD = {
    "all held out": ({"held_out_share": 1.0}, "'held_out_share' is 1.0, but must be 0, or above 0"),
    "less than none": ({"held_out_share": -0.1}, "'held_out_share' is -0.1"),
    "no assign": (
        {"tokenizer": "rigid", "held_out_share": 0.5},
        "tokenizer 'rigid' cannot give codes to items that it was not fitted on: choose",
    ),
    "unknown key": ({"held_out_shar": 0.5}, "unknown setting 'held_out_shar'. Did you mean 'held"),
    "unknown split": ({"retrieval_split": "train"}, "'retrieval_split' is 'train'"),
    "few negatives": ({"retrieval_negatives": 1}, "'retrieval_negatives' is 1, but must be at"),
    "resume": ({"resume": True}, "tokenize needs no --resume"),
    "no such column": ({"item_category_field": "sort"}, "has no column 'sort'"),
    "no texts": (
        {
            "tokenizer": "random",
            "item_embedding_file": None,
            "item_embedding_ids": None,
            "item_text_fields": ["name"],
        },
        "has no column 'name'.*Or leave retrieval out with retrieval: False",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_fitted(base, case):
    changes, message = BAD[case]
    before = snapshot(Path())
    with pytest.raises(InputError, match=message):
        tokenize(base, **changes)
    assert Spy.given == []
    assert snapshot(Path()) == before


def test_recbole_models_have_no_ids(base):
    with pytest.raises(InputError, match="'BPR' is RecBole's model and has none"):
        recbole_sid.tokenize("BPR", "made", config_dict={"data_path": base["data_path"]})


def test_other_commands_refuse_what_they_would_not_do(base):
    plain = {k: v for k, v in base.items() if k != "retrieval_top"}
    Config("TIGER", "made", config_dict=plain)
    with pytest.raises(InputError, match="'held_out_share' belongs to the command tokenize"):
        Config("TIGER", "made", config_dict=plain | {"held_out_share": 0.2})


def test_a_folder_in_use_is_not_replaced(base):
    first = tokenize(base, output="one")
    before = snapshot(Path("one"))
    assert tokenize(base, output="one") == first
    assert len(Spy.given) == 1
    with pytest.raises(InputError, match="'one' holds a run of other settings"):
        tokenize(base, output="one", held_out_share=0.5)
    assert snapshot(Path("one")) == before
    tokenize(base, output="one", overwrite=True)
    assert len(Spy.given) == 2
    Path("mine").mkdir()
    Path("mine/sids.json").write_text("{}")
    with pytest.raises(InputError, match="'mine' is not the folder of a run"):
        tokenize(base, output="mine")
    assert Path("mine/sids.json").read_text() == "{}"
    # A finished table is no finished run.
    with pytest.raises(InputError, match=r"'one' has no model\.safetensors"):
        recbole_sid.load("one")


def test_a_killed_one_starts_again(base):
    tokenize(base, output="one")
    whole = snapshot(Path("one"))
    for name in ("result.json", "timing.json", "item_embeddings.safetensors"):
        Path("one", name).unlink()
    tokenize(base, output="one")
    same = {"run.log", "timing.json"}
    assert {k: v for k, v in snapshot(Path("one")).items() if k not in same} == {
        k: v for k, v in whole.items() if k not in same
    }


# -- summaries ------------------------------------------------------------------------------------


def summarize(base: dict, output: str = "new.item", **changes) -> int:
    own = {key: changes.pop(key) for key in list(changes) if key.startswith(("summary_", "over"))}
    kept = {k: v for k, v in base.items() if k in ("data_path", "load_col", "item_category_field")}
    settings = {"model": "TIGER", "dataset": "made", "show_progress": False, **kept, **changes}
    return recbole_sid.summarize(output, config_dict=settings, **own)


def test_summaries_by_the_template(base):
    assert summarize(base) == 8
    header, first, *_, last = Path("new.item").read_text().splitlines()
    assert header == "item_id:token\ttitle:token\tkind:token\tsummary:token_seq"
    assert first == "i0\tThing 0\tA\tThis is an item of the A industry."
    assert last == "i7\tThing 7\tB\tThis is an item of the B industry."
    # The column may be written where the data lie, and under another name.
    own = "data/made/made.item"
    with pytest.raises(InputError, match="exists: name another file"):
        summarize(base, own)
    assert summarize(base, own, overwrite=True, item_summary_field="told") == 8
    assert Path(own).read_text().splitlines()[0].endswith("\ttold:token_seq")
    with pytest.raises(InputError, match="has a column 'told' already"):
        summarize(base, own, overwrite=True, item_summary_field="told")


def test_summaries_by_a_language_model(base, tmp_path, monkeypatch):
    asked: list[tuple[list[str], int]] = []

    def answer(_model, _tokenizer, prompts, max_tokens):
        asked.append((prompts, max_tokens))
        return [f"It is {prompt}." for prompt in prompts]

    monkeypatch.setattr(summaries, "_generate", answer)
    given = {"summary_batch_size": 1, "summary_max_tokens": 7, "summary_prompt": "<{attributes}>"}
    assert summarize(base, summary_model=tiny("gpt2", tmp_path), **given) == 8
    # Two categories, one at a time.
    assert asked == [(["<category path: A>"], 7), (["<category path: B>"], 7)]
    last = Path("new.item").read_text().splitlines()[-1]
    assert last == "i7\tThing 7\tB\tIt is <category path: B>."


SUMMARY_ERRORS = {
    "no model there": ({"summary_model": "none"}, "language model 'none' is not a folder"),
    "a number for the model": ({"summary_max_tokens": 9}, "--summary_max_tokens is for a language"),
    "a number as text": (
        {"summary_model": "none", "summary_max_tokens": "9"},
        "--summary_max_tokens is '9', but must be a whole number",
    ),
    "below 1": ({"summary_model": "none", "summary_batch_size": 0}, "'batch_size' is 0"),
    "no category": ({"item_category_field": None}, "set item_category_field or item_industry"),
    "RecBole's": ({"model": "BPR"}, "'BPR' is RecBole's: leave --model out"),
}


@pytest.mark.parametrize("case", SUMMARY_ERRORS)
def test_bad_summaries_write_nothing(base, case):
    changes, message = SUMMARY_ERRORS[case]
    before = snapshot(Path())
    with pytest.raises(InputError, match=message):
        summarize(base, **changes)
    assert snapshot(Path()) == before
