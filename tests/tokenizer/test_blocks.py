from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.tokenizer.blocks import BLOCK_ROWS, in_blocks


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

    def product(block: np.ndarray) -> tuple[np.ndarray]:
        return (block @ matrix,)

    (whole,) = in_blocks(product, rows)
    for row in (0, 700, 1023, 1024, 1499):
        (alone,) = in_blocks(product, rows[row : row + 1])
        assert np.array_equal(alone[0], whole[row])
