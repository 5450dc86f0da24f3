from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_sid.tokenizer.letter_losses import alignment_loss, diversity_loss


def test_alignment_by_hand():
    quantized = torch.tensor([[1.0, 0], [0, 2], [1, 1]])
    behaviour = torch.tensor([[2.0, 0], [0, 1], [3, -1]])
    # Inner products: 2, 0, 3; 0, 2, -2; 2, 1, 2.
    losses = [
        -2 + math.log(math.exp(2) + 1 + math.exp(3)),
        -2 + math.log(1 + math.exp(2) + math.exp(-2)),
        -2 + math.log(2 * math.exp(2) + math.exp(1)),
    ]
    found = alignment_loss(quantized, behaviour, torch.ones(3, dtype=torch.bool))
    assert found.item() == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_items_without_behaviour_are_neither_drawn_nor_negatives():
    quantized = torch.tensor([[1.0, 0], [5, 5], [1, 1]], requires_grad=True)
    behaviour = torch.tensor([[2.0, 0], [0, 0], [3, -1]])
    loss = alignment_loss(quantized, behaviour, torch.tensor([True, False, True]))
    losses = [-2 + math.log(math.exp(2) + math.exp(3)), -2 + math.log(2 * math.exp(2))]
    assert loss.item() == pytest.approx(sum(losses) / 2, rel=1e-6)
    loss.backward()
    assert quantized.grad is not None
    assert quantized.grad.isfinite().all()
    assert quantized.grad.any(dim=1).tolist() == [True, False, True]


def test_diversity_by_hand():
    codes = torch.tensor([[1.0, 0], [2, 0], [0, 1], [1, 1]], requires_grad=True)
    # Code 0 to its partner 1, against 1, 2 and 3; code 3 to 2, against 0, 1 and 2.
    losses = [
        -2 + math.log(math.exp(2) + math.exp(0) + math.exp(1)),
        -1 + math.log(math.exp(1) + math.exp(2) + math.exp(1)),
    ]
    loss = diversity_loss(codes, torch.tensor([0, 3, 1]), torch.tensor([1, 2, -1]))
    assert loss.item() == pytest.approx(sum(losses) / 2, rel=1e-6)
    loss.backward()
    assert codes.grad is not None
    assert codes.grad.isfinite().all()


def test_a_chosen_code_moves_towards_its_partner():
    start = torch.tensor([[1.0, 0], [0.9, 0.3], [-1, 0], [0, -1]])
    codes = start.clone().requires_grad_()
    diversity_loss(codes, torch.tensor([0]), torch.tensor([1])).backward()
    assert codes.grad is not None
    moved = start - 0.1 * codes.grad
    nearer = [(moved[0] - moved[1]).norm(), (start[0] - start[1]).norm()]
    assert nearer[0] < nearer[1]
    assert moved[0] @ moved[2] < start[0] @ start[2]


def test_nothing_to_compare_costs_nothing():
    vectors = torch.from_numpy(np.ones((2, 3), np.float32)).requires_grad_()
    alignment = alignment_loss(vectors, vectors.detach(), torch.zeros(2, dtype=torch.bool))
    diversity = diversity_loss(vectors, torch.tensor([0, 1]), torch.tensor([-1, -1]))
    (alignment + diversity).backward()
    assert alignment.item() == diversity.item() == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()
