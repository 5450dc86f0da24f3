"""The losses of H2Rec against values worked out by hand."""

import math

import pytest
import torch

from recbole_sid.generator.h2rec_losses import code_alignment_loss, granularity_loss

LN = math.log


def test_code_alignment_by_hand():
    # Temperature 1 / ln 2: a cosine of 1 counts 2, of 0 counts 1, of -1 counts 1/2.
    hid = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    sid = torch.tensor([[5.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    near = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    # c = [[1, 1, 0], [0, 0, 1], [0, 0, -1]], so exp(c / t) = [[2, 2, 1], [1, 1, 2], [1, 1, 1/2]].
    hid_to_sid = [LN(5 / 4), LN(4 / 2), LN(2.5 / 0.5)]
    sid_to_hid = [LN(4 / 3), LN(4 / 3), LN(3.5 / 0.5)]
    expected = (sum(hid_to_sid) / 3 + sum(sid_to_hid) / 3) / 2
    assert code_alignment_loss(hid, sid, near, 1 / LN(2)).item() == pytest.approx(expected)


def test_code_alignment_draws_a_hid_to_the_vectors_of_its_neighbours():
    # Item 1's HID stands at a right angle to (1, 0), the SID vector of item 0.
    hid = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], requires_grad=True)
    sid = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    towards = []
    for neighbours in (True, False):
        near = torch.eye(3, dtype=torch.bool)
        near[0, 1] = near[1, 0] = neighbours
        (slope,) = torch.autograd.grad(code_alignment_loss(hid, sid, near, 0.5), hid)
        towards.append(-slope[1, 0].item())
    assert towards[0] > 0 > towards[1]


def test_granularity_by_hand():
    masked = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    whole = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    users = torch.tensor([4, 4, 9])
    # exp(c / t) = [[2, 1, 1], [1, 2, 1/2], [2, 1, 1]]; rows 0 and 1 are of one user.
    there = [LN(3 / 2), LN(2.5 / 2), LN(4 / 1)]
    back = [LN(4 / 2), LN(3 / 2), LN(2.5 / 1)]
    expected = (sum(there) / 3 + sum(back) / 3) / 2
    assert granularity_loss(masked, whole, users, 1 / LN(2)).item() == pytest.approx(expected)


def test_under_autocast_both_are_float32():
    torch.manual_seed(0)
    sides = [torch.randn(40, 16, requires_grad=True) for _ in range(2)]
    near = torch.eye(40, dtype=torch.bool)
    users = torch.arange(40) // 2
    for loss, third in ((code_alignment_loss, near), (granularity_loss, users)):
        exact = loss(*sides, third, 0.05)
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(*sides, third, 0.05)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), abs=1e-6)
        for one, two in zip(
            torch.autograd.grad(found, sides), torch.autograd.grad(exact, sides), strict=True
        ):
            torch.testing.assert_close(one, two)


def test_granularity_of_one_history_is_nothing():
    one = torch.randn(1, 4)
    assert granularity_loss(one, -one, torch.tensor([3]), 0.1).item() == 0
