from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recbole_sid.tokenizer.unisid_losses import (
    balance_loss,
    embedding_loss,
    level_directions,
    multi_granularity_loss,
)


def at(*degrees: float) -> Tensor:
    """Unit vectors in the plane, (N, 2)."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


# Samples at 0°, 60°, 90° and 180°; t = 0.5 doubles their cosines:
#        0     1     2     3
#   0          1     0    -2
#   1    1           √3   -1
#   2    0     √3          0
# so that the denominators of the first three are
ROOT = math.sqrt(3)
TOTAL_0 = math.log(math.exp(1) + 1 + math.exp(-2))
TOTAL_1 = math.log(math.exp(1) + math.exp(ROOT) + math.exp(-1))
TOTAL_2 = math.log(1 + math.exp(ROOT) + 1)
PLANE = at(0, 60, 90, 180).unsqueeze(1)  # (4, 1, 2)
DISTINCT = torch.arange(4)


def test_contrast_by_hand():
    directions = PLANE.repeat(1, 3, 1)
    labels = torch.tensor([[0, 5, -1], [0, -1, -1], [0, 5, -1], [-1, -1, -1]])
    losses, anchors = multi_granularity_loss(directions, labels, DISTINCT, 0.5, 4)
    # Level 1: samples 0, 1, 2 are positives of each other; the mean is over these three.
    first = [TOTAL_0 - (1 + 0) / 2, TOTAL_1 - (1 + ROOT) / 2, TOTAL_2 - (0 + ROOT) / 2]
    # Level 2: samples 0 and 2 only. Level 3: none, although all have the label -1.
    second = [TOTAL_0 - 0, TOTAL_2 - 0]
    expected = [sum(first) / 3, sum(second) / 2, 0]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))
    assert anchors.tolist() == [3, 2, 0]


def test_a_second_view_is_a_positive():
    labels = torch.full((4, 1), -1)
    losses, anchors = multi_granularity_loss(PLANE, labels, torch.tensor([7, 8, 7, 9]), 0.5, 4)
    assert losses.item() == pytest.approx((TOTAL_0 + TOTAL_2) / 2)
    assert anchors.tolist() == [2]


def test_only_the_first_are_anchors():
    labels = torch.tensor([[0], [0], [0], [-1]])
    losses, anchors = multi_granularity_loss(PLANE, labels, DISTINCT, 0.5, 2)
    assert losses.item() == pytest.approx((TOTAL_0 - 0.5 + TOTAL_1 - (1 + ROOT) / 2) / 2)
    assert anchors.tolist() == [2]


def test_targets_are_positives_at_the_last_levels():
    labels = torch.full((4, 2), -1)
    losses, anchors = multi_granularity_loss(
        PLANE.repeat(1, 2, 1), labels, DISTINCT, 0.5, 2, targets=slice(2, 4), pair_levels=1
    )
    # At level 2 sample 0 has its target 2 at cosine 0, and sample 1 its target 3 at twice -1/2.
    assert losses.tolist() == pytest.approx([0, (TOTAL_0 - 0 + TOTAL_1 + 1) / 2])
    assert anchors.tolist() == [0, 2]


def test_negatives_that_a_code_tells_apart_weigh_less_from_the_next_level_on():
    directions = PLANE.repeat(1, 3, 1)
    labels = torch.tensor([[0, 0, 0], [0, 0, 0], [-1, -1, -1], [-1, -1, -1]])
    codes = torch.tensor([[5, 1, 1], [6, 1, 1], [7, 1, 1], [5, 2, 1]])
    weighed = {"codes": codes, "apart_weight": 0.5}
    losses, _ = multi_granularity_loss(directions, labels, DISTINCT, 0.5, 2, **weighed)
    # Sample 0 has 2 apart from it by the first code, and 3 by the second; sample 1 has both apart
    # by the first. Each other's positives, 0 and 1 count in full, although their codes differ.
    second = [
        math.log(math.exp(1) + 0.5 + math.exp(-2)) - 1,
        math.log(math.exp(1) + 0.5 * math.exp(ROOT) + 0.5 * math.exp(-1)) - 1,
    ]
    third = [math.log(math.exp(1) + 0.5 + 0.5 * math.exp(-2)) - 1, second[1]]
    first = [TOTAL_0 - 1, TOTAL_1 - 1]
    assert losses.tolist() == pytest.approx([sum(first) / 2, sum(second) / 2, sum(third) / 2])
    # At 0 they do not count at all: sample 1 has no negative left.
    losses, _ = multi_granularity_loss(
        directions, labels, DISTINCT, 0.5, 2, codes=codes, apart_weight=0.0
    )
    assert losses[2].item() == pytest.approx(0)


def test_levels_have_their_own_directions():
    # Level 2 has sample 1 where level 1 has it not: at 90°, with cosine 0 to both others.
    directions = torch.stack([at(0, 0, 90), at(0, 90, 180)], dim=1)
    labels = torch.tensor([[0, 0], [0, 0], [-1, -1]])
    losses, _ = multi_granularity_loss(directions, labels, torch.arange(3), 1.0, 3)
    # Level 1: positives at cosine 1, the other at 0. Level 2: anchor 0 has 0 and -1, anchor 1 has
    # 0 and 0.
    first = math.log(math.e + 1) - 1
    second = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    torch.testing.assert_close(losses, torch.tensor([first, second], dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 3])
def test_no_positive_at_all(n):
    directions = torch.randn(n, 2, 5, requires_grad=True)
    labels = torch.full((n, 2), -1)
    losses, anchors = multi_granularity_loss(directions, labels, torch.arange(n), 0.1, n)
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert anchors.tolist() == [0, 0]
    assert directions.grad is not None
    assert not directions.grad.any()


@pytest.mark.parametrize("similarity", ["logits", "probabilities"])
def test_contrast_gradients(similarity):
    torch.manual_seed(0)
    logits = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 0], [0, 0], [0, -1], [1, -1], [1, 1], [-1, 1]])
    rows = torch.tensor([0, 1, 2, 3, 4, 0])

    def losses(logits: Tensor) -> Tensor:
        directions = level_directions(logits, similarity, 0.7)
        return multi_granularity_loss(directions, labels, rows, 0.3, 5).losses

    assert torch.autograd.gradcheck(losses, logits)


@pytest.mark.parametrize(("similarity", "changes"), [("logits", False), ("probabilities", True)])
def test_rotated_logits(similarity, changes):
    """The paper's objective does not say which axis is a code; that on probabilities does."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(12, 2, 8, dtype=torch.float64)
    labels = torch.tensor([[row // 4, row // 2] for row in range(12)])
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    rotated = logits.clone()
    rotated[:, 1] = logits[:, 1] @ rotation
    losses, turned = (
        multi_granularity_loss(
            level_directions(values, similarity, 1.0), labels, torch.arange(12), 0.1, 12
        ).losses
        for values in (logits, rotated)
    )
    assert (logits[:, 1].argmax(dim=1) != rotated[:, 1].argmax(dim=1)).any()
    assert turned[0].item() == pytest.approx(losses[0].item(), abs=1e-12)
    if changes:
        assert abs(turned[1] - losses[1]) > 0.1
    else:
        assert turned[1].item() == pytest.approx(losses[1].item(), abs=1e-12)


def test_directions_of_logits():
    logits = torch.tensor([[[3.0, 4.0], [0.0, -2.0]]])
    expected = torch.tensor([[[0.6, 0.8], [0.0, -1.0]]])
    torch.testing.assert_close(level_directions(logits, "logits", 0.1), expected)


def test_directions_of_probabilities():
    logits = torch.tensor([[[0.0, math.log(3)]]])
    # Probabilities 1/4 and 3/4; at temperature 1/2 1/10 and 9/10.
    for temperature, ratio in ((1.0, 3), (0.5, 9)):
        expected = torch.tensor([[[1.0, ratio]]]) / math.sqrt(1 + ratio**2)
        torch.testing.assert_close(level_directions(logits, "probabilities", temperature), expected)


def test_balance_by_hand():
    a, b = math.log(0.25), math.log(0.75)
    logits = torch.tensor(
        [
            [[a, b], [a, b], [9e4, 0.0]],
            [[b, a], [a, b], [9e4, 0.0]],
        ]
    )
    # Means of the two: (1/2, 1/2); (1/4, 3/4) with entropy 0.562335; (1, 0) with entropy 0.
    expected = torch.tensor([0, math.log(2) - 0.562335, math.log(2)])
    torch.testing.assert_close(balance_loss(logits, 1.0), expected, atol=1e-6, rtol=0)


def test_balance_takes_a_temperature():
    # At temperature 1/2 ln 3 becomes ln 9: (1/10, 9/10), entropy 0.325083.
    logits = torch.tensor([[[0.0, math.log(3)]]])
    assert balance_loss(logits, 0.5).item() == pytest.approx(math.log(2) - 0.325083, abs=1e-6)


def test_balance_gradients():
    torch.manual_seed(0)
    logits = torch.randn(4, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: balance_loss(logits, 0.5), logits)


def test_balance_of_certain_items_has_a_finite_gradient():
    logits = torch.tensor([[[9e4, 0.0, 0.0]], [[9e4, 9e4, 0.0]]], requires_grad=True)
    balance_loss(logits, 1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # The second item leans on code 0, which has 3/4 of the mass: less of it would help.
    assert logits.grad[1, 0, 0] > 0
    assert logits.grad[1, 0, 1] < 0


def test_embedding_by_hand():
    anchors, positives = at(0, 0, 90), at(0, 60, 90)
    paired = torch.tensor([True, True, False])
    # Anchors 0 and 1 have one item for a positive: neither is a negative of the other's. At t = 0.5
    # anchor 0 has 2 against 0, anchor 1 has 1 against 0; anchor 2 is left out.
    rows = torch.tensor([1, 2, 3])
    loss = embedding_loss(anchors, positives, rows, torch.tensor([4, 4, 6]), 0.5, paired)
    expected = (math.log(math.exp(2) + 1) - 2 + math.log(math.exp(1) + 1) - 1) / 2
    assert loss.item() == pytest.approx(expected)
    # If the positive of anchor 2 is anchor 0 itself, it is no negative of that: exp(0) goes.
    itself = embedding_loss(anchors, positives, rows, torch.tensor([4, 4, 1]), 0.5, paired)
    without = (math.log(math.exp(2)) - 2 + math.log(math.exp(1) + 1) - 1) / 2
    assert itself.item() == pytest.approx(without)
