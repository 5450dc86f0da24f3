from __future__ import annotations

import pytest
import torch

from recbole_sid.generator.dropout import Dropout


def ones(rate: float, n: int = 100_000, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(rate).train()(torch.ones(n))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_that_is_dropped_and_scale_of_the_rest(rate):
    x = ones(rate)
    threshold = round(rate * 256)
    # Five standard deviations of a share of 100,000 draws are at most 0.008.
    assert (x == 0).double().mean().item() == pytest.approx(threshold / 256, abs=0.008)
    assert x.unique().tolist() == pytest.approx([0, 256 / (256 - threshold)])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_mean_stays(rate):
    # A kept one counts 1 / (1 - rate), so five standard deviations of the mean are at most 0.016.
    assert ones(rate).mean().item() == pytest.approx(1.0, abs=0.016)


@pytest.mark.parametrize(("rate", "threshold"), [(0.999, 255), (0.9999, 255), (0.001, 1)])
def test_rates_near_the_ends_drop_some_and_keep_some(rate, threshold):
    values, counts = ones(rate, 1_000_000).unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, 256 / (256 - threshold)])
    assert counts[0].item() / 1_000_000 == pytest.approx(threshold / 256, abs=0.0004)


def test_nothing_is_dropped_or_drawn_at_rate_zero_and_in_evaluation():
    x = torch.ones(4, 5)
    state = torch.get_rng_state()
    assert Dropout(0.0).train()(x) is x
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_follow_the_seed_of_torch():
    assert torch.equal(ones(0.5), ones(0.5))
    assert not torch.equal(ones(0.5), ones(0.5, seed=2))
    layer = Dropout(0.5).train()
    assert not torch.equal(layer(torch.ones(1000)), layer(torch.ones(1000)))


def test_the_gradient_passes_where_the_input_did():
    torch.manual_seed(3)
    x = torch.ones(50, 20, requires_grad=True)
    y = Dropout(0.25).train()(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # y = x * mask, and x is 1
    assert (x.grad == 0).any()


def test_shape_and_type_stay():
    x = torch.ones(2, 3, 4, dtype=torch.bfloat16)
    y = Dropout(0.5).train()(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
