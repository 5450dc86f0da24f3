"""What codes cost, worked out by hand, and the file that a space is kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_sid import seals
from recbole_sid.errors import InputError
from recbole_sid.sid.space import CodeSpace, EqualCosts
from tests.sealing import write_tensors

BOOKS = (
    np.array([[0, 0], [10, 0]], dtype=np.float32),
    np.array([[0, 0], [1, 1], [0, 2]], dtype=np.float32),
)
RESIDUAL = CodeSpace(np.array([[1, 1], [9, 3]], dtype=np.float32), BOOKS, True)
PARALLEL = CodeSpace(np.array([[[1, 1], [2, 0]], [[3, 0], [0, 5]]], dtype=np.float32), BOOKS, False)
ROWS = np.array([1, 0])
CODES = np.array([[1, 2], [1, 1]])


def test_a_residual_space_takes_off_the_prefix() -> None:
    # (9, 3) to (0, 0) and (10, 0); (1, 1) to the same.
    assert RESIDUAL.costs(0, ROWS, CODES).tolist() == [[90, 10], [2, 82]]
    # After code 1 of level 1 (-1, 3) and (-9, 1) are left.
    assert RESIDUAL.costs(1, ROWS, CODES).tolist() == [[10, 8, 2], [82, 100, 82]]
    assert RESIDUAL.prefix_costs(ROWS, CODES).tolist() == [2, 100]
    assert RESIDUAL.prefix_costs(ROWS, CODES[:, :1]).tolist() == [10, 82]


def test_a_parallel_space_looks_at_each_level_alone() -> None:
    assert PARALLEL.costs(0, ROWS, CODES).tolist() == [[0, -30], [0, -10]]
    assert PARALLEL.costs(1, ROWS, CODES).tolist() == [[0, -5, -10], [0, -2, 0]]
    assert PARALLEL.prefix_costs(ROWS, CODES).tolist() == [-30 - 10, -10 - 2]


def test_costs_are_float32_and_never_below_zero() -> None:
    # Far from the origin ||z||² - 2 z·e + ||e||² loses its last digits.
    rng = np.random.default_rng(0)
    book = (rng.normal(size=(50, 7)) + 300).astype(np.float32)
    costs = CodeSpace(book.copy(), (book,), True).costs(0, np.arange(50), np.zeros((50, 1), int))
    assert (costs.dtype, costs.shape) == (np.float32, (50, 50))
    assert costs.min() == 0


def test_without_a_space_everything_costs_the_same() -> None:
    equal = EqualCosts((2, 3))
    assert equal.costs(1, ROWS, CODES).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert equal.prefix_costs(ROWS, CODES).tolist() == [0, 0]


@pytest.mark.parametrize("space", [RESIDUAL, PARALLEL])
def test_a_file_gives_back_the_same_space(tmp_path: Path, space: CodeSpace) -> None:
    path = tmp_path / "a.space.safetensors"
    space.taken([1, 0]).save(path)
    loaded = CodeSpace.load(path)
    assert list(tmp_path.iterdir()) == [path]
    assert np.array_equal(loaded.latents, space.latents[::-1])
    assert loaded.residual == space.residual
    assert (loaded.sizes, loaded.n_items) == ((2, 3), 2)
    for ours, theirs in zip(loaded.codebooks, space.codebooks, strict=True):
        assert np.array_equal(ours, theirs)
        assert ours.dtype == np.float32


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.space.safetensors"
    with pytest.raises(InputError, match=r"a.space.safetensors' cannot be read \(No such file"):
        CodeSpace.load(path)
    path.write_bytes(b"junk")
    with pytest.raises(InputError, match="has no checksum of recbole_sid"):
        CodeSpace.load(path)
    with seals.written_sealed(path) as temporary:
        temporary.write_bytes(b"junk" * 9 + seals.blank().encode())
    with pytest.raises(InputError, match=r"space.safetensors: cannot be read as safetensors \("):
        CodeSpace.load(path)
    latents = RESIDUAL.latents
    head = {"format": "recbole-sid-space residual"}
    for tensors, metadata, message in [
        ({"latents": latents}, None, "holds the tensors 'latents', but must hold"),
        ({"latents": latents, "codebook_2": BOOKS[0]}, head, "'codebook_2', 'latents', but must"),
        (
            {"latents": latents, "codebook_1": BOOKS[0]},
            {"format": "recbole-sid-space other"},
            "must hold",
        ),
        ({"latents": latents}, head, "a space of 0 levels"),
        ({"latents": latents, "codebook_1": latents.astype(float)}, head, "'codebook_1' is float"),
    ]:
        write_tensors(path, tensors, metadata)
        with pytest.raises(InputError, match=message):
            CodeSpace.load(path)
    with pytest.raises(InputError, match=r"space .*: cannot be written"):
        RESIDUAL.save(tmp_path / "absent" / "a.space.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"residual": False}, r"shape \(2, 2\), but must have \(items, levels, d\)"),
        ({"latents": np.zeros((2, 2, 2), np.float32)}, r"must have \(items, d\)"),
        ({"latents": np.zeros(2, np.float32)}, r"must have \(items, d\)"),
        ({"latents": np.zeros((0, 2), np.float32)}, "'latents' is float32 .* not empty"),
        ({"latents": np.zeros((2, 2))}, "'latents' is float64"),
        ({"latents": np.full((2, 2), np.nan, np.float32)}, "'latents' holds numbers that are not"),
        ({"latents": np.full((2, 2), 1e16, np.float32)}, "'latents' holds numbers that are not"),
        ({"codebooks": ()}, "a space of 0 levels"),
        ({"codebooks": (BOOKS[0], np.zeros((4, 3), np.float32))}, r"'codebook_2' is .* \(4, 3\)"),
        ({"codebooks": (np.zeros(2, np.float32),)}, r"'codebook_1' is .* \(2,\)"),
        ({"codebooks": (-np.full((1, 2), np.inf, np.float32),)}, "'codebook_1' holds numbers"),
    ],
)
def test_bad_spaces(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"latents": RESIDUAL.latents, "codebooks": BOOKS, "residual": True}
    with pytest.raises(InputError, match=message):
        CodeSpace(**{**fields, **change})


def test_many_items_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, codes = rng.permutation(7), rng.integers(0, 2, (7, 2))
    for residual in (True, False):
        shape = (7, 2) if residual else (7, 2, 2)
        space = CodeSpace(rng.integers(-4, 5, shape).astype(np.float32), BOOKS, residual)
        whole = space.prefix_costs(rows, codes)
        monkeypatch.setattr("recbole_sid.sid.space.ROWS", 3)
        assert space.prefix_costs(rows, codes).tolist() == whole.tolist()
        monkeypatch.undo()


def test_mean_and_spread_of_what_items_pay() -> None:
    # (1, 1) - (0, 0) - (0, 2) is (1, -1); (9, 3) - (10, 0) - (0, 2) is (-1, 1).
    assert RESIDUAL.spread(np.array([[0, 2], [1, 2]])) == {"mean": 2, "std": 0}
    # Item 0 pays 2 as before, item 1 with (9, 3) - (10, 0) - (0, 0) pays 10.
    assert RESIDUAL.spread(np.array([[0, 2], [1, 0]])) == {"mean": 6, "std": 4}
