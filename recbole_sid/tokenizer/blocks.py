"""The same arithmetic for every row, whichever rows it comes with.

A product of matrices rounds by its shape: a row alone and the same row among a thousand differ in
the last bits, and now and then in a code. In blocks of one shape a row always comes out the same
from torch. NumPy's library also rounds by the place of a row in its block, on some processors, so
that its products go row by row (:func:`product`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK_ROWS = 1024


def in_blocks(
    function: Callable[[np.ndarray], tuple[np.ndarray, ...]], rows: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What ``function`` makes of ``rows`` (n, d), n at least 1; it only sees (BLOCK_ROWS, d).

    Args:
        function: takes a block and gives arrays of as many rows, each row by itself. Zeros fill the
            last block, and what it makes of them is dropped.

    Returns:
        The arrays of ``function``, n rows each.
    """
    n_rows = len(rows)
    whole: tuple[np.ndarray, ...] = ()
    for start in range(0, n_rows, BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        size = len(part)
        if size < BLOCK_ROWS:
            part = np.concatenate([part, np.zeros((BLOCK_ROWS - size, rows.shape[1]), rows.dtype)])
        found = function(part)
        if not whole:
            whole = tuple(np.empty((n_rows, *one.shape[1:]), one.dtype) for one in found)
        for target, values in zip(whole, found, strict=True):
            target[start : start + size] = values[:size]
    return whole


def product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``rows`` (n, d) times ``matrix`` (d, k): (n, k), each row as if it were alone.

    Up to twice as slow as the plain product.
    """
    return np.matmul(rows[:, None], matrix)[:, 0]
