from __future__ import annotations

import math

import pytest
import torch

from recbole_sid.tokenizer.contrastive import contrastive_loss

ALL = torch.ones(3, dtype=torch.bool)


def latents(degrees: list[float], lengths: list[float]) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.tensor(lengths).unsqueeze(1) * torch.stack([angles.cos(), angles.sin()], dim=1)


# Cosines of triggers at 0°, 0° and 90° with targets at 0°, 60° and 90°; lengths do not matter:
#   1     0.5       0
#   1     0.5       0
#   0     0.8660    1
TRIGGERS = latents([0, 0, 90], [1, 2, 3])
TARGETS = latents([0, 60, 90], [0.5, 1, 2])


def same(triggers: list[int]) -> torch.Tensor:
    rows = torch.tensor(triggers)
    return rows[:, None] == rows


def test_by_hand():
    # Temperature 0.5 doubles the cosines.
    first = -2 + math.log(math.exp(2) + math.exp(1) + 1)  # 0.4076
    second = -1 + math.log(math.exp(2) + math.exp(1) + 1)  # 1.4076
    third = -2 + math.log(1 + math.exp(math.sqrt(3)) + math.exp(2))
    loss = contrastive_loss(TRIGGERS, TARGETS, same([4, 5, 6]), 0.5, ALL)
    assert loss.item() == pytest.approx((first + second + third) / 3, abs=1e-6)


def test_targets_of_the_same_trigger_are_no_negatives():
    # Samples 0 and 1 have one trigger: neither takes the other's target for a negative.
    first = -2 + math.log(math.exp(2) + 1)
    second = -1 + math.log(math.exp(1) + 1)
    third = -2 + math.log(1 + math.exp(math.sqrt(3)) + math.exp(2))
    loss = contrastive_loss(TRIGGERS, TARGETS, same([4, 4, 6]), 0.5, ALL)
    assert loss.item() == pytest.approx((first + second + third) / 3, abs=1e-6)


def test_samples_without_a_pair_are_negatives_only():
    paired = torch.tensor([True, False, True])
    first = -2 + math.log(math.exp(2) + math.exp(1) + 1)
    third = -2 + math.log(1 + math.exp(math.sqrt(3)) + math.exp(2))
    loss = contrastive_loss(TRIGGERS, TARGETS, same([4, 5, 6]), 0.5, paired)
    assert loss.item() == pytest.approx((first + third) / 2, abs=1e-6)


def test_no_pair_at_all():
    triggers = TRIGGERS.clone().requires_grad_()
    loss = contrastive_loss(triggers, TARGETS, same([4, 4, 4]), 0.5, ~ALL)
    loss.backward()
    assert loss.item() == 0
    assert triggers.grad is not None
    assert not triggers.grad.any()


def test_both_towers_learn():
    triggers, targets = TRIGGERS.clone().requires_grad_(), TARGETS.clone().requires_grad_()
    contrastive_loss(triggers, targets, same([4, 4, 6]), 0.5, ALL).backward()
    for tower in (triggers, targets):
        assert tower.grad is not None
        assert tower.grad.isfinite().all()
        assert tower.grad.abs().sum() > 0
