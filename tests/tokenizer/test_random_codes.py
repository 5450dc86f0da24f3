from __future__ import annotations

import numpy as np
import torch

from recbole_sid.tokenizer.base import Items, LevelSettings
from recbole_sid.tokenizer.random_codes import RandomCodes


def tokenizer(seed: int) -> RandomCodes:
    settings = LevelSettings(2, [4, 16])
    return RandomCodes(settings, seed=seed, device=torch.device("cpu"), progress=False)


ITEMS = Items(tuple(f"item{row}" for row in range(4_000)), None)


def test_codes_are_uniform_and_in_range():
    fitted = tokenizer(0).fit(ITEMS)
    assert fitted.codes.dtype == np.int32
    assert fitted.codes.min(axis=0).tolist() == [0, 0]
    assert fitted.codes.max(axis=0).tolist() == [3, 15]
    # 1000 expected; the standard deviation is 27.
    assert (np.abs(np.bincount(fitted.codes[:, 0]) - 1_000) < 140).all()
    pairs = np.bincount(fitted.codes[:, 0] * 16 + fitted.codes[:, 1], minlength=64)
    assert (pairs > 20).all()  # 62.5 expected: the levels are independent


def test_same_codes_for_a_seed_in_any_row_order():
    first = tokenizer(1).fit(ITEMS)
    order = np.random.RandomState(0).permutation(len(ITEMS.tokens))
    again = tokenizer(1).fit(ITEMS.take(order.tolist()))
    assert np.array_equal(first.codes[order], again.codes)
    assert not np.array_equal(first.codes, tokenizer(2).fit(ITEMS).codes)
