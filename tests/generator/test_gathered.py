from __future__ import annotations

import pytest
import torch

from recbole_sid.generator.gathered import Bags, bag_means, inner_products

# Rows 1 and 3 are in bag 0, row 3 alone in bag 1, and row 0 in none.
BAGS = Bags(
    rows=torch.tensor([1, 3, 3]),
    offsets=torch.tensor([0, 2]),
    bag_of_row=torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1]]),
    share_of_row=torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.5, 1.0]]),
)


@pytest.mark.parametrize("grad", [True, False])
def test_products_of_the_pairs_alone(grad):
    query = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with torch.set_grad_enabled(grad):
        rows, places = torch.tensor([0, 0, 2]), torch.tensor([2, 0, 1])
        assert inner_products(query, table, rows, places).tolist() == [3.0, 1.0, 6.0]


def test_gradients_of_products_are_those_of_looking_up_and_multiplying():
    torch.manual_seed(0)
    rows, places = torch.randint(6, (40,)).sort().values, torch.randint(9, (40,))
    weights = torch.randn(40)
    found = []
    for multiply in (inner_products, lambda q, t, r, p: (q[r] * t[p]).sum(dim=1)):
        torch.manual_seed(1)
        query, table = (torch.randn(n, 5, requires_grad=True) for n in (6, 9))
        (multiply(query, table, rows, places) * weights).sum().backward()
        found.append((query.grad, table.grad))
    torch.testing.assert_close(*found)


def test_products_are_float32_under_autocast_and_gradients_of_the_operands_type():
    query = torch.randn(2, 8, dtype=torch.bfloat16, requires_grad=True)
    table = torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = inner_products(query, table, torch.tensor([0, 1]), torch.tensor([2, 0]))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, (query.float() * table[[2, 0]]).sum(dim=1))
    got.sum().backward()
    assert (query.grad.dtype, table.grad.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(table.grad[2], query[0].detach().float())


def test_means_of_bags_and_their_gradients():
    table = torch.tensor([[9.0], [2.0], [9.0], [4.0]], requires_grad=True)
    means = bag_means(table, BAGS)
    assert means.tolist() == [[3.0], [4.0]]
    means.backward(torch.tensor([[10.0], [100.0]]))
    assert table.grad.tolist() == [[0.0], [5.0], [0.0], [105.0]]
