"""The temperature of Tiger's loss: what it divides, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_sid.errors import InputError
from tests.generator.catalogues import random_table, tiger

SIDS = random_table(np.random.default_rng(4), 25, (4, 5, 3), "dedup")
USERS = torch.tensor([1, 2, 3])
HISTORY = torch.tensor([[3, 7, 1, 0], [9, 0, 0, 0], [5, 6, 7, 8]])
LENGTHS = torch.tensor([3, 1, 4])
TARGETS = torch.tensor([4, 11, 2])


def by_hand(model, temperature: float) -> torch.Tensor:
    hidden = model._decode(model._history(USERS, HISTORY, LENGTHS), TARGETS[:, None])[:, 0]
    codes = model.catalogue.codes[TARGETS]
    logits = model._logits(hidden, TARGETS)
    losses = [F.cross_entropy(x / temperature, codes[:, i]) for i, x in enumerate(logits)]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("softmax", ["level", "children"])
def test_logits_are_divided_before_the_softmax(softmax):
    model = tiger(SIDS, softmax=softmax, loss_temperature=0.5)
    loss = model.prefix_loss(USERS, HISTORY, LENGTHS, TARGETS)
    assert loss.item() == pytest.approx(by_hand(model, 0.5).item(), rel=1e-6)
    assert loss.item() != pytest.approx(by_hand(model, 1.0).item(), rel=1e-2)


@pytest.mark.parametrize("softmax", ["level", "children"])
def test_one_changes_no_bit(softmax):
    model = tiger(SIDS, softmax=softmax)
    hidden = model._decode(model._history(USERS, HISTORY, LENGTHS), TARGETS[:, None])[:, 0]
    codes = model.catalogue.codes[TARGETS]
    plain = [F.cross_entropy(x, codes[:, i]) for i, x in enumerate(model._logits(hidden, TARGETS))]
    assert torch.equal(
        model.prefix_loss(USERS, HISTORY, LENGTHS, TARGETS), torch.stack(plain).mean()
    )


def test_a_low_temperature_pushes_the_strongest_rival_hardest():
    # Logits 1 (right), 3 and 0: the share of the rivals' gradient that falls on the 3.
    shares = []
    for temperature in (1.0, 0.5):
        logits = torch.tensor([[1.0, 3.0, 0.0]], requires_grad=True)
        F.cross_entropy(logits / temperature, torch.tensor([0])).backward()
        assert logits.grad is not None
        shares.append((logits.grad[0, 1] / logits.grad[0, 1:].sum()).item())
    # e³ / (e³ + 1) and e⁶ / (e⁶ + 1)
    assert shares == pytest.approx([0.952574, 0.997527], abs=1e-6)


def test_ranking_and_likelihood_do_not_know_it():
    cold, plain = tiger(SIDS, loss_temperature=0.1), tiger(SIDS)
    items = torch.tensor([[1, 2], [3, 4], [5, 6]])
    arguments = (USERS, HISTORY, LENGTHS)
    assert torch.equal(
        cold.log_likelihood(*arguments, items), plain.log_likelihood(*arguments, items)
    )
    mine, other = cold.rank(*arguments, 5, 10), plain.rank(*arguments, 5, 10)
    assert torch.equal(mine.items, other.items)
    assert torch.equal(mine.scores, other.scores)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_bounds(value):
    with pytest.raises(InputError, match="loss_temperature"):
        tiger(SIDS, loss_temperature=value)
