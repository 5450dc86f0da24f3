"""Products with rows that are looked up, forward and backward without a copy of what was found.

Of a table with thousands of rows a batch needs few products. All of a matrix product is in vain but
for these; looking the rows up and multiplying them moves each number several times. Both are some
seven times slower than a sum over a bag of rows with a weight each, and all that is wanted here is
such a sum or its derivative. Float32, whatever autocast says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Bags(NamedTuple):
    """Which rows of a table are in which of n bags, from both sides."""

    rows: Tensor  # the rows of all bags, bag after bag
    offsets: Tensor  # (n,) where each bag begins in ``rows``
    bag_of_row: Tensor  # (table rows, L) the at most L bags of each row, any where it has fewer
    share_of_row: Tensor  # (table rows, L) float32, 1 / rows of that bag, 0 where there is none


def inner_products(query: Tensor, table: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """The inner product (M,) of ``query[rows]`` and ``table[places]``, float32.

    Args:
        query: (N, width).
        table: (nodes, width).
        rows: (M,) rising.
        places: (M,).
    """
    return _InnerProducts.apply(query.float(), table.float(), rows, places)


def bag_means(table: Tensor, bags: Bags) -> Tensor:
    """The mean (n, width) of the rows of ``table`` that are in each of n ``bags``, float32."""
    return _BagMeans.apply(table.float(), *bags)


class _InnerProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, table: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(query, table, rows, places)
        # The sum over bags is linear in its weights: its derivative by them, towards ``query``,
        # is the wanted product.
        with torch.enable_grad():
            weights = query.new_zeros(len(rows), requires_grad=True)
            summed = _weighted(table, places, rows, len(query), weights)
        return torch.autograd.grad(summed, weights, query)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, table, rows, places = ctx.saved_tensors
        grad = grad.contiguous()
        to_query = _weighted(table, places, rows, len(query), grad)
        order = torch.argsort(places, stable=True)
        to_table = _weighted(query, rows[order], places[order], len(table), grad[order])
        return to_query, to_table, None, None


class _BagMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        rows: Tensor,
        offsets: Tensor,
        bag_of_row: Tensor,
        share_of_row: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(bag_of_row, share_of_row)
        return F.embedding_bag(rows, table, offsets, mode="mean")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        bag_of_row, share_of_row = ctx.saved_tensors
        shares = share_of_row.to(grad.dtype)
        to_table = F.embedding_bag(bag_of_row, grad, mode="sum", per_sample_weights=shares)
        return to_table, None, None, None, None


def _weighted(table: Tensor, places: Tensor, bags: Tensor, n: int, weights: Tensor) -> Tensor:
    """Sum (n, width) of ``weights * table[places]`` in each of ``n`` bags; ``bags`` rise."""
    sizes = torch.bincount(bags, minlength=n)
    return F.embedding_bag(
        places, table, sizes.cumsum(0) - sizes, mode="sum", per_sample_weights=weights
    )
