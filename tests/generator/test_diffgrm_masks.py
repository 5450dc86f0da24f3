"""Coherent noising, worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.generator.diffgrm_masks import (
    least_confident_first,
    loss_weights,
    masked_counts,
    nested_masks,
    random_order,
)


@pytest.mark.parametrize(
    ("n_digits", "views", "counts"),
    [
        (4, None, [1, 2, 3, 4]),
        (4, 1, [4]),
        (4, 2, [2, 4]),
        (5, 2, [3, 5]),
        (4, 3, [2, 3, 4]),
        (3, 9, [1, 2, 3]),
    ],
)
def test_views_mask_evenly_more_digits_up_to_all(n_digits, views, counts):
    assert masked_counts(n_digits, views) == counts


def test_digits_are_ordered_by_their_highest_probability():
    first = torch.tensor([[0.6, 0.4], [0.5, 0.5]]).log()
    second = torch.tensor([[0.3, 0.3, 0.4], [0.1, 0.8, 0.1]]).log() + 7
    third = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    order = least_confident_first([first, second, third])
    assert order.tolist() == [[1, 0, 2], [0, 2, 1]]


def test_masks_are_the_first_digits_of_the_order():
    masks = nested_masks(torch.tensor([[2, 0, 1], [1, 2, 0]]), [1, 3])
    assert masks.int().tolist() == [[[0, 0, 1], [1, 1, 1]], [[0, 1, 0], [1, 1, 1]]]


@given(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 12)), st.integers(0, 99))
def test_views_are_nested_and_the_last_masks_all(n_digits, views, seed):
    torch.manual_seed(seed)
    order = random_order((2, 3, n_digits), torch.device("cpu"))
    counts = masked_counts(n_digits, views)
    masks = nested_masks(order, counts)
    assert masks.shape == (2, 3, len(counts), n_digits)
    assert (masks[..., 1:, :] | ~masks[..., :-1, :]).all()
    assert masks.sum(dim=-1).tolist() == [[counts] * 3] * 2
    assert masks[..., -1, :].all()


def test_random_orders_are_drawn_for_every_sid_and_follow_the_seed():
    torch.manual_seed(3)
    order = random_order((50, 4), torch.device("cpu"))
    assert (order.sort(dim=-1).values == torch.arange(4)).all()
    assert set(order[:, 0].tolist()) == {0, 1, 2, 3}
    torch.manual_seed(3)
    assert random_order((50, 4), torch.device("cpu")).tolist() == order.tolist()


def test_weights_pool_all_masked_digits_or_view_by_view():
    masks = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 1]]]).bool()  # 2 SIDs, 2 views, 2 digits
    sixth, quarter, eighth = 1 / 6, 1 / 4, 1 / 8
    torch.testing.assert_close(
        loss_weights(masks, "tokens"),
        torch.tensor([[[sixth, 0], [sixth, sixth]], [[0, sixth], [sixth, sixth]]]),
    )
    torch.testing.assert_close(
        loss_weights(masks, "views"),
        torch.tensor([[[quarter, 0], [eighth, eighth]], [[0, quarter], [eighth, eighth]]]),
    )
