from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.code_cache import Fitted, read_cache, write_cache
from recbole_sid.tokenizer.pipeline import describe
from recbole_sid.tokenizer.rqkmeans import RQKMeans, RQKMeansSettings

DEFAULTS = {
    "levels": 2,
    "codebook_size": 2,
    "reduce_dim": None,
    "collapse_below": 0.1,
    "restarts": 3,
    "iterations": 50,
    "minibatch_above": 10_000,
}


def tokenizer(seed: int = 0, **changes) -> RQKMeans:
    settings = RQKMeansSettings(**{**DEFAULTS, **changes})
    return RQKMeans(settings, seed=seed, device=torch.device("cpu"), progress=False)


def test_two_levels_by_hand():
    # Level 1 parts left from right; what remains is 1 up or down, and level 2 parts that.
    points = np.array([[-10, 1], [-10, -1], [10, 1], [10, -1]], dtype=np.float32)
    fitted = tokenizer().fit(Items(("a", "b", "c", "d"), points))
    side, height = fitted.codes.T.tolist()
    assert side[0] == side[1] != side[2] == side[3]
    assert height[0] == height[2] != height[1] == height[3]
    assert fitted.sizes == (2, 2)
    assert fitted.codes.dtype == np.int32
    assert fitted.report["residual"] == pytest.approx([101.0, 1.0, 0.0])
    assert fitted.report["collision_rate"] == 0.0
    assert fitted.report["perplexity"] == pytest.approx([2.0, 2.0])


def test_the_space_is_what_the_codes_were_chosen_by():
    items = random_items(60)
    assert items.vectors is not None
    fitted = tokenizer(codebook_size=[6, 5], reduce_dim=4).fit(items)
    space, rows = fitted.space, np.arange(60)
    assert space is not None
    assert (space.residual, space.sizes, space.latents.shape) == (True, (6, 5), (60, 4))
    for level in range(2):
        costs = space.costs(level, rows, fitted.codes)
        assert np.array_equal(costs.argmin(axis=1), fitted.codes[:, level])
        assert costs.min(axis=1).mean() == pytest.approx(fitted.report["residual"][level + 1], 1e-4)


def test_a_code_without_a_centroid_is_zero():
    points = np.array([[-10, 1], [-10, -1], [10, 1]], dtype=np.float32)
    fitted = tokenizer(codebook_size=[2, 5]).fit(Items(("a", "b", "c"), points))
    assert fitted.space is not None
    assert fitted.space.sizes == (2, 5)
    assert fitted.space.codebooks[1][3:].tolist() == [[0, 0], [0, 0]]
    assert np.abs(fitted.space.codebooks[1][:3]).sum() > 0


def array(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_new_items_by_hand():
    weights = {"codebook_1": array([-10, 0], [10, 0]), "codebook_2": array([0, 1], [0, -1])}
    # Left over by level 1: (1, 2), (1, -3), (-2, 0.5); (0, 0) is as near to both, and so is what
    # is left of it, (10, 0): the lower code.
    points = array([-9, 2], [11, -3], [8, 0.5], [0, 0])
    found = tokenizer().assign(Items(("a", "b", "c", "d"), points), weights)
    assert found.codes.tolist() == [[0, 0], [1, 1], [1, 0], [0, 0]]
    assert found.space is not None
    assert found.space.latents.tolist() == points.tolist()
    assert [book.tolist() for book in found.space.codebooks] == [
        weights["codebook_1"].tolist(), weights["codebook_2"].tolist(),
    ]  # fmt: skip
    # (1, 2) - (0, 1) leaves 2, (1, -3) - (0, -1) leaves 5.
    costs = found.space.prefix_costs(np.arange(4), found.codes)
    assert costs.tolist() == [2, 5, 4.25, 101]


def test_new_items_by_hand_after_a_reduction():
    weights = {
        "pca_components": array([0, 1]),
        "pca_mean": np.array([7, 5], dtype=np.float32),
        "codebook_1": array([-4], [4]),
        "codebook_2": array([-1], [1]),
    }
    # Their heights above 5: -2, 2.5 and 6; level 1 leaves 2, -1.5 and 2.
    points = array([0, 3], [99, 7.5], [-1, 11])
    found = tokenizer(reduce_dim=1).assign(Items(("a", "b", "c"), points), weights)
    assert found.codes.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert found.space is not None
    assert found.space.latents.tolist() == [[-2], [2.5], [6]]


def test_a_code_without_a_centroid_goes_to_no_new_item():
    # Nothing is left over, and the vector of the free code is zero, but no item of the fit had it.
    weights = {"codebook_1": array([-1], [1]), "codebook_2": array([5])}
    found = tokenizer().assign(Items(("a", "b"), array([-1], [1])), weights)
    assert found.codes.tolist() == [[0, 0], [1, 0]]
    assert found.space is not None
    assert found.space.codebooks[1].tolist() == [[5], [0]]


@pytest.mark.parametrize("rule", ["reassign_last", "nearest_free"])
def test_rules_that_move_items_make_its_codes_unique(rule):
    items = random_items(60)
    fitted = tokenizer(codebook_size=8).fit(items)
    base = SemanticIDs(items.tokens, fitted.codes, fitted.sizes, "none", {})
    sids = apply_collision(base, rule, fitted.space)
    report = sids.provenance["collision"]
    assert len(np.unique(sids.codes, axis=0)) == 60
    assert 0 < report["moved"] < 60
    assert report["mean_cost_added"] > 0


def test_the_cache_keeps_codes_and_space_for_any_order_of_rows(tmp_path):
    items = random_items(40)
    fitted = tokenizer(codebook_size=8).fit(items)
    beside = {"beside": ["space", "weights"]}
    base = SemanticIDs(items.tokens, fitted.codes, fitted.sizes, "none", beside)
    path = tmp_path / "key.safetensors"
    assert read_cache(path, items.tokens, True) is None
    write_cache(path, Fitted(base, fitted.space, None, fitted.weights, seconds=12.5))
    order = np.random.RandomState(1).permutation(40)
    tokens = tuple(items.tokens[row] for row in order)
    cached = read_cache(path, tokens, True)
    assert cached is not None
    assert np.array_equal(cached[0].codes, fitted.codes[order])
    assert (cached.seconds, cached.base.provenance) == (12.5, beside)
    assert np.array_equal(cached[1].latents, fitted.space.latents[order])
    assert cached.weights is not None
    named = tokenizer(codebook_size=8).assign(items, cached.weights)
    assert np.array_equal(named.codes, fitted.codes)
    again = apply_collision(cached[0], "reassign_last", cached[1])
    whole = apply_collision(base, "reassign_last", fitted.space)
    assert again.fingerprint() == whole.fingerprint()
    # Rules that do not move items never look for the space; those that do have it made again.
    (tmp_path / "key.space.safetensors").unlink()
    without = read_cache(path, tokens, False)
    assert without is not None
    assert without[1] is None
    assert read_cache(path, tokens, True) is None
    for name in ("key.weights.safetensors", "key.timing.json"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        assert read_cache(path, tokens, False) is None
        (tmp_path / name).write_bytes(kept)
    assert read_cache(path, tokens, False) is not None
    (tmp_path / "key.timing.json").write_text('{"fit_seconds": 1.0}')
    with pytest.raises(InputError, match="delete it, then it is made again"):
        read_cache(path, tokens, False)


def test_a_tokenizer_without_a_space_needs_none_in_the_cache(tmp_path):
    base = SemanticIDs(("b", "a"), np.array([[1], [1]], dtype=np.int32), (2,), "none", {})
    path = tmp_path / "key.safetensors"
    write_cache(path, Fitted(base, None, None))
    assert {file.name for file in tmp_path.iterdir()} == {"key.safetensors", "key.timing.json"}
    cached = read_cache(path, ("a", "b"), True)
    assert cached is not None
    assert cached[1] is None


def test_the_line_on_a_table_says_both_rates():
    codes = np.array([[0, 0], [0, 0], [1, 0], [1, 1]], dtype=np.int32)
    base = SemanticIDs(("a", "b", "c", "d"), codes, (2, 2), "none", {})
    shape = "4 items, levels of 2 x 2 codes"
    assert describe(base) == f"{shape}; 50.00% of the items share their SID, perplexity 2 / 2"
    assert describe(apply_collision(base, "dedup")).startswith(
        f"{shape[:-6]} x 2 codes (the last is the dedup digit); before it 50.00% of the items share"
    )
    assert describe(apply_collision(base, "reassign_last")) == (
        f"{shape}; 50.00% of the items shared their SID before reassign_last, which moved 1 items, "
        "0 of them to another prefix; now 0.00% do, perplexity 2 / 2"
    )
    points = np.array([[0], [0.5], [10], [11]], dtype=np.float32)
    books = (np.array([[0], [10]], dtype=np.float32), np.array([[0], [1]], dtype=np.float32))
    space = CodeSpace(points, books, True)
    text = describe(apply_collision(base, "nearest_free", space))
    assert "which moved 1 items, 0 of them to another prefix, at a mean cost of 0; now" in text


def test_code_use_is_logged_after_every_level(caplog):
    # Level 1 parts left from right, so each item shares its code; level 2 tells all four apart.
    points = np.array([[-10, 1], [-10, -1], [10, 1], [10, -1]], dtype=np.float32)
    with caplog.at_level(logging.INFO, "recbole_sid"):
        tokenizer().fit(Items(("a", "b", "c", "d"), points))
    assert [record.getMessage() for record in caplog.records] == [
        "rqkmeans level 1: residual 1, collisions 100.0 %, codes used 100 %, perplexity 2",
        "rqkmeans level 2: residual 0, collisions 0.0 %, codes used 100/100 %, perplexity 2/2",
    ]


def random_items(n: int) -> Items:
    vectors = np.random.RandomState(3).randn(n, 6).astype(np.float32)
    return Items(tuple(f"item{row}" for row in range(n)), vectors)


def test_same_codes_for_a_seed_in_any_row_order():
    items = random_items(120)
    first = tokenizer(seed=4, codebook_size=[8, 5]).fit(items)
    order = np.random.RandomState(1).permutation(120)
    np.random.seed(99)  # noqa: NPY002 (this state must not matter)
    again = tokenizer(seed=4, codebook_size=[8, 5]).fit(items.take(order.tolist()))
    assert np.array_equal(first.codes[order], again.codes)
    assert first.report == again.report
    other = tokenizer(seed=5, codebook_size=[8, 5]).fit(items)
    assert not np.array_equal(first.codes, other.codes)


def test_vectors_are_left_as_they_were():
    items = random_items(30)
    assert items.vectors is not None
    before = items.vectors.copy()
    tokenizer().fit(items)
    assert np.array_equal(items.vectors, before)


def test_fewer_distinct_vectors_than_codes(caplog):
    vectors = np.array([[0.0], [0.0], [1.0]], dtype=np.float32)
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        fitted = tokenizer(codebook_size=4).fit(Items(("a", "b", "c"), vectors))
    assert fitted.codes[0].tolist() == fitted.codes[1].tolist() != fitted.codes[2].tolist()
    assert fitted.sizes == (4, 4)
    messages = [record.getMessage() for record in caplog.records]
    assert any("level 1 uses 2 of its 4 codes" in message for message in messages)
    assert any("level 2 uses 1 of its 4 codes" in message for message in messages)


def test_equal_vectors_are_called_a_collapse(caplog):
    items = Items(tuple("abcdefgh"), np.ones((8, 3), dtype=np.float32))
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        fitted = tokenizer(codebook_size=8, collapse_below=0.5).fit(items)
    assert fitted.report["collision_rate"] == 1.0
    assert any("LEVEL 1 HAS COLLAPSED" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ["restarts", "iterations", "minibatch_above"])
def test_bounds(name):
    with pytest.raises(InputError, match=f"tokenizer_{name}"):
        RQKMeansSettings(**{**DEFAULTS, name: 0})
