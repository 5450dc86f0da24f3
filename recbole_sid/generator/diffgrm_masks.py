"""Coherent noising: the masked views of a SID that DiffGRM is trained on.

A SID's digits are put in an order, and view ``v`` masks the first ``counts[v]`` of them. The views
of one SID are therefore nested: what one masks, every later one masks too, and the last masks all,
as decoding starts. ``guided``: the order is that of the network's own confidence, least first, so
that a digit it is unsure of is masked in most views and one it is sure of in few. ``random``: the
order is drawn for every SID anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def masked_counts(n_digits: int, views: int | None) -> list[int]:
    """How many digits each view masks, rising to all of them.

    Args:
        views: how many, spread evenly; None, or more than there are digits: one a digit. Decoding
            fills one digit a step, so with fewer it visits states of counts that are not trained.
    """
    views = n_digits if views is None else min(views, n_digits)
    return [-(-n_digits * view // views) for view in range(1, views + 1)]


def least_confident_first(logits: Sequence[Tensor]) -> Tensor:
    """Digits in the order of rising confidence, which is the highest probability of any code.

    Args:
        logits: one (..., size) a digit.

    Returns:
        (..., L) int64; of two equally confident digits the earlier comes first.
    """
    confidence = torch.stack([one.softmax(dim=-1).amax(dim=-1) for one in logits], dim=-1)
    return confidence.argsort(dim=-1, stable=True)


def random_order(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """An order of the last axis, drawn anew for each place of the others; follows torch's state."""
    return torch.rand(shape, device=device).argsort(dim=-1)


def nested_masks(order: Tensor, counts: Sequence[int]) -> Tensor:
    """The first ``counts[v]`` digits of ``order`` (..., L) in view ``v``: bool (..., V, L)."""
    place = order.argsort(dim=-1)  # (..., L) where each digit stands in the order
    return place.unsqueeze(-2) < torch.tensor(counts, device=order.device)[:, None]


def loss_weights(masks: Tensor, pool: Literal["tokens", "views"]) -> Tensor:
    """What each digit's loss counts in the mean, 0 where it is not masked; they sum to 1.

    Args:
        masks: bool (N, V, L), each view with a masked digit.
        pool: ``tokens``: all masked digits alike (the released code); ``views``: all views alike,
            and the masked digits of one view (the paper).
    """
    held = masks.float()
    if pool == "tokens":
        return held / held.sum()
    return held / (held.sum(dim=-1, keepdim=True) * masks[..., 0].numel())
