"""What may be ranked, against a look at every item; and searches that are cut by it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.generator.availability import Availability
from recbole_sid.generator.beam import Beams, beam_search, rank_items, search
from recbole_sid.generator.catalogue import Catalogue
from tests.generator.catalogues import intrr, random_table, table, tiger
from tests.generator.test_beam import TableDecoder, brute_force

NAN = float("nan")
bounds = st.one_of(st.just(NAN), st.integers(0, 6).map(float))
cases = st.tuples(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.booleans(), bounds, bounds), min_size=1, max_size=25),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.sampled_from(["none", "dedup"]),
    st.one_of(st.none(), st.lists(st.integers(0, 6).map(float), min_size=3, max_size=3)),
)


def there(item: tuple[bool, float, float], time: float | None) -> bool:
    """The rule for one item, in plain words."""
    allowed, since, until = item
    if time is None:
        return allowed
    begun = np.isnan(since) or since <= time
    ended = not np.isnan(until) and time > until
    # An item that ends before it begins is never there; the two lines above see to that.
    return allowed and begun and not ended


def availability(catalogue: Catalogue, items: list[tuple[bool, float, float]]) -> Availability:
    allowed, since, until = zip((True, NAN, NAN), *items, strict=True)
    return Availability(
        catalogue,
        torch.tensor(allowed),
        torch.tensor(since, dtype=torch.float64),
        torch.tensor(until, dtype=torch.float64),
    )


@settings(max_examples=80, deadline=None)
@given(cases)
def test_items_leaves_nodes_and_counts(case):
    seed, items, sizes, collision, times = case
    sids = random_table(np.random.default_rng(seed), len(items), tuple(sizes), collision)
    catalogue = Catalogue(sids)
    available = availability(catalogue, items).at(None if times is None else torch.tensor(times))
    n_rows = 1 if times is None else 3
    expected = torch.tensor(
        [[there(item, None if times is None else times[row]) for item in items]
         for row in range(n_rows)]
    )  # fmt: skip
    numbers = torch.arange(len(items) + 1).expand(n_rows, -1)
    found = available.items(numbers)
    assert not found[:, 0].any()
    assert torch.equal(found[:, 1:], expected)
    assert available.count().tolist() == expected.sum(dim=1).tolist()
    leaf = catalogue.leaf_of_item[1:]
    n_leaves = int(leaf.max()) + 1
    of_leaf = torch.stack([expected[:, leaf == n].any(dim=1) for n in range(n_leaves)], dim=1)
    assert torch.equal(available.leaves(0, n_leaves), of_leaf)
    middle = n_leaves // 2
    assert torch.equal(available.leaves(middle, n_leaves), of_leaf[:, middle:])
    assert torch.equal(available.rows(slice(1, 3)).items(numbers[1:]), found[1:])
    for depth in range(1, catalogue.n_levels + 1):
        node = catalogue.node_of_item[1:, depth - 1]
        nodes = torch.arange(int(node.max()) + 1).expand(n_rows, -1)
        may = available.nodes(depth, nodes)
        does = torch.stack([expected[:, node == n].any(dim=1) for n in nodes[0]], dim=1)
        assert (may | ~does).all()  # never cuts a node with an available item below it
        single = torch.bincount(node) == 1
        assert torch.equal(may[:, single], does[:, single])
        if times is None:
            assert torch.equal(may, does)


def test_a_node_knows_the_span_of_its_items_only():
    # Node 0 holds items 1 (until 10) and 2 (from 20), node 1 item 3, forbidden.
    catalogue = Catalogue(table([[0, 0], [0, 1], [1, 0]], (2, 2)))
    items = [(True, NAN, 10.0), (True, 20.0, NAN), (False, NAN, NAN)]
    available = availability(catalogue, items).at(torch.tensor([5.0, 15.0, 25.0, 10.0, 20.0]))
    assert available.nodes(1, torch.tensor([[0, 1]] * 5)).tolist() == [[True, False]] * 5
    found = available.nodes(2, torch.tensor([[0, 1, 2]] * 5)).tolist()
    first, none, second = [True, False, False], [False] * 3, [False, True, False]
    assert found == [first, none, second, first, second]
    assert available.count().tolist() == [1, 0, 1, 1, 1]


def test_seconds_of_today_are_told_apart():
    """32-bit floats are 128 seconds apart there."""
    catalogue = Catalogue(table([[0, 0]], (1, 1)))
    until = torch.tensor([0.0, 1.7e9], dtype=torch.float64)
    times = torch.tensor([1.7e9, 1.7e9 + 1], dtype=torch.float64)
    assert Availability(catalogue, until=until).at(times).count().tolist() == [1, 0]


def test_times_that_are_no_numbers_are_refused():
    catalogue = Catalogue(table([[0, 0]], (1, 1)))
    with pytest.raises(InputError, match="1 of 2 times are not finite"):
        Availability(catalogue).at(torch.tensor([1.0, NAN]))


@settings(max_examples=80, deadline=None)
@given(cases)
def test_a_whole_beam_is_the_brute_force_ranking_of_what_is_available(case):
    seed, items, sizes, collision, times = case
    sids = random_table(np.random.default_rng(seed), len(items), tuple(sizes), collision)
    catalogue = Catalogue(sids)
    available = availability(catalogue, items).at(None if times is None else torch.tensor(times))
    for softmax in ("level", "children"):
        decoder = TableDecoder(sids.sizes, 3, seed)
        beams = beam_search(decoder, catalogue, len(items), softmax, available)
        ranked = rank_items(beams, catalogue, len(items) + 2, available)
        whole = rank_items(
            beam_search(decoder, catalogue, len(items), softmax), catalogue, len(items)
        )
        for user in range(3):
            time = None if times is None else times[user]
            order = [item for _, _, item in brute_force(decoder, sids, user)]
            if softmax == "children":
                order = whole.items[user].tolist()
            expected = [item for item in order if there(items[item - 1], time)]
            found = ranked.items[user].tolist()
            assert found == expected + [0] * (len(found) - len(expected))
            assert len(found) == len(items) + 2
            # What is left out changes no score.
            score_of = dict(zip(whole.items[user].tolist(), whole.scores[user], strict=True))
            for place, item in enumerate(expected):
                assert ranked.scores[user, place] == score_of[item]
                group = [n for n in expected if np.array_equal(sids.codes[n - 1],
                                                               sids.codes[item - 1])]  # fmt: skip
                assert ranked.group_sizes[user, place] == len(group)
            assert torch.isinf(ranked.scores[user, len(expected) :]).all()
            assert (ranked.group_sizes[user, len(expected) :] == 1).all()


def test_a_group_is_what_remains_of_it():
    # Items 1, 2 and 4 share a SID, item 3 has its own; item 1 is over, item 4 has not begun for
    # the first row.
    catalogue = Catalogue(table([[0, 0], [0, 0], [1, 1], [0, 0]], (2, 2)))
    items = [(True, NAN, 0.0), (True, NAN, NAN), (True, NAN, NAN), (True, 5.0, NAN)]
    available = availability(catalogue, items).at(torch.tensor([2.0, 6.0]))
    beams = Beams(torch.tensor([[1, 0], [0, 1]]), torch.tensor([[-1.0, -2.0], [-1.0, -2.0]]))
    ranked = rank_items(beams, catalogue, 4, available)
    assert ranked.items.tolist() == [[3, 2, 0, 0], [2, 4, 3, 0]]
    assert ranked.group_sizes.tolist() == [[1, 1, 1, 1], [2, 2, 1, 1]]
    assert ranked.scores.tolist() == [[-1, -2, -torch.inf, -torch.inf], [-1, -1, -2, -torch.inf]]


@pytest.mark.parametrize("collision", ["none", "dedup"])
@pytest.mark.parametrize("softmax", ["level", "children"])
@pytest.mark.parametrize("kind", ["tiger", "exact", "beam"])
def test_generators_rank_what_is_available_and_score_it_as_ever(
    kind, softmax, collision, monkeypatch
):
    rng = np.random.default_rng(3)
    sids = random_table(rng, 40, (4, 4, 3), collision)
    if kind == "tiger":
        model = tiger(sids, softmax=softmax)
    else:
        model = intrr(sids, softmax=softmax, decoding=kind)
        # Several chunks of users and of leaves.
        monkeypatch.setattr("recbole_sid.generator.intrr._SCORES_AT_ONCE", 200)
    items = [(bool(rng.random() < 0.8), *(float(t) for t in rng.integers(0, 9, 2))) for _ in
             range(40)]  # fmt: skip
    times = torch.tensor([2.0, 4.0, 6.0, 8.0])
    available = availability(model.catalogue, items).at(times)
    users = torch.arange(4)
    history = torch.from_numpy(rng.integers(1, 41, (4, 5)))
    lengths = torch.tensor([5, 3, 1, 4])
    history[torch.arange(5) >= lengths[:, None]] = 0
    with torch.no_grad():
        ranked = model.rank(users, history, lengths, 40, 40, available=available)
        exact = model.log_likelihood(users, history, lengths, torch.arange(1, 41).expand(4, -1))
    for row, time in enumerate(times.tolist()):
        expected = {n for n, item in enumerate(items, start=1) if there(item, time)}
        found = [item for item in ranked.items[row].tolist() if item]
        assert len(found) == len(expected) > 0
        assert set(found) == expected
        scores = exact[row][torch.tensor(found) - 1]
        torch.testing.assert_close(ranked.scores[row, : len(found)], scores, atol=1e-4, rtol=0)
        assert (scores.diff() <= 1e-4).all()


class _Fixed:
    """The same log-probabilities (codes,) at every level, whatever the beam."""

    batch_size, device = 1, torch.device("cpu")

    def __init__(self, log_probs: list[float]):
        self.of_code = torch.tensor(log_probs)

    def log_probs(self, step):
        return self.of_code[step.child_codes]


def test_a_beam_of_one_takes_the_branch_that_leads_on():
    # Code 0 is likelier at both levels, but only item 4, of SID 1-1, may be ranked.
    catalogue = Catalogue(table([[0, 0], [0, 1], [1, 0], [1, 1]], (2, 2)))
    items = [(False, NAN, NAN)] * 3 + [(True, NAN, NAN)]
    scorer = _Fixed([-0.5, -1.0])
    free = search(scorer, catalogue, beam_size=1)
    cut = search(scorer, catalogue, beam_size=1, available=availability(catalogue, items).at(None))
    leaf = catalogue.leaf_of_item
    assert (free.leaves.item(), free.scores.item()) == (leaf[1], -1.0)
    assert (cut.leaves.item(), cut.scores.item()) == (leaf[4], -2.0)
