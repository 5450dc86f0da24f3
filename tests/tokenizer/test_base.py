from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.tokenizer.base import BaseCodes, Items, LevelSettings, Tokenizer, seeded

CPU = torch.device("cpu")


class FirstLetter(Tokenizer[LevelSettings]):
    """Codes are (row, first letter), so that a test sees which rows it was given."""

    Settings = LevelSettings
    needs_vectors = True

    def fit_sorted(self, items: Items) -> BaseCodes:
        codes = [(row, ord(token[0]) - ord("a")) for row, token in enumerate(items.tokens)]
        return BaseCodes(np.array(codes, dtype=np.int32), (100, 26), {})


def first_letter() -> FirstLetter:
    return FirstLetter(LevelSettings(2, [100, 26]), seed=0, device=CPU, progress=False)


def test_fit_sorts_by_raw_token_and_undoes_it():
    items = Items(("c", "a", "b"), np.zeros((3, 1), dtype=np.float32))
    assert first_letter().fit(items).codes.tolist() == [[2, 2], [0, 0], [1, 1]]


def test_take_keeps_tokens_and_vectors_together():
    items = Items(("x", "y", "z"), np.array([[1], [2], [3]], dtype=np.float32)).take([2, 0])
    assert items.tokens == ("z", "x")
    assert items.vectors.tolist() == [[3], [1]]


def test_behaviour_goes_with_the_items_and_is_checked():
    behaviour = np.array([[1, 0], [0, 2]], dtype=np.float32)
    items = Items(("x", "y"), None, behaviour=behaviour)
    assert items.take([1]).behaviour.tolist() == [[0, 2]]
    with pytest.raises(InputError, match=r"behaviour vectors have shape \(1, 2\)"):
        Items(("x", "y"), None, behaviour=behaviour[:1])
    with pytest.raises(InputError, match="behaviour vectors are float64"):
        Items(("x", "y"), None, behaviour=behaviour.astype(np.float64))


def test_missing_vectors_are_refused_with_remedy():
    with pytest.raises(InputError, match=r"FirstLetter needs item vectors.*item_text_fields"):
        first_letter().fit(Items(("a",), None))


@pytest.mark.parametrize(
    ("tokens", "vectors", "message"),
    [
        ((), None, "empty"),
        (("a", "b", "a"), None, "1 item ids.*'a'"),
        (("a", "b"), np.zeros((3, 2), dtype=np.float32), r"\(3, 2\).*n_items = 2"),
        (("a",), np.zeros(1, dtype=np.float32), r"shape \(1,\)"),
        (("a",), np.zeros((1, 2)), "float64"),
        (("a", "b"), np.array([[0.0], [np.nan]], dtype=np.float32), "1 items.*'b'"),
        (("a", "b"), np.array([[np.inf], [0.0]], dtype=np.float32), "1 items.*'a'"),
    ],
)
def test_bad_items_are_refused(tokens, vectors, message):
    with pytest.raises(InputError, match=message):
        Items(tokens, vectors)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match="seed"):
        FirstLetter(LevelSettings(1, 4), seed=seed, device=CPU, progress=False)


def test_sizes_from_one_number_and_from_a_list():
    assert LevelSettings(3, 256).sizes == (256, 256, 256)
    assert LevelSettings(3, [8, 4, 2]).sizes == (8, 4, 2)
    built = settings.build(
        LevelSettings, {"tokenizer_levels": 2, "tokenizer_codebook_size": [5, 6]}, "tokenizer_"
    )
    assert built.sizes == (5, 6)


@pytest.mark.parametrize(
    ("levels", "size", "key"),
    [
        (0, 4, "tokenizer_levels"),
        (65, 4, "tokenizer_levels"),
        (2, [4], "tokenizer_codebook_size"),
        (2, 1, "tokenizer_codebook_size"),
        (2, [4, 0], "tokenizer_codebook_size"),
        (1, 2**20 + 1, "tokenizer_codebook_size"),
    ],
)
def test_levels_out_of_bounds_are_refused(levels, size, key):
    with pytest.raises(InputError, match=key):
        LevelSettings(levels, size)


def test_seeded_is_reproducible_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1, CPU):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    with seeded(1, CPU):
        assert torch.equal(torch.rand(3), first)


class FromSecondLetter(FirstLetter):
    """Gives codes to anything, and says what it was asked."""

    name = "second"
    can_assign = True

    def assigned(self, items, weights):
        codes = [[weights["start"][0] + ord(token[1])] for token in items.tokens]
        return BaseCodes(np.array(codes, dtype=np.int32), (500,), {})


def test_new_items_are_assigned_by_those_that_can():
    tokenizer = FromSecondLetter(LevelSettings(1, 500), seed=0, device=CPU, progress=False)
    items = Items(("xb", "ya"), np.zeros((2, 1), dtype=np.float32))
    found = tokenizer.assign(items, {"start": np.array([100])})
    assert found.codes.tolist() == [[198], [197]]
    assert found.weights is None
    with pytest.raises(InputError, match=r"tokenizer second needs item vectors.*item_text_fields"):
        tokenizer.assign(Items(("xb",), None), {})


def test_by_default_new_items_are_refused():
    items = Items(("a",), np.zeros((1, 1), dtype=np.float32))
    with pytest.raises(InputError, match="tokenizer FirstLetter cannot give codes to items it was"):
        first_letter().assign(items, {})
