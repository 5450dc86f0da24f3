"""Filling digits in any order against a search that is written out, on random scores."""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.generator import diffgrm_decoding
from recbole_sid.generator.availability import Availability
from recbole_sid.generator.beam import rank_items
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.diffgrm_decoding import (
    PartialSIDs,
    Steps,
    fill,
    first_of_each,
    rank_states,
)
from tests.generator.catalogues import random_table, table


class Scores:
    """Logits of every code in every state: an arbitrary model, without a network.

    As they are they serve as log-probabilities, where none but different ones are wanted: a digit
    with one code would make states that are equally good.
    """

    def __init__(self, sizes: tuple[int, ...], batch_size: int, seed: int):
        self.sizes = sizes
        generator = torch.Generator().manual_seed(seed)
        shape = (batch_size, *(size + 1 for size in sizes), sum(sizes))
        self.table = -3 * torch.rand(shape, generator=generator)
        self.offsets = torch.tensor([0, *itertools.accumulate(sizes)][:-1])

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        user = torch.arange(len(states))[:, None].expand(states.shape[:2])
        codes = torch.where(states > 0, states - self.offsets, 0)
        return self.table[(user, *codes.unbind(-1))]

    def logits(self, states: torch.Tensor) -> list[torch.Tensor]:
        return list(self(states).split(self.sizes, dim=-1))

    def of_digit(self, user: int, codes: dict[int, int], digit: int) -> torch.Tensor:
        place = tuple(codes.get(d, -1) + 1 for d in range(len(self.sizes)))
        return self.table[(user, *place)].split(self.sizes)[digit]

    def one(self, user: int, codes: dict[int, int], digit: int, code: int) -> float:
        return self.of_digit(user, codes, digit)[code].item()

    def log_prob(self, user: int, codes: dict[int, int], digit: int, code: int, sids) -> float:
        """Over the codes of those ``sids`` that have the ``codes``; over all without ``sids``."""
        of_digit = self.of_digit(user, codes, digit)
        among = list(range(self.sizes[digit]))
        if sids is not None:
            fits = [sid for sid in sids if all(sid[d] == c for d, c in codes.items())]
            among = sorted({sid[digit] for sid in fits})
        return torch.log_softmax(of_digit[among], dim=0)[among.index(code)].item()

    def of_orders(self, user: int, sid: tuple[int, ...], sids) -> list[float]:
        """The log-probabilities of a SID, filled in any order; ``sids`` as for a code's."""

        @functools.cache
        def one(filled: frozenset[int], digit: int) -> float:
            return self.log_prob(user, {d: sid[d] for d in filled}, digit, sid[digit], sids)

        return [
            sum(one(frozenset(order[:step]), digit) for step, digit in enumerate(order))
            for order in itertools.permutations(range(len(sid)))
        ]


def searched(scores: Scores, user: int, sids: set[tuple[int, ...]], width: int):
    """The best full states of one user, found with dictionaries; and whether any was cut."""
    states: dict[frozenset[tuple[int, int]], float] = {frozenset(): 0.0}
    cut = False
    for _ in scores.sizes:
        grown: dict[frozenset[tuple[int, int]], float] = {}
        for state, score in states.items():
            for sid in sids:
                pairs = set(enumerate(sid))
                for digit, code in pairs - state if state <= pairs else ():
                    new = state | {(digit, code)}
                    value = score + scores.one(user, dict(state), digit, code)
                    grown[new] = max(value, grown.get(new, -np.inf))
        cut |= len(grown) > width
        states = dict(sorted(grown.items(), key=lambda pair: -pair[1])[:width])
    full = {tuple(code for _, code in sorted(state)): score for state, score in states.items()}
    return full, cut


def found_by(scores: Scores, sids: PartialSIDs, width: int, available=None, batch_size: int = 2):
    def step(states: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        return torch.where(sids.legal(states, alive, available), scores(states), -torch.inf)

    return fill(step, sids, batch_size, width)


def as_sids(found, offsets: torch.Tensor, user: int) -> dict[tuple[int, ...], float]:
    alive = found.scores[user] > -torch.inf
    codes = (found.states[user] - 1 - offsets)[alive].tolist()
    assert len({tuple(sid) for sid in codes}) == len(codes)
    return dict(zip(map(tuple, codes), found.scores[user][alive].tolist(), strict=True))


cases = st.tuples(
    st.integers(0, 10_000),
    st.integers(1, 25),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from(["none", "dedup"]),
    st.integers(1, 15),
)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_it_keeps_the_best_legal_and_different_states_of_every_step(case):
    seed, n_items, sizes, collision, width = case
    table_ = random_table(np.random.default_rng(seed), n_items, tuple(sizes), collision)
    scores = Scores(table_.sizes, 2, seed)
    sids = PartialSIDs(Catalogue(table_))
    found = found_by(scores, sids, width)
    for user in range(2):
        expected, cut = searched(scores, user, set(map(tuple, table_.codes.tolist())), width)
        got = as_sids(found, scores.offsets, user)
        assert list(got) == list(expected)
        assert list(got.values()) == pytest.approx(list(expected.values()), abs=1e-4)
        assert found.cut[user] == cut


@settings(max_examples=15, deadline=None)
@given(cases, st.sampled_from(["legal", "digit"]))
def test_where_nothing_is_cut_a_sids_score_is_that_of_its_best_order(case, softmax):
    seed, n_items, sizes, collision, _ = case
    table_ = random_table(np.random.default_rng(seed), n_items, tuple(sizes), collision)
    scores = Scores(table_.sizes, 2, seed)
    catalogue = Catalogue(table_)
    sids = PartialSIDs(catalogue)
    found = fill(Steps(scores.logits, sids, softmax, None), sids, 2, 1000)
    assert not found.cut.any()
    codes = [tuple(sid) for sid in table_.codes.tolist()]
    among = set(codes) if softmax == "legal" else None
    ranked = rank_items(rank_states(found, sids), catalogue, n_items + 1)
    for user in range(2):
        best = [max(scores.of_orders(user, sid, among)) for sid in codes]
        *items, none = ranked.items[user].tolist()
        assert none == 0
        assert sorted(items) == list(range(1, n_items + 1))
        scored = ranked.scores[user, :-1].tolist()
        assert scored == sorted(scored, reverse=True)
        # Items whose scores differ by less than float32 tells apart may stand either way round.
        assert scored == pytest.approx([best[item - 1] for item in items], abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(cases, st.booleans())
def test_only_what_is_available_counts_as_an_item(case, at_times):
    seed, n_items, sizes, collision, width = case
    rng = np.random.default_rng(seed)
    table_ = random_table(rng, n_items, tuple(sizes), collision)
    scores = Scores(table_.sizes, 2, seed)
    catalogue = Catalogue(table_)
    allowed = torch.from_numpy(rng.random(n_items + 1) < 0.7)
    until = torch.from_numpy(rng.integers(0, 4, n_items + 1).astype(float))
    times = torch.tensor([1.0, 3.0]) if at_times else None
    available = Availability(catalogue, allowed, until=until).at(times)
    sids = PartialSIDs(catalogue)
    found = found_by(scores, sids, width, available)
    for user in range(2):
        there = allowed & (until >= times[user]) if times is not None else allowed
        of_user = {tuple(table_.codes[row]) for row in there[1:].nonzero()[:, 0].tolist()}
        expected, _ = searched(scores, user, of_user, width)
        got = as_sids(found, scores.offsets, user)
        assert list(got) == [tuple(map(int, sid)) for sid in expected]
    leaves = rank_states(found, sids).leaves[found.scores > -torch.inf]
    assert len(leaves) == (found.scores > -torch.inf).sum()


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from(["legal", "digit"]), st.booleans(), st.booleans())
def test_a_codes_probability_does_not_depend_on_what_is_available(case, softmax, some, at_times):
    seed, n_items, sizes, collision, _ = case
    rng = np.random.default_rng(seed)
    table_ = random_table(rng, n_items, tuple(sizes), collision)
    scores, catalogue = Scores(table_.sizes, 2, seed), Catalogue(table_)
    sids, codes = PartialSIDs(catalogue), [tuple(sid) for sid in table_.codes.tolist()]
    # States of two users, parts of items' SIDs.
    hidden = torch.from_numpy(rng.random((2, 6, catalogue.n_levels)) < 0.6)
    states = catalogue.tokens[torch.from_numpy(rng.integers(1, n_items + 1, (2, 6)))]
    states, alive = states.masked_fill(hidden, 0), torch.from_numpy(rng.random((2, 6)) < 0.8)
    allowed = torch.from_numpy(rng.random(n_items + 1) < 0.6)
    until = torch.from_numpy(rng.integers(0, 4, n_items + 1).astype(float))
    times = torch.tensor([1.0, 3.0]) if at_times else None
    available = Availability(catalogue, allowed, until=until).at(times)
    may = functools.partial(sids.legal, available=available) if some else None
    found = Steps(scores.logits, sids, softmax, may)(states, alive)
    for user, place in itertools.product(range(2), range(6)):
        there = torch.ones(n_items + 1).bool() if not some else allowed.clone()
        if some and times is not None:
            there &= until >= times[user]
        held = {d: int(t - 1 - scores.offsets[d]) for d, t in enumerate(states[user, place]) if t}
        expected = torch.full((sum(table_.sizes),), -torch.inf)
        for item, sid in enumerate(codes, start=1):
            if alive[user, place] and there[item] and all(sid[d] == c for d, c in held.items()):
                for digit in set(range(len(sid))) - set(held):
                    among = set(codes) if softmax == "legal" else None
                    value = scores.log_prob(user, held, digit, sid[digit], among)
                    expected[scores.offsets[digit] + sid[digit]] = value
        torch.testing.assert_close(found[user, place], expected, atol=1e-5, rtol=1e-5)


def test_legal_codes_are_those_of_the_items_that_fit():
    # Tokens: digit 0 has 1 and 2, digit 1 has 3, 4 and 5.
    sids = PartialSIDs(Catalogue(table([[0, 0], [0, 2], [1, 2]], (2, 3))))
    states = torch.tensor([[[0, 0], [1, 0], [0, 5], [2, 0], [1, 3], [0, 0]]])
    alive = torch.tensor([[True] * 5 + [False]])
    legal = sids.legal(states, alive)[0].int().tolist()
    assert legal == [
        [1, 1, 1, 0, 1],
        [0, 0, 1, 0, 1],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_the_items_of_states_are_looked_at_part_by_part(monkeypatch):
    table_ = random_table(np.random.default_rng(5), 40, (3, 4, 2), "dedup")
    scores = Scores(table_.sizes, 2, 0)
    catalogue = Catalogue(table_)
    times = torch.tensor([1.0, 2.0])
    available = Availability(catalogue, until=torch.arange(41) % 4.0).at(times)
    whole = found_by(scores, PartialSIDs(catalogue), 6, available)
    for size in (1, 50):
        monkeypatch.setattr(diffgrm_decoding, "_ITEMS_AT_ONCE", size)
        parts = found_by(scores, PartialSIDs(catalogue), 6, available)
        assert parts.states.tolist() == whole.states.tolist()


def test_the_first_of_equal_keys_stands():
    keys = torch.tensor([[5, 2, 5, 2, 9], [1, 1, 1, 1, 0]])
    assert first_of_each(keys).int().tolist() == [[1, 1, 0, 0, 1], [1, 0, 0, 0, 1]]


def test_nothing_available_finds_nothing():
    catalogue = Catalogue(table([[0, 0], [1, 1]], (2, 2)))
    available = Availability(catalogue, torch.zeros(3, dtype=torch.bool)).at(None)
    sids = PartialSIDs(catalogue)
    found = found_by(Scores((2, 2), 2, 0), sids, 3, available)
    assert torch.isinf(found.scores).all()
    assert not found.cut.any()
    assert rank_states(found, sids).leaves.sum() == 0
