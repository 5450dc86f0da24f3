from __future__ import annotations

import pytest
import torch

from recbole_sid.tokenizer.losses import codebook_loss, commitment_loss, reconstruction_loss


def test_reconstruction_is_summed_over_dimensions_and_averaged_over_the_batch():
    original = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    decoded = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], requires_grad=True)
    loss = reconstruction_loss(decoded, original)
    assert loss.item() == pytest.approx((4 + 9 + 3) / 2)
    loss.backward()
    # d/dx' = 2 (x' - x) / B
    assert decoded.grad.tolist() == [[0, -2, -3], [1, 1, 1]]


def level_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals and code vectors for two items, two levels, one dimension."""
    residuals = torch.tensor([[[3.0], [1.0]], [[0.0], [2.0]]], requires_grad=True)
    chosen = torch.tensor([[[1.0], [1.0]], [[0.0], [-1.0]]], requires_grad=True)
    return residuals, chosen


def test_codebook_loss_moves_only_code_vectors():
    residuals, chosen = level_pair()
    loss = codebook_loss(residuals, chosen)
    assert loss.item() == pytest.approx((4 + 0 + 0 + 9) / 2)
    loss.backward()
    assert residuals.grad is None
    assert chosen.grad.flatten().tolist() == [-2, 0, 0, -3]


def test_commitment_loss_moves_only_residuals():
    residuals, chosen = level_pair()
    loss = commitment_loss(residuals, chosen)
    assert loss.item() == pytest.approx((4 + 0 + 0 + 9) / 2)
    loss.backward()
    assert chosen.grad is None
    assert residuals.grad.flatten().tolist() == [2, 0, 0, 3]
