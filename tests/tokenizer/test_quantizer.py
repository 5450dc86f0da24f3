from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.tokenizer.losses import codebook_loss, commitment_loss
from recbole_sid.tokenizer.quantizer import Codebook, ResidualQuantizer


def two_levels(update: str = "gradient") -> ResidualQuantizer:
    """Two levels in the plane: far corners, then steps of one."""
    quantizer = ResidualQuantizer((2, 3), 2, update, 0.5)
    first, second = quantizer.levels
    first.place(torch.arange(2), torch.tensor([[0.0, 0.0], [10.0, 10.0]]))
    second.place(torch.arange(3), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]]))
    return quantizer


def test_quantisation_by_hand():
    latents = torch.tensor([[11.2, 10.0], [0.1, -0.9], [9.0, 10.0]])
    output = two_levels()(latents)
    assert output.codes.tolist() == [[1, 1], [0, 2], [1, 0]]
    residuals = torch.tensor([[1.2, 0.0], [0.1, -0.9], [-1.0, 0.0]])
    torch.testing.assert_close(output.residuals[:, 0], latents)
    torch.testing.assert_close(output.residuals[:, 1], residuals)
    assert output.chosen[:, 0].tolist() == [[10, 10], [0, 0], [10, 10]]
    assert output.chosen[:, 1].tolist() == [[1, 0], [0, -1], [0, 0]]
    torch.testing.assert_close(
        output.quantized, torch.tensor([[11.0, 10.0], [0.0, -1.0], [10.0, 10.0]])
    )


def test_a_tie_goes_to_the_lower_code():
    book = Codebook(3, 1, "gradient", 0.5)
    book.place(torch.arange(3), torch.tensor([[1.0], [-1.0], [1.0]]))
    assert book.nearest(torch.tensor([[0.0], [2.0]])).tolist() == [0, 0]


@given(st.integers(0, 2**32 - 1))
def test_nearest_is_brute_force_and_residuals_add_up(seed):
    generator = torch.Generator().manual_seed(seed)
    quantizer = ResidualQuantizer((4, 3, 5), 2, "gradient", 0.5)
    for book in quantizer.levels:
        vectors = torch.randn(len(book.vectors), 2, generator=generator)
        book.place(torch.arange(len(vectors)), vectors)
    latents = torch.randn(6, 2, generator=generator)
    output = quantizer(latents)
    for level, book in enumerate(quantizer.levels):
        distances = (output.residuals[:, level, None] - book.vectors).square().sum(dim=2)
        best = distances.min(dim=1).values
        got = distances.gather(1, output.codes[:, level, None]).squeeze(1)
        torch.testing.assert_close(got, best, atol=1e-5, rtol=1e-5)
    last = output.residuals[:, -1] - output.chosen[:, -1]
    torch.testing.assert_close(output.quantized + last, latents)


def test_straight_through_gradient_is_the_identity():
    latents = torch.tensor([[11.2, 10.0], [0.1, -0.9]], requires_grad=True)
    quantizer = two_levels()
    upstream = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    quantizer(latents).quantized.backward(upstream)
    assert torch.equal(latents.grad, upstream)
    assert all(book.vectors.grad is None for book in quantizer.levels)


def test_commitment_reaches_the_input_at_every_level_and_no_code_vector():
    latents = torch.tensor([[11.2, 10.0]], requires_grad=True)
    quantizer = two_levels()
    output = quantizer(latents)
    commitment_loss(output.residuals, output.chosen).backward()
    # 2 (r_1 - e_1) + 2 (r_2 - e_2) = 2 (1.2, 0) + 2 (0.2, 0)
    torch.testing.assert_close(latents.grad, torch.tensor([[2.8, 0.0]]))
    assert all(book.vectors.grad is None for book in quantizer.levels)


def test_codebook_loss_moves_each_code_vector_by_its_own_level():
    quantizer = two_levels()
    output = quantizer(torch.tensor([[11.2, 10.0]]))
    codebook_loss(output.residuals, output.chosen).backward()
    first, second = quantizer.levels
    torch.testing.assert_close(first.vectors.grad, torch.tensor([[0.0, 0.0], [-2.4, 0.0]]))
    torch.testing.assert_close(
        second.vectors.grad, torch.tensor([[0.0, 0.0], [-0.4, 0.0], [0.0, 0.0]])
    )


def test_forward_changes_nothing():
    quantizer = two_levels("ema").train()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(torch.randn(5, 2))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_moving_averages_by_hand():
    book = Codebook(3, 1, "ema", 0.9)
    book.place(torch.arange(3), torch.tensor([[0.0], [10.0], [-5.0]]))
    book.follow(torch.tensor([[2.0], [4.0], [20.0]]), torch.tensor([0, 0, 1]))
    # mass: .9 + .1 n; moment: .9 e + .1 Σ r
    torch.testing.assert_close(book.mass, torch.tensor([1.1, 1.0, 0.9]))
    torch.testing.assert_close(book.moment, torch.tensor([[0.6], [11.0], [-4.5]]))
    torch.testing.assert_close(book.vectors.data, torch.tensor([[0.6 / 1.1], [11.0], [-5.0]]))
    assert book.idle.tolist() == [0, 0, 1]


def test_long_unused_code_stays_where_it_was():
    book = Codebook(2, 1, "ema", 0.5)
    book.place(torch.arange(2), torch.tensor([[0.0], [7.0]]))
    for _ in range(300):  # the mass underflows to 0 in float32
        book.follow(torch.tensor([[1.0]]), torch.tensor([0]))
    assert book.mass[1] == 0
    assert book.vectors[1].item() == 7.0
    assert book.vectors[0].item() == pytest.approx(1.0)


def test_moving_average_codebooks_are_not_for_the_optimizer():
    assert not any(p.requires_grad for p in two_levels("ema").parameters())
    assert all(p.requires_grad for p in two_levels("gradient").parameters())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_restart_at_residuals_of_the_batch(update):
    quantizer = ResidualQuantizer((3, 2), 1, update, 0.5)
    first, second = quantizer.levels
    first.place(torch.arange(3), torch.tensor([[0.0], [500.0], [900.0]]))
    second.place(torch.arange(2), torch.tensor([[0.0], [700.0]]))
    latents = torch.tensor([[0.25], [-0.5], [0.125]])
    assert quantizer.follow(quantizer(latents), restart_after=2) == 0
    assert first.idle.tolist() == [0, 1, 1]
    output = quantizer(latents)
    assert quantizer.follow(output, restart_after=2) == 3
    assert set(first.vectors[1:].flatten().tolist()) < {0.25, -0.5, 0.125}
    assert first.vectors[1].item() != first.vectors[2].item()
    assert second.vectors[1].item() in output.residuals[:, 1].flatten().tolist()
    assert first.idle.tolist() == [0, 0, 0]
    if update == "ema":
        assert torch.equal(first.moment[1:], first.vectors[1:].detach())
        assert first.mass[1:].tolist() == [1, 1]
    assert len(quantizer(latents).codes[:, 0].unique()) > 1


def test_no_restart_when_switched_off_and_at_most_a_batch():
    quantizer = ResidualQuantizer((4,), 1, "gradient", 0.5)
    (book,) = quantizer.levels
    book.place(torch.arange(4), torch.tensor([[0.0], [50.0], [60.0], [70.0]]))
    latents = torch.tensor([[0.25], [0.5]])
    for _ in range(3):
        assert quantizer.follow(quantizer(latents), restart_after=None) == 0
    assert book.vectors.flatten().tolist() == [0, 50, 60, 70]
    assert quantizer.follow(quantizer(latents), restart_after=1) == 2
    assert sorted(book.vectors.flatten().tolist()) == [0, 0.25, 0.5, 70]


def test_kmeans_start_puts_codes_on_clusters_of_residuals():
    quantizer = ResidualQuantizer((2, 2), 2, "ema", 0.9)
    latents = torch.tensor([[-10.0, 1.0], [-10.0, -1.0], [10.0, 1.0], [10.0, -1.0]])
    quantizer.start_from(latents, np.random.RandomState(0))
    first, second = quantizer.levels
    assert sorted(first.vectors.tolist()) == [[-10, 0], [10, 0]]
    assert sorted(second.vectors.tolist()) == [[0, -1], [0, 1]]
    torch.testing.assert_close(quantizer(latents).quantized, latents)
    assert torch.equal(first.moment, first.vectors.detach())


def test_kmeans_start_with_fewer_points_than_codes():
    quantizer = ResidualQuantizer((5,), 1, "gradient", 0.9)
    latents = torch.tensor([[3.0], [8.0]])
    quantizer.start_from(latents, np.random.RandomState(0))
    torch.testing.assert_close(quantizer(latents).quantized, latents)
    assert quantizer.levels[0].vectors[2:].abs().max() <= 1 / 5
