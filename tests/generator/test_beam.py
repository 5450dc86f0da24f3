"""Beam search against brute force over every item, on random scores and random tables."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.generator.availability import Availability
from recbole_sid.generator.beam import Beams, Step, beam_search, rank_items, search
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.sid.table import SemanticIDs
from tests.generator.catalogues import random_table, table


class TableDecoder:
    """Logits looked up by prefix: an arbitrary distribution, without a network."""

    def __init__(self, sizes: tuple[int, ...], batch_size: int, seed: int):
        self.sizes, self.batch_size, self.device = sizes, batch_size, torch.device("cpu")
        generator = torch.Generator().manual_seed(seed)
        self.logits = [
            torch.randn(batch_size, *sizes[:level], sizes[level], generator=generator) * 3
            for level in range(len(sizes))
        ]
        self.prefixes: torch.Tensor | None = None

    def step(self, level, parents, codes):
        if level == 0:
            self.prefixes = torch.zeros(self.batch_size, 1, 0, dtype=torch.int64)
        else:
            rows = torch.arange(self.batch_size)[:, None]
            self.prefixes = torch.cat([self.prefixes[rows, parents], codes[..., None]], dim=-1)
        rows = torch.arange(self.batch_size)[:, None].expand(self.prefixes.shape[:2])
        return self.logits[level][(rows, *self.prefixes.unbind(-1))]

    def log_likelihood(self, user: int, sid: np.ndarray) -> float:
        total = 0.0
        for level in range(len(self.sizes)):
            scores = torch.log_softmax(self.logits[level][user].double(), dim=-1)
            total += scores[tuple(sid[: level + 1].tolist())].item()
        return total


def brute_force(
    decoder: TableDecoder, sids: SemanticIDs, user: int
) -> list[tuple[float, str, int]]:
    """All items of the catalogue, best first; items of one SID in raw-token order."""
    scored = [
        (-decoder.log_likelihood(user, codes), token, row + 1)
        for row, (token, codes) in enumerate(zip(sids.tokens, sids.codes, strict=True))
    ]
    return sorted(scored)


tables = st.tuples(
    st.integers(0, 10_000),
    st.integers(1, 30),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.sampled_from(["none", "dedup"]),
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_a_beam_as_wide_as_the_catalogue_is_the_brute_force_ranking(case):
    seed, n_items, sizes, collision = case
    sids = random_table(np.random.default_rng(seed), n_items, tuple(sizes), collision)
    catalogue = Catalogue(sids)
    decoder = TableDecoder(sids.sizes, 3, seed)
    ranked = rank_items(beam_search(decoder, catalogue, n_items), catalogue, n_items)
    for user in range(3):
        expected = brute_force(decoder, sids, user)
        assert ranked.items[user].tolist() == [item for _, _, item in expected]
        expected_scores = [-score for score, _, _ in expected]
        np.testing.assert_allclose(ranked.scores[user].numpy(), expected_scores, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 12))
def test_at_any_width_items_are_legal_distinct_and_exactly_scored(case, width):
    seed, n_items, sizes, collision = case
    sids = random_table(np.random.default_rng(seed), n_items, tuple(sizes), collision)
    catalogue = Catalogue(sids)
    decoder = TableDecoder(sids.sizes, 2, seed)
    k = n_items + 2
    ranked = rank_items(beam_search(decoder, catalogue, width), catalogue, k)
    n_leaves = len(np.unique(sids.codes, axis=0))
    for user in range(2):
        items = [item for item in ranked.items[user].tolist() if item]
        assert len(items) == len(set(items))
        assert len({tuple(sids.codes[item - 1]) for item in items}) <= min(width, n_leaves)
        assert len(items) >= min(width, n_leaves)
        for item, score in zip(items, ranked.scores[user].tolist(), strict=False):
            exact = decoder.log_likelihood(user, sids.codes[item - 1])
            assert score == pytest.approx(exact, abs=1e-4)
        empty = ranked.items[user] == 0
        assert torch.isinf(ranked.scores[user][empty]).all()
        assert not empty[: len(items)].any()


def test_fewer_items_than_beams_leave_empty_places():
    catalogue = Catalogue(table([[0, 0], [1, 1], [1, 0]], (2, 2)))
    decoder = TableDecoder((2, 2), 1, seed=1)
    ranked = rank_items(beam_search(decoder, catalogue, 10), catalogue, 5)
    assert sorted(ranked.items[0, :3].tolist()) == [1, 2, 3]
    assert ranked.items[0, 3:].tolist() == [0, 0]
    assert ranked.scores[0, 3:].tolist() == [-torch.inf] * 2


def test_leaves_expand_to_their_items_in_token_order():
    # Items 1, 2 and 4 share the SID (0, 0), item 3 has (1, 1): leaves 0 and 1.
    catalogue = Catalogue(table([[0, 0], [0, 0], [1, 1], [0, 0]], (2, 2)))
    beams = Beams(torch.tensor([[1, 0], [0, 0]]), torch.tensor([[-1.0, -2.0], [-3.0, -torch.inf]]))
    ranked = rank_items(beams, catalogue, 3)
    assert ranked.items.tolist() == [[3, 1, 2], [1, 2, 4]]
    assert ranked.scores.tolist() == [[-1.0, -2.0, -2.0], [-3.0, -3.0, -3.0]]
    assert ranked.group_sizes.tolist() == [[1, 3, 3], [3, 3, 3]]


def test_scores_are_over_the_whole_level_not_over_the_legal_children():
    # One item, four codes a level, uniform scores: log(1/4) twice, although only one path is legal.
    catalogue = Catalogue(table([[2, 3]], (4, 4)))
    decoder = TableDecoder((4, 4), 1, seed=0)
    decoder.logits = [torch.zeros(1, 4), torch.zeros(1, 4, 4)]
    ranked = rank_items(beam_search(decoder, catalogue, 3), catalogue, 1)
    assert ranked.items.tolist() == [[1]]
    assert ranked.scores[0, 0].item() == pytest.approx(2 * np.log(0.25), abs=1e-6)


def test_no_users_get_no_lists():
    sids = table([[0, 0], [1, 1]], (2, 2))
    catalogue = Catalogue(sids)
    nobody = Beams(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    for available in (None, Availability(catalogue).at(torch.zeros(0, dtype=torch.float64))):
        ranked = rank_items(nobody, catalogue, 4, available)
        assert [tuple(field.shape) for field in ranked] == [(0, 4)] * 3


def test_a_scorer_is_told_where_the_search_stands():
    # Prefix 0 has the leaves 0 (0, 1) and 1 (0, 3), prefix 2 the leaf 2 (2, 0).
    catalogue = Catalogue(table([[0, 1], [0, 3], [2, 0]], (3, 4)))
    steps: list[Step] = []

    class Uniform:
        batch_size, device = 1, torch.device("cpu")

        def log_probs(self, step):
            steps.append(step)
            return torch.arange(step.children.numel()).view(step.children.shape) * -1.0

    beams = search(Uniform(), catalogue, 9)
    first, second = steps
    assert (first.level, first.parents, first.codes) == (0, None, None)
    assert first.nodes.tolist() == [[0]]
    assert (first.children.tolist(), first.child_codes.tolist()) == ([[[0, 1]]], [[[0, 2]]])
    assert second.level == 1
    assert (second.parents.tolist(), second.codes.tolist()) == ([[0, 0]], [[0, 2]])
    assert second.nodes.tolist() == [[0, 1]]
    assert second.legal.tolist() == [[[True, True], [True, False]]]
    # No child: node 0.
    assert second.children.tolist() == [[[0, 1], [2, 0]]]
    assert second.child_codes[second.legal].tolist() == [1, 3, 0]
    # Log-probabilities 0 and -1, then 0, -1 and -2.
    assert beams.leaves.tolist() == [[0, 1, 2, 0]]
    assert beams.scores.tolist() == [[0, -1, -3, -torch.inf]]
