from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recbole_sid.tokenizer.blocks import BLOCK_ROWS, in_blocks, product


@pytest.mark.parametrize("n_rows", [1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS])
def test_rows_come_back_in_order_and_blocks_have_one_shape(n_rows):
    rows = np.arange(2 * n_rows, dtype=np.float32).reshape(n_rows, 2)
    shapes = []

    def sums(block: np.ndarray) -> tuple[np.ndarray, ...]:
        shapes.append(block.shape)
        return block.sum(axis=1).astype(np.int64), block * 10

    found, tens = in_blocks(sums, rows)
    assert found.dtype == np.int64
    assert found.tolist() == [4 * row + 1 for row in range(n_rows)]
    assert np.array_equal(tens, rows * 10)
    assert shapes == [(BLOCK_ROWS, 2)] * -(-n_rows // BLOCK_ROWS)


def test_a_product_of_matrices_is_the_same_for_a_row_alone():
    rng = np.random.RandomState(0)
    rows, matrix = rng.randn(1500, 333).astype(np.float32), rng.randn(333, 77).astype(np.float32)
    for right in (matrix, np.ascontiguousarray(matrix.T).T):
        whole = product(rows, right)
        np.testing.assert_allclose(whole, rows @ right, rtol=1e-4, atol=1e-4)
        for row in (0, 5, 6, 13, 700, 1023, 1024, 1499):
            assert np.array_equal(product(rows[row : row + 1], right)[0], whole[row])


def test_a_block_of_torch_is_the_same_for_a_row_alone():
    torch.manual_seed(0)
    widths = [384, 512, 256, 128, 32]  # of rqvae's encoder
    linear = [torch.nn.Linear(*pair) for pair in itertools.pairwise(widths)]
    layers = torch.nn.Sequential(*linear)
    rows = np.random.RandomState(0).randn(1500, 384).astype(np.float32)

    def encoded(block: np.ndarray) -> tuple[np.ndarray]:
        with torch.no_grad():
            return (layers(torch.from_numpy(block)).numpy(),)

    (whole,) = in_blocks(encoded, rows)
    for row in (0, 5, 6, 13, 700, 1023, 1024, 1499):
        (alone,) = in_blocks(encoded, rows[row : row + 1])
        assert np.array_equal(alone[0], whole[row])
