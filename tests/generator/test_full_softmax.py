import math

import pytest
import torch
import torch.nn.functional as F

from recbole_sid.generator import full_softmax
from recbole_sid.generator.full_softmax import full_softmax_loss

LN = math.log


def test_the_loss_by_hand():
    # Scores of the first sample 0, ln 2, ln 5, of the second twice that: 0, ln 4, ln 25.
    vectors = torch.tensor([[0.0, 9.0], [LN(2), 0.0], [LN(5), -7.0]])
    hidden = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    loss = full_softmax_loss(hidden, vectors, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((LN(8 / 2) + LN(30 / 25)) / 2, abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 30, 2**24])
def test_it_has_the_gradients_of_cross_entropy(at_once, monkeypatch):
    monkeypatch.setattr(full_softmax, "SCORES_AT_ONCE", at_once)
    torch.manual_seed(0)
    hidden = torch.randn(7, 4, requires_grad=True)
    vectors = torch.randn(12, 4, requires_grad=True)
    targets = torch.tensor([0, 11, 3, 3, 5, 9, 1])
    mine = full_softmax_loss(hidden, vectors, targets)
    other = F.cross_entropy(hidden @ vectors.T, targets)
    torch.testing.assert_close(mine, other)
    for one, two in zip(
        torch.autograd.grad(3 * mine, [hidden, vectors]),
        torch.autograd.grad(3 * other, [hidden, vectors]),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


def test_under_autocast_is_near_the_float32_one():
    torch.manual_seed(0)
    hidden, vectors = torch.randn(9, 8), torch.randn(40, 8, requires_grad=True)
    targets = torch.arange(9)
    exact = full_softmax_loss(hidden, vectors, targets)
    (expected,) = torch.autograd.grad(exact, vectors)
    with torch.autocast("cpu", torch.bfloat16):
        loss = full_softmax_loss(hidden, vectors, targets)
    (slope,) = torch.autograd.grad(loss, vectors)
    assert slope.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    torch.testing.assert_close(slope, expected, rtol=0.05, atol=0.005)
