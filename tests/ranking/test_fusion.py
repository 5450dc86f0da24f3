import math

import pytest
import torch
from torch import nn

from recbole_sid.ranking.fusion import CrossAttention, Gate, RouteFusion


def plain(module):
    """Linear maps that change nothing."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and part.in_features == part.out_features:
            nn.init.eye_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def test_attention_by_hand():
    attend = plain(CrossAttention(2, 1))
    query = torch.tensor([[math.sqrt(2) * math.log(3), 0.0]])  # times 1 / sqrt(2): log 3
    vectors = torch.tensor([[[[1.0, 5.0], [0.0, 1.0], [9.0, 9.0]]]])
    held = torch.tensor([[[True, True, False]]])
    # Scores log 3 and 0, so weights 3/4 and 1/4; the third is not there.
    assert attend(query, vectors, held)[0, 0].tolist() == pytest.approx([0.75, 4.0])


def test_every_head_weighs_for_itself():
    attend = plain(CrossAttention(2, 2))
    query = torch.tensor([[math.log(3), 0.0]])  # heads of width 1: the second one is indifferent
    vectors = torch.tensor([[[[1.0, 4.0], [0.0, 2.0]]]])
    result = attend(query, vectors, torch.ones(1, 1, 2, dtype=torch.bool))
    assert result[0, 0].tolist() == pytest.approx([0.75, 3.0])


def test_attention_equals_torchs():
    torch.manual_seed(1)
    ours, theirs = CrossAttention(8, 4), nn.MultiheadAttention(8, 4, batch_first=True)
    with torch.no_grad():
        weights = (ours.query.weight, ours.key.weight, ours.value.weight)
        theirs.in_proj_weight.copy_(torch.cat(weights))
        theirs.in_proj_bias[:8] = ours.query.bias
        theirs.out_proj.weight.copy_(ours.output.weight)
    query, vectors = torch.randn(5, 8), torch.randn(5, 1, 6, 8)
    held = torch.rand(5, 1, 6) < 0.6
    held[..., 0] = True
    expected, _ = theirs(query[:, None], vectors[:, 0], vectors[:, 0], ~held[:, 0])
    torch.testing.assert_close(ours(query, vectors, held), expected)


def test_groups_without_vectors_give_zeros_and_no_nan():
    torch.manual_seed(1)
    attend = CrossAttention(4, 2)
    query, vectors = torch.randn(2, 4), torch.randn(2, 3, 5, 4, requires_grad=True)
    held = torch.zeros(2, 3, 5, dtype=torch.bool)
    held[0, 1, 2] = True
    result = attend(query, vectors, held)
    result.sum().backward()
    assert result[0, 1].abs().sum() > 0
    assert result[0, 0].tolist() == result[1, 1].tolist() == [0.0] * 4
    assert vectors.grad.isfinite().all()
    assert vectors.grad[~held].abs().sum() == 0


def test_fusion_by_hand():
    fuse = plain(RouteFusion(1, 3, 1))
    with torch.no_grad():
        fuse.route.copy_(torch.tensor([[0.0], [math.log(3) - 2.0], [50.0]]))
    items = torch.tensor([[[[0.0], [0.0]], [[2.0], [7.0]], [[1.0], [1.0]]]])
    held = torch.tensor([[[True, True], [True, False], [False, False]]])
    # Routes 0, 2 + log 3 - 2 = log 3, and an empty one, which has no say: weights 1/4 and 3/4.
    assert fuse(torch.ones(1, 1), items, held).item() == pytest.approx(0.75 * math.log(3))


def test_fusion_of_empty_routes_is_zero():
    fuse = RouteFusion(4, 2, 2)
    nn.init.normal_(fuse.route)
    nothing = torch.zeros(1, 2, 3, dtype=torch.bool)
    assert fuse(torch.randn(1, 4), torch.randn(1, 2, 3, 4), nothing).tolist() == [[0.0] * 4]


def test_gate_by_hand():
    gate = Gate(2)
    with torch.no_grad():
        gate.weight.weight.zero_()
        gate.weight.weight[0, 2] = 1.0  # dimension 0 looks at the first collaborative number
        gate.weight.bias.copy_(torch.tensor([0.0, math.log(4)]))
    semantic, collaborative = torch.tensor([10.0, 10.0]), torch.tensor([math.log(3), 0.0])
    # Shares of the semantic side: sigmoid(log 3) = 3/4 and sigmoid(log 4) = 4/5.
    expected = [0.75 * 10 + 0.25 * math.log(3), 8.0]
    assert gate(semantic, collaborative).tolist() == pytest.approx(expected)
