from __future__ import annotations

import math

import pytest
import torch

from recbole_sid.tokenizer.mmq_losses import (
    alignment_loss,
    alignment_strength,
    content_loss,
    current_sparsity,
    damping_threshold,
    info_nce,
    next_penalty,
    orthogonality_loss,
    reconstruction_loss,
    richness,
    sparsity_loss,
    target_sparsity,
)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_richness_is_the_place_between_the_least_and_the_greatest_norm():
    norms = torch.tensor([2.0, 3.0, 6.0, 0.0, 9.0])
    assert richness(norms, scalar(2.0), scalar(6.0)).tolist() == [0, 0.25, 1, 0, 1]
    assert richness(norms, scalar(2.0), scalar(2.0)).tolist() == [0] * 5


def test_strength_by_hand_and_as_published():
    # Slope 2, threshold 1: the sigmoids of -1, 0 and 1 over that of 1.
    strength = alignment_strength(torch.tensor([0.0, 0.5, 1.0]), 2.0, scalar(1.0))
    assert strength.tolist() == pytest.approx([math.exp(-1), 0.5 * (1 + math.exp(-1)), 1])
    norms = torch.tensor([0.4, 0.9, 1.0])
    rare, half, rich = alignment_strength(norms, 10.0, scalar(9.0)).tolist()
    assert rare == pytest.approx(0.0067 / 0.7311, abs=1e-4)
    assert half == pytest.approx(0.5 / 0.7311, abs=1e-4)
    assert rich == 1


def test_the_share_that_is_damped_says_where_the_middle_is():
    rich = torch.tensor([0.5, 0.0, 0.25, 1.0, 0.75])
    assert damping_threshold(rich, 10.0, 0.5).item() == 5  # 10 · the median
    # Two of five below: from 0.25 and 0.5, ranks 1 and 2, to rank 0.4 · 4 = 1.6.
    threshold = damping_threshold(rich, 10.0, 0.4)
    assert threshold.item() == pytest.approx(4.0)
    strength = alignment_strength(rich, 10.0, threshold)
    most = 1 / (1 + math.exp(-6))
    expected = [1 / (1 + math.exp(4 - 10 * n)) / most for n in rich.tolist()]
    assert strength.tolist() == pytest.approx(expected)
    assert (strength > 0.5).tolist() == [True, False, False, True, True]
    # As published, on norms like those here, it is nearly off for all but one.
    assert alignment_strength(rich, 10.0, scalar(9.0)).mean().item() == pytest.approx(
        (0.01799 + 0.00012 + 0.0015 + 0.73106 + 0.18243) / 0.73106 / 5, abs=1e-3
    )
    alike = damping_threshold(torch.zeros(3), 10.0, 0.4)
    assert alignment_strength(torch.zeros(3), 10.0, alike).tolist() == pytest.approx(
        [0.5] * 3, abs=1e-4
    )


def test_info_nce_by_hand():
    # Cosines: 1, 0.6; 0, 0.8. Lengths do not count.
    anchors = torch.tensor([[2.0, 0], [0, 3]])
    targets = torch.tensor([[5.0, 0], [0.6, 0.8]])
    losses = info_nce(anchors, targets, 0.5)
    expected = [
        -2 + math.log(math.exp(2) + math.exp(1.2)),
        -1.6 + math.log(math.exp(0) + math.exp(1.6)),
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_content_goes_both_ways_over_items_that_have_both():
    text = torch.tensor([[1.0, 0], [7, 7], [0, 1]], requires_grad=True)
    images = torch.tensor([[1.0, 0], [0, 0], [0.6, 0.8]], requires_grad=True)
    loss = content_loss(text, images, 1.0, torch.tensor([True, False, True]))
    forth = [-1 + math.log(math.exp(1) + math.exp(0.6)), -0.8 + math.log(1 + math.exp(0.8))]
    back = [-1 + math.log(math.exp(1) + 1), -0.8 + math.log(math.exp(0.6) + math.exp(0.8))]
    assert loss.item() == pytest.approx(sum(forth + back) / 2, rel=1e-5)
    loss.backward()
    for side in (text, images):
        assert side.grad.isfinite().all()
        assert side.grad.any(dim=1).tolist() == [True, False, True]


def test_alignment_weighs_items_by_their_strength():
    behaviour = torch.tensor([[1.0, 0], [0, 0], [0, 1]], requires_grad=True)
    content = torch.tensor([[1.0, 0], [3, 3], [0.6, 0.8]], requires_grad=True)
    known = torch.tensor([True, False, True])
    loss = alignment_loss(behaviour, content, torch.tensor([0.25, 9, 1]), 1.0, known)
    first = -1 + math.log(math.exp(1) + math.exp(0.6))
    last = -0.8 + math.log(1 + math.exp(0.8))
    assert loss.item() == pytest.approx((0.25 * first + last) / 2, rel=1e-5)
    loss.backward()
    assert behaviour.grad.any(dim=1).tolist() == [True, False, True]
    assert content.grad.any(dim=1).tolist() == [True, False, True]


def test_nothing_to_contrast_costs_nothing():
    side = torch.ones(2, 3, requires_grad=True)
    nobody = torch.zeros(2, dtype=torch.bool)
    loss = content_loss(side, side.detach(), 0.1, nobody)
    loss = loss + alignment_loss(side, side.detach(), torch.ones(2), 0.1, nobody)
    loss.backward()
    assert loss.item() == 0
    assert not side.grad.any()


def test_reconstruction_is_over_what_is_there():
    text = torch.tensor([[1.0, 2], [0, 1]])
    image = torch.tensor([[3.0], [0]])
    decoded = [torch.tensor([[0.0, 0], [0, 3]]), torch.tensor([[1.0], [5]])]
    present = [torch.tensor([True, True]), torch.tensor([True, False])]
    # Squared errors: 5 and 4 of the text; 4 of the one image.
    loss = reconstruction_loss(decoded, [text, image], present, [1.0, 10.0])
    assert loss.item() == pytest.approx((5 + 4 + 10 * 4) / 2)


def test_sparsity_by_hand():
    routed = torch.tensor([[0.0, 2.0], [1.0, 0.5], [0.0, 0.0], [0.0, 1.5]])
    assert current_sparsity(routed).item() == 0.5
    # sparsity · (1 - N_norm): 0.6, 0.3, 0 and 0.3.
    target = target_sparsity(torch.tensor([0.0, 0.5, 1.0, 0.5]), 0.6)
    assert target.item() == pytest.approx(0.3)
    # Open to 1/4 and 3/4 of the items; sums 1 and 4.
    expected = (0.25 * 1 + 0.75 * 4) / (1 - 0.3) / 4
    assert sparsity_loss(routed, target).item() == pytest.approx(expected)


def test_a_crowded_expert_is_dearer():
    routed = torch.tensor([[1.0, 1.0], [1.0, 0.0]], requires_grad=True)
    sparsity_loss(routed, scalar(0.5)).backward()
    assert routed.grad[0, 0] == 2 * routed.grad[0, 1]


def test_the_penalty_grows_while_the_router_is_too_dense():
    def after(target: float, current: float, most: float = 9.0) -> float:
        found = next_penalty(scalar(2.0), scalar(target), scalar(current), 1.25, 1.8, most)
        return found.item()

    assert after(0.6, 0.5) == pytest.approx(2.5)
    assert after(0.5, 0.6) == pytest.approx(1.8)  # 2 / 1.25 = 1.6 is below the least
    assert after(0.5, 0.5) == 2
    assert after(0.6, 0.5, most=2.25) == 2.25


def test_orthogonality_by_hand():
    first = torch.tensor([[1.0, 0], [0, 2]])
    second = torch.tensor([[3.0], [1]])
    third = torch.tensor([[0.0], [0]])
    # First and second: 3² + 2², counted both ways; what an expert has within itself is free.
    assert orthogonality_loss([first, second, third]).item() == pytest.approx(2 * 13)
    assert orthogonality_loss([first]).item() == pytest.approx(0)
    apart = [torch.tensor([[1.0], [0]]), torch.tensor([[0.0], [5]])]
    assert orthogonality_loss(apart).item() == 0
