"""What holds for every generator over 25 items: packed training is per-prefix training, and lists
are the best of what may be listed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sid.generator import sequences as seq
from recbole_sid.generator.availability import Availability
from recbole_sid.generator.base import Generator
from recbole_sid.model.exclusion import distinct_items
from recbole_sid.model.ranking import rank_histories
from tests.generator.test_sequences import rows_of

USERS = torch.tensor([1, 2, 3])
HISTORY = torch.tensor([[3, 7, 1, 0], [9, 0, 0, 0], [5, 6, 7, 8]])
LENGTHS = torch.tensor([3, 1, 4])
TARGETS = torch.tensor([2, 4, 6])
ALL = torch.arange(1, 26).expand(3, -1)


def packed_is_prefix_training(model: Generator, together: int | None, tolerance=1e-5) -> None:
    """All prefixes in one pass have the loss and the gradients of one sample a prefix.

    Args:
        model: of window 6.
        together: ``window_targets``.
    """
    rng = np.random.default_rng(0)
    rows = rows_of([rng.integers(1, 26, n).tolist() for n in (2, 7, 4, 5)], window=6)
    data = seq.chain(*rows)
    assert np.diff(data.offsets).max() <= 7, "all histories are within the window"
    (packed,) = seq.packed_batches(data, seq.windows(data, 6, 1), 99, together, rng)
    packed_loss = model.packed_loss(*map(torch.from_numpy, packed))
    (single,) = seq.prefix_batches(data, 6, 99, rng)
    prefix_loss = model.prefix_loss(*map(torch.from_numpy, single))
    assert packed_loss.item() == pytest.approx(prefix_loss.item(), abs=tolerance)
    weights = list(model.parameters())
    moved = 0
    for mine, other in zip(
        torch.autograd.grad(packed_loss, weights, allow_unused=True),
        torch.autograd.grad(prefix_loss, weights, allow_unused=True),
        strict=True,
    ):
        if mine is not None or other is not None:
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
            moved += 1
    assert moved


def lists_are_the_best(model: Generator, beam_size: int) -> None:
    """Items in the order of their exact scores, each list filled up with item 0."""
    best = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL).sort(dim=1, descending=True)
    for k in (1, 7, 30):
        ranked = model.rank(USERS, HISTORY, LENGTHS, k, beam_size)
        n = min(k, 25)
        assert torch.equal(ranked.items[:, :n], best.indices[:, :n] + 1)
        torch.testing.assert_close(ranked.scores[:, :n], best.values[:, :n])
        assert (ranked.items[:, n:] == 0).all()
        assert (ranked.scores[:, n:] == -torch.inf).all()
        assert (ranked.group_sizes == 1).all()
        assert ranked.items.shape == ranked.scores.shape == ranked.group_sizes.shape == (3, k)


def lists_hold_only_what_may_be_listed(model: Generator, beam_size: int) -> None:
    """Nothing that is forbidden, not there at that time, or of the user's history."""
    rng = np.random.default_rng(3)
    since = torch.from_numpy(rng.integers(0, 9, 26)).double()
    until = since + 3
    allowed = torch.from_numpy(rng.random(26) < 0.8)
    times = torch.tensor([2.0, 8.0, 30.0])
    available = Availability(model.catalogue, allowed, since, until).at(times)
    excluded = distinct_items(HISTORY)
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)
    ranked = rank_histories(model, USERS, HISTORY, LENGTHS, 8, beam_size, excluded, available)
    for row, time in enumerate(times.tolist()):
        may = [
            item
            for item in range(1, 26)
            if allowed[item]
            and since[item] <= time <= until[item]
            and item not in HISTORY[row].tolist()
        ]
        best = sorted(may, key=lambda item, row=row: -scores[row, item - 1].item())[:8]
        assert ranked.items[row].tolist() == best + [0] * (8 - len(best))
        assert (ranked.group_sizes[row] == 1).all()
        found = ranked.scores[row, : len(best)]
        torch.testing.assert_close(found, scores[row, torch.tensor(best, dtype=torch.long) - 1])
    # At no time only `allowed` counts.
    available = Availability(model.catalogue, allowed).at(None)
    ranked = model.rank(USERS, HISTORY, LENGTHS, 25, beam_size, available)
    n = int(allowed[1:].sum())
    assert allowed[ranked.items[:, :n]].all()
    assert (ranked.items[:, n:] == 0).all()
