"""Lists without what is left out: never short of what could be listed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.generator.availability import Availability
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.model.exclusion import distinct_items
from recbole_sid.model.ranking import rank_histories
from tests.generator.catalogues import intrr, random_table, table, tiger

NAN = float("nan")
N_ITEMS = 40


def spied(model):
    """The model with a list of the (rows, k, beam_size) that it is asked for."""
    asked = []
    rank = model.rank

    def spy(users, history, lengths, k, beam_size, available=None):
        asked.append((len(users), k, beam_size))
        filters = {} if available is None else {"available": available}
        return rank(users, history, lengths, k, beam_size, **filters)

    model.rank = spy
    return asked


def batch(rng: np.random.Generator, n_items: int) -> tuple[torch.Tensor, ...]:
    history = torch.from_numpy(rng.integers(1, n_items + 1, (4, 5)))
    lengths = torch.tensor([5, 3, 1, 4])
    history[torch.arange(5) >= lengths[:, None]] = 0
    return torch.arange(4), history, lengths


def test_without_filters_it_is_the_generator_itself():
    rng = np.random.default_rng(0)
    model = tiger(random_table(rng, N_ITEMS, (4, 4, 3), "dedup"))
    asked = spied(model)
    given_ = batch(rng, N_ITEMS)
    with torch.no_grad():
        lists = rank_histories(model, *given_, 7, 9)
        direct = model.rank(*given_, 7, 9)
        nothing_left_out = rank_histories(
            model, *given_, 7, 9, available=Availability(model.catalogue).at(None)
        )
    assert asked == [(4, 7, 9)] * 3
    for one, other in zip(lists, direct, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(nothing_left_out.items, direct.items)
    assert torch.equal(nothing_left_out.scores, direct.scores)


@pytest.mark.parametrize("kind", ["tiger", "exact", "beam"])
@pytest.mark.parametrize("collision", ["none", "dedup"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_lists_are_full_and_hold_only_what_may_be_ranked(kind, collision, data):
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    sids = random_table(rng, N_ITEMS, (4, 3, 4), collision)
    model = tiger(sids) if kind == "tiger" else intrr(sids, decoding=kind)
    given_ = batch(rng, N_ITEMS)
    since, until = (torch.from_numpy(rng.integers(0, 9, N_ITEMS + 1)).double() for _ in "ab")
    since[torch.from_numpy(rng.random(N_ITEMS + 1) < 0.3)] = NAN
    allowed = torch.from_numpy(rng.random(N_ITEMS + 1) < 0.8)
    times = torch.tensor([1.0, 3.0, 5.0, 8.0])
    of_all = Availability(model.catalogue, allowed, since, until)
    excluded = None
    if data.draw(st.booleans()):
        drawn = rng.integers(1, N_ITEMS + 1, (4, 15)) * (np.arange(15) < [[15], [3], [0], [8]])
        excluded = distinct_items(torch.from_numpy(drawn))
    k, beam = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 3))
    with torch.no_grad():
        lists = rank_histories(
            model, *given_, k, beam, excluded=excluded, available=of_all.at(times)
        )
        exact = model.log_likelihood(*given_, torch.arange(1, N_ITEMS + 1).expand(4, -1))
        alone = [
            rank_histories(
                model,
                *(tensor[[row]] for tensor in given_),
                k,
                beam,
                excluded=None if excluded is None else distinct_items(excluded[[row]]),
                available=of_all.at(times[[row]]),
            )
            for row in range(4)
        ]
    for row, time in enumerate(times.tolist()):
        may = {
            item
            for item in range(1, N_ITEMS + 1)
            if allowed[item]
            and not since[item] > time
            and not until[item] < time
            and (excluded is None or item not in excluded[row])
        }
        found = lists.items[row].tolist()
        n = min(k, len(may))
        assert len(set(found[:n])) == n
        assert set(found[:n]) <= may
        assert found[n:] == [0] * (k - n)
        assert alone[row].items[0].tolist() == found
        scores = exact[row][torch.tensor(found[:n], dtype=torch.int64) - 1]
        torch.testing.assert_close(lists.scores[row, :n], scores, atol=1e-4, rtol=0)
        for place, item in enumerate(found[:n]):
            same = [x for x in may if (sids.codes[x - 1] == sids.codes[item - 1]).all()]
            assert lists.group_sizes[row, place] == len(same)
        if kind == "exact" and collision == "dedup":
            best = sorted(may, key=lambda item, row=row: -exact[row, item - 1].item())
            assert found[:n] == best[:n]


def test_a_beam_in_a_dead_end_is_doubled_for_its_row_alone():
    # Eight nodes of two items: one over, one not begun, at time 5; only the last node has an item
    # then. At time 9 the second items are there.
    codes = [[node, leaf] for node in range(8) for leaf in range(2)]
    model = tiger(table(codes, (8, 2)))
    asked = spied(model)
    since = torch.tensor([NAN, *[NAN, 8.0] * 8], dtype=torch.float64)
    until = torch.tensor([NAN, *[2.0, NAN] * 8], dtype=torch.float64)
    users, history, lengths = torch.arange(2), torch.tensor([[3], [3]]), torch.tensor([1, 1])
    with torch.no_grad():
        exact = model.log_likelihood(users, history, lengths, torch.arange(1, 17).expand(2, -1))
        # The node that the search likes least is the one that holds the item.
        totals = exact[0].view(8, 2).logsumexp(dim=1)
        last = int(totals.argmin())
        since[2 * last + 1], until[2 * last + 1] = NAN, NAN
        available = Availability(model.catalogue, since=since, until=until)
        lists = rank_histories(
            model, users, history, lengths, 1, 1, available=available.at(torch.tensor([5.0, 9.0]))
        )
    assert lists.items[0].tolist() == [2 * last + 1]
    # Two rows, then the first alone with beams of 2, 4 and, since all eight nodes are held, 8.
    assert asked == [(2, 1, 1), (1, 1, 2), (1, 1, 4), (1, 1, 8)]


def test_no_search_is_repeated_for_items_that_do_not_exist():
    model = tiger(random_table(np.random.default_rng(1), N_ITEMS, (4, 4, 3), "dedup"))
    asked = spied(model)
    allowed = torch.zeros(N_ITEMS + 1, dtype=torch.bool)
    allowed[[4, 7]] = True
    available = Availability(model.catalogue, allowed).at(None)
    given_ = batch(np.random.default_rng(2), N_ITEMS)
    with torch.no_grad():
        lists = rank_histories(model, *given_, 10, 10, available=available)
        none_left = rank_histories(
            model, *given_, 10, 10, torch.tensor([[4, 7]] * 4), available=available
        )
    assert [sorted(row) for row in lists.items[:, :2].tolist()] == [[4, 7]] * 4
    assert not lists.items[:, 2:].any()
    assert not none_left.items.any()
    assert torch.isinf(none_left.scores).all()
    assert len(asked) == 2


def test_a_wider_search_takes_no_more_rows_than_the_first_had_beams():
    # Each of the 16 leaves is over but one, which nothing foretells at the level above.
    codes = [[0, leaf] for leaf in range(16)] + [[1, leaf] for leaf in range(16)]
    model = intrr(table(codes, (2, 16)), decoding="beam")
    asked = spied(model)
    since = torch.full((33,), NAN, dtype=torch.float64)
    until = torch.full((33,), 1.0, dtype=torch.float64)
    with torch.no_grad():
        users, history = torch.arange(6), torch.full((6, 1), 2)
        lengths = torch.ones(6, dtype=torch.int64)
        first = model.rank(users[:1], history[:1], lengths[:1], 32, 32).items[0]
        # The node that is searched first holds an item of the past and one of the future.
        node = (first[0] - 1) // 16
        since[node * 16 + 1] = 9.0
        until[node * 16 + 1] = NAN
        other = 1 - node
        until[other * 16 + 1] = NAN
        available = Availability(model.catalogue, since=since, until=until)
        lists = rank_histories(
            model, users, history, lengths, 1, 1,
            available=available.at(torch.full((6,), 5.0)),
        )  # fmt: skip
    assert lists.items[:, 0].tolist() == [int(other) * 16 + 1] * 6
    assert asked[1:] == [(6, 1, 1), (3, 1, 2), (3, 1, 2)]


def test_times_follow_the_rows_through_widths_of_exclusion():
    """Rows with more excluded items are searched by themselves, at their own times."""
    rng = np.random.default_rng(5)
    catalogue = Catalogue(table([[i // 5, i % 5] for i in range(20)], (4, 5)))
    model = tiger(table([[i // 5, i % 5] for i in range(20)], (4, 5)), window=5)
    users, history, lengths = batch(rng, 20)
    until = torch.arange(21).double()  # item n is there until n
    available = Availability(catalogue, until=until).at(torch.tensor([20.0, 19.0, 18.0, 17.0]))
    excluded = torch.tensor([[0] * 7, [1, 2, 3, 4, 5, 6, 19], [0] * 6 + [18], [0] * 7])
    with torch.no_grad():
        lists = rank_histories(
            model, users, history, lengths, 5, 20, excluded=excluded, available=available
        )
    found = [sorted(item for item in row if item) for row in lists.items.tolist()]
    assert found == [[20], [20], [19, 20], [17, 18, 19, 20]]
