"""From histories to lists, for single requests and for files: one way for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sid.evaluation_checks import check_beam_size
from recbole_sid.generator.availability import Available
from recbole_sid.generator.beam import Ranked
from recbole_sid.model.exclusion import distinct_items
from recbole_sid.model.ranking import rank_histories
from recbole_sid.model.recommender import last_items
from recbole_sid.serving.bundle import Bundle
from recbole_sid.settings import require


@torch.no_grad()
def rank(
    bundle: Bundle,
    users: Tensor,
    histories: np.ndarray,
    k: int,
    beam_size: int,
    exclude_history: bool,
    available: Available | None,
) -> Ranked:
    """The lists of whole histories.

    Args:
        users: (B,) from ``bundle.users``.
        histories: (B, T) rows of the model, left aligned, 0 on the right; at least one item each.
        available: what may be ranked; None: everything.
    """
    whole = torch.from_numpy(histories).to(bundle.device)
    window, lengths = last_items(whole, (whole > 0).sum(dim=1), bundle.window)
    excluded = distinct_items(whole) if exclude_history else None
    return rank_histories(
        bundle.generator, users, window, lengths, k, beam_size, excluded, available
    )


def rows_by_token(bundle: Bundle) -> dict[str, int]:
    """The model's row, from 1, of each raw item id."""
    return {token: row for row, token in enumerate(bundle.sids.tokens, start=1)}


def padded(histories: Sequence[Sequence[int]]) -> np.ndarray:
    """(B, longest), left aligned, 0 on the right."""
    rows = np.zeros((len(histories), max(map(len, histories))), dtype=np.int64)
    for row, history in zip(rows, histories, strict=True):
        row[: len(history)] = history
    return rows


def check_list(k: Any, n_items: int, beam_size: Any, exclude_history: Any) -> None:
    """Refuse what no list can be made by.

    Raises:
        InputError: which names the argument.
    """
    require(type(k) is int and k >= 1, "k", k, "a whole number above 0")
    require(k <= n_items, "k", k, f"at most {n_items}, the number of the run's items")
    check_beam_size(beam_size, k, "k", "lower k")
    require(
        exclude_history is None or isinstance(exclude_history, bool),
        "exclude_history",
        exclude_history,
        "true or false",
    )
