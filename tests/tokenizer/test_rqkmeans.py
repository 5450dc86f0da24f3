from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.base import Items
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
