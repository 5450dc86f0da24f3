from __future__ import annotations

import pytest
import torch

from recbole_sid.tokenizer.losses import (
    codebook_loss,
    commitment_loss,
    mean_squared_length,
    reconstruction_loss,
)


def test_reconstruction_is_summed_over_dimensions_and_averaged_over_the_batch():
    original = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    decoded = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], requires_grad=True)
    loss = reconstruction_loss(decoded, original)
    assert loss.item() == pytest.approx((4 + 9 + 3) / 2)
    loss.backward()
    # d/dx' = 2 (x' - x) / B
    assert decoded.grad.tolist() == [[0, -2, -3], [1, 1, 1]]


def level_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals and code vectors for three items, two levels, one dimension."""
    residuals = torch.tensor([[[3.0], [1.0]], [[0.0], [2.0]], [[1.0], [4.0]]], requires_grad=True)
    chosen = torch.tensor([[[1.0], [1.0]], [[0.0], [-1.0]], [[1.0], [1.0]]], requires_grad=True)
    return residuals, chosen


def test_codebook_loss_moves_only_code_vectors():
    residuals, chosen = level_pair()
    loss = codebook_loss(residuals, chosen)
    assert loss.item() == pytest.approx((4 + 0 + 0 + 9 + 0 + 9) / 3)
    loss.backward()
    assert residuals.grad is None
    assert chosen.grad.flatten().tolist() == pytest.approx([-4 / 3, 0, 0, -2, 0, -2])


def test_commitment_loss_moves_only_residuals():
    residuals, chosen = level_pair()
    loss = commitment_loss(residuals, chosen)
    assert loss.item() == pytest.approx((4 + 0 + 0 + 9 + 0 + 9) / 3)
    loss.backward()
    assert chosen.grad is None
    assert residuals.grad.flatten().tolist() == pytest.approx([4 / 3, 0, 0, 2, 0, 2])


def test_squared_lengths_are_the_loss_of_a_decoder_that_gives_zero():
    vectors = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, -4.0]])
    assert mean_squared_length(vectors).item() == pytest.approx((14 + 16) / 2)
    zero = torch.zeros_like(vectors)
    assert reconstruction_loss(zero, vectors).item() == mean_squared_length(vectors).item()
