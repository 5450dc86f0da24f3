"""Multi-route mixed retrieval: which items of a long history bear on the item to be judged.

Each route picks at most m items of the history by its own rule. The routes by semantic IDs take the
latest items that share the target's first 1, 2, … codes; the collaborative one those whose
embeddings are most like the target's; the last one the latest items, whatever they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Retrieved(NamedTuple):
    """What routes picked from histories of T items.

    Attributes:
        positions: int64 (B, R, m), places in the history.
        held: bool (B, R, m), whether the route has an item there: a short one has fewer than m.
    """

    positions: Tensor
    held: Tensor


def shared_prefixes(history: Tensor, target: Tensor) -> Tensor:
    """Which items share the target's first 1 … L codes.

    Args:
        history: (B, T, L) codes of the histories' items.
        target: (B, L) codes of the targets.

    Returns:
        bool (B, T, L); at l, whether the codes up to level l are equal.
    """
    return (history == target[:, None]).cumprod(dim=-1).bool()


def latest(wanted: Tensor, count: int) -> Retrieved:
    """The last ``count`` places that are wanted, the last one first.

    Args:
        wanted: bool (B, R, T).
    """
    length = wanted.shape[-1]
    number = torch.arange(1, length + 1, device=wanted.device)
    found, positions = torch.where(wanted, number, 0).topk(min(count, length))
    return Retrieved(positions, found > 0)


def nearest(scores: Tensor, held: Tensor, count: int) -> Retrieved:
    """The ``count`` places with the highest scores, the highest first.

    Args:
        scores: (B, R, T), finite.
        held: bool (B, R, T), places that may be picked.
    """
    found, positions = scores.masked_fill(~held, -torch.inf).topk(min(count, scores.shape[-1]))
    return Retrieved(positions, found > -torch.inf)


def joined(routes: list[Retrieved]) -> Retrieved:
    """The routes of each, one after the other."""
    positions, held = zip(*routes, strict=True)
    return Retrieved(torch.cat(positions, dim=1), torch.cat(held, dim=1))
