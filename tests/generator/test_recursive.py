import pytest
import torch

from recbole_sid.generator.recursive import RecursiveCodebook


def set_by_hand() -> RecursiveCodebook:
    """Two levels of two codes in two dimensions; the network between them adds e and v."""
    network = RecursiveCodebook((2, 2), width=2, inner_size=2, dropout=0.0)
    with torch.no_grad():
        network.codebooks[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        network.codebooks[1].weight.copy_(torch.tensor([[1.0, 1.0], [3.0, -1.0]]))
        network.from_code[0].weight.copy_(torch.eye(2))
        network.from_vector[0].weight.copy_(torch.eye(2))
        network.from_vector[0].bias.copy_(torch.tensor([0.0, -4.0]))
        network.outer[0].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
        network.outer[0].bias.copy_(torch.tensor([0.5, 0.0]))
    return network


def test_logits_of_both_levels_by_hand():
    network = set_by_hand()
    vectors = torch.tensor([[3.0, 1.0]])
    # Level 0: (3, 1) with (1, 0) and (0, 2).
    torch.testing.assert_close(network.logits(0, vectors, None), torch.tensor([[3.0, 2.0]]))
    # After code 1: relu((0, 2) + (3, 1) + (0, -4)) = (3, 0), u = (3.5, 0), logits 3.5 and 10.5.
    first, second = network.teacher_forced(vectors, torch.tensor([[1, 0]]))
    torch.testing.assert_close(first, torch.tensor([[3.0, 2.0]]))
    torch.testing.assert_close(second, torch.tensor([[3.5, 10.5]]))
    # After code 0: relu((1, 0) + (3, 1) + (0, -4)) = (4, 0), u = (4.5, 0), logits 4.5 and 13.5.
    _, second = network.teacher_forced(vectors, torch.tensor([[0, 0]]))
    torch.testing.assert_close(second, torch.tensor([[4.5, 13.5]]))


def test_quantise_takes_the_best_code_of_every_level():
    network = set_by_hand()
    total, logits = network.quantise(torch.tensor([[3.0, 1.0]]), temperature=1.0)
    # Code 0 (3 > 2), then code 1 (13.5 > 4.5): (1, 0) + (3, -1).
    torch.testing.assert_close(total, torch.tensor([[4.0, -1.0]]))
    torch.testing.assert_close(logits[1], torch.tensor([[4.5, 13.5]]))


def test_the_gradient_passes_through_the_softmax_mixture():
    network = RecursiveCodebook((3,), width=2, inner_size=1, dropout=0.0)
    book = network.codebooks[0].weight.detach()
    vector = torch.tensor([0.3, -0.2], requires_grad=True)
    total, _ = network.quantise(vector, temperature=2.0)
    (through,) = torch.autograd.grad(total.sum(), vector)

    free = vector.detach().clone().requires_grad_()
    mixture = torch.softmax(book @ free / 2.0, dim=0) @ book
    (expected,) = torch.autograd.grad(mixture.sum(), free)
    torch.testing.assert_close(through, expected)
    assert expected.abs().min() > 0


def test_pairs_are_scored_as_one_by_one():
    torch.manual_seed(1)
    network = RecursiveCodebook((3, 4, 2), width=5, inner_size=6, dropout=0.0)
    vectors = torch.randn(2, 5)
    tables = network.pair_log_probs(vectors)
    assert [table.shape for table in tables] == [(2, 1, 3), (2, 3, 4), (2, 4, 2)]
    for first in range(3):
        for second in range(4):
            codes = torch.tensor([first, second, 0]).expand(2, 3)
            logits = network.teacher_forced(vectors, codes)
            for level, before in ((1, first), (2, second)):
                expected = torch.log_softmax(logits[level], dim=-1)
                torch.testing.assert_close(tables[level][:, before], expected)
    torch.testing.assert_close(
        tables[0][:, 0], torch.log_softmax(network.logits(0, vectors, None), dim=-1)
    )


def test_a_sid_is_embedded_as_the_sum_of_its_codes():
    network = set_by_hand()
    embedded = network.embed(torch.tensor([[[1, 1]], [[0, 0]]]))
    assert embedded.tolist() == [[[3.0, 1.0]], [[2.0, 1.0]]]


@pytest.mark.parametrize("sizes", [(4,), (4, 3, 5)])
def test_one_network_between_two_levels(sizes):
    network = RecursiveCodebook(sizes, width=2, inner_size=3, dropout=0.0)
    assert network.n_levels == len(sizes)
    assert len(network.outer) == len(sizes) - 1
