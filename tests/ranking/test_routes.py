import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.ranking.routes import joined, latest, nearest, shared_prefixes


@st.composite
def batches(draw):
    """Codes of histories (B, T, L) and targets (B, L), lengths (B,), and a number to pick."""
    rows, length, levels = draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 3))
    code = st.integers(0, 2)

    def tensor(*shape):
        n = int(torch.tensor(shape).prod())
        return torch.tensor(draw(st.lists(code, min_size=n, max_size=n))).reshape(shape)

    lengths = draw(st.lists(st.integers(0, length), min_size=rows, max_size=rows))
    return tensor(rows, length, levels), tensor(rows, levels), lengths, draw(st.integers(1, 9))


@settings(max_examples=200, deadline=None)
@given(batches())
def test_prefix_routes_are_those_of_a_loop(batch):
    history, target, lengths, count = batch
    held = torch.arange(history.shape[1]) < torch.tensor(lengths)[:, None]
    wanted = shared_prefixes(history, target).transpose(1, 2) & held[:, None]
    positions, found = latest(wanted, count)
    for row, n_items in enumerate(lengths):
        for level in range(history.shape[2]):
            expected = [
                place
                for place in reversed(range(n_items))
                if history[row, place, : level + 1].tolist() == target[row, : level + 1].tolist()
            ][:count]
            assert positions[row, level][found[row, level]].tolist() == expected


@settings(max_examples=200, deadline=None)
@given(batches(), st.data())
def test_the_collaborative_route_is_that_of_a_loop(batch, data):
    history, _, lengths, count = batch
    scores = torch.tensor(
        [data.draw(st.permutations(range(history.shape[1]))) for _ in lengths], dtype=torch.float32
    )
    held = torch.arange(history.shape[1]) < torch.tensor(lengths)[:, None]
    positions, found = nearest(-scores[:, None], held[:, None], count)
    for row, n_items in enumerate(lengths):
        best = sorted(range(n_items), key=lambda place: scores[row, place])[:count]
        assert positions[row, 0][found[row, 0]].tolist() == best


def test_equal_second_codes_under_other_first_ones_are_no_match():
    history = torch.tensor([[[1, 2], [0, 2], [1, 0]]])
    shared = shared_prefixes(history, torch.tensor([[1, 2]]))
    assert shared.tolist() == [[[True, True], [False, False], [True, False]]]


def test_a_route_is_as_wide_as_asked_or_as_the_history():
    wanted = torch.tensor([[[True, False, True, True]]])
    positions, held = latest(wanted, 2)
    assert (positions.tolist(), held.tolist()) == ([[[3, 2]]], [[[True, True]]])
    positions, held = latest(wanted, 9)
    assert positions.shape == (1, 1, 4)
    assert held.tolist() == [[[True, True, True, False]]]


def test_joined_keeps_the_order_of_the_routes():
    wanted = torch.tensor([[[True, True, False]]])
    scores = torch.tensor([[[2.0, 1.0, 3.0]]])
    held = torch.ones(1, 1, 3, dtype=torch.bool)
    positions, found = joined([latest(wanted, 1), nearest(scores, held, 1)])
    assert positions.tolist() == [[[1], [2]]]
    assert found.tolist() == [[[True], [True]]]
