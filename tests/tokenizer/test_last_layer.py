"""The last layer at some places equals the whole layer, looked at there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from recbole_sid.tokenizer.backbone import visibility
from recbole_sid.tokenizer.last_layer import ReadAtPlaces, take

N_ROWS, N_TOKENS, WIDTH = 2, 6, 8
PLACES = torch.tensor([[3, 4], [5, 0]])


def layer(**changes: Any) -> BertLayer:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=WIDTH, num_attention_heads=2, intermediate_size=16, **changes)
    config._attn_implementation = "sdpa"
    return BertLayer(config)


def states() -> Tensor:
    draws = torch.randn(N_ROWS, N_TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    return draws.requires_grad_()


def masks() -> list[Tensor | None]:
    rank = torch.tensor([[0, 0, 0, 1, 2, 0], [0, 0, 1, 1, 1, 2]])
    present = torch.tensor([[True] * 5 + [False], [True] * 6])
    keys = torch.zeros(N_ROWS, 1, 1, N_TOKENS).masked_fill_(~present[:, None, None], -1e9)
    return [None, keys, visibility(rank, present), present[:, None, None]]


def test_take() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    expected = torch.tensor([[[4.0, 5], [0, 1]], [[8, 9], [8, 9]]])
    assert torch.equal(take(values, torch.tensor([[2, 0], [1, 1]])), expected)


@pytest.mark.parametrize(
    "which", range(4), ids=["no mask", "of keys", "of queries and keys", "of keys, boolean"]
)
def test_states_and_gradients_are_those_of_the_whole_layer(which: int) -> None:
    whole, mask = layer().eval(), masks()[which]
    results = []
    for short in (False, True):
        given = states()
        whole.zero_grad(set_to_none=True)
        found = (
            ReadAtPlaces(whole, PLACES)(given, mask) if short else take(whole(given, mask), PLACES)
        )
        (found * torch.arange(WIDTH)).sum().backward()
        assert given.grad is not None
        # The softmax does not see the keys' bias: its gradient is 0, or there is none.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in whole.parameters()]
        results.append([found.detach(), given.grad, *map(Tensor.clone, grads)])
        nothing = [name for name, p in whole.named_parameters() if p.grad is None]
        assert nothing == (["attention.self.key.bias"] if short else [])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_dropout_of_the_attention_acts_in_training_only() -> None:
    whole = layer(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    short, given = ReadAtPlaces(whole, PLACES), states()
    whole.train()
    assert not torch.equal(short(given, None), short(given, None))
    whole.eval()
    assert torch.equal(short(given, None), short(given, None))


def test_reads_encoders_of_the_bert_family_only() -> None:
    assert ReadAtPlaces.can_read(layer())
    assert not ReadAtPlaces.can_read(nn.Linear(2, 2))
    assert not ReadAtPlaces.can_read(layer(is_decoder=True))
