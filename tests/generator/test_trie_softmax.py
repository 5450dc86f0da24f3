import numpy as np
import pytest
import torch

from recbole_sid.generator import trie_softmax as module
from recbole_sid.generator.beam import children_log_softmax
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.recursive import RecursiveCodebook
from recbole_sid.generator.trie_softmax import TrieSoftmax, _bounded
from tests.generator.catalogues import intrr, random_table, table

# Items 1 to 5. Node (0) has children 0 and 2, node (1) has child 1 alone, node (2) has 0 and 1.
SIDS = table([[0, 0], [0, 2], [1, 1], [2, 0], [2, 1]], (3, 3))


def setup(sids=SIDS, width=4):
    torch.manual_seed(0)
    catalogue = Catalogue(sids)
    codebook = RecursiveCodebook(catalogue.sizes, width, inner_size=6, dropout=0.0)
    items = torch.randn(catalogue.n_items + 1, width)
    softmax = TrieSoftmax(catalogue)
    return softmax, codebook, items, softmax.tables(codebook, items)


def test_tables_hold_codes_and_the_means_of_items_of_the_nodes_that_matter():
    _, codebook, items, (top, bottom) = setup()
    first, second = codebook.weights
    torch.testing.assert_close(top[0], first[0] + (items[1] + items[2]) / 2)
    torch.testing.assert_close(top[1], first[1] + items[3])
    # Item 3 is an only child and is never scored: four of the five leaves are held.
    expected = [second[0] + items[1], second[2] + items[2], second[0] + items[4]]
    torch.testing.assert_close(bottom, torch.stack([*expected, second[1] + items[5]]))


def test_likelihoods_by_hand():
    softmax, codebook, _, tables = setup()
    hidden = torch.randn(3, 4)
    got = softmax.log_likelihood(codebook, tables, hidden, torch.tensor([2, 3, 4]))
    level_1 = torch.log_softmax(hidden @ tables[0].T, dim=1)
    query = codebook.query(1, hidden[0], tables[0][0])
    second = torch.log_softmax(tables[1][:2] @ query, dim=0)
    torch.testing.assert_close(got[0], level_1[0, 0] + second[1])
    torch.testing.assert_close(got[1], level_1[1, 1])  # the second code follows by itself
    query = codebook.query(1, hidden[2], tables[0][2])
    second = torch.log_softmax(tables[1][2:] @ query, dim=0)
    torch.testing.assert_close(got[2], level_1[2, 2] + second[0])


@pytest.mark.parametrize("collision", ["none", "dedup"])
def test_both_ways_to_multiply_and_the_exact_scores_agree(collision, monkeypatch):
    sids = random_table(np.random.default_rng(3), 40, (3, 4, 3), collision)
    softmax, codebook, vectors, tables = setup(sids)
    hidden = torch.randn(1, 4).expand(40, -1)
    items = torch.arange(1, 41)
    leaf_of_item = softmax.catalogue.leaf_of_item[1:].long()
    found = []
    for in_vain in (0, 10**9):
        monkeypatch.setattr(module, "_IN_VAIN", in_vain)
        found.append(softmax.log_likelihood(codebook, tables, hidden, items))
        model = intrr(sids, softmax="children", node_vectors=True, decoding="beam")
        model.codebook, model.item_embedding.weight.data = codebook, vectors
        (beams,) = model._beams(hidden[:2], 40)
        scores = found[-1].new_zeros(len(leaf_of_item)).index_put((leaf_of_item,), found[-1])
        alive = beams.scores[0] > -torch.inf
        assert sorted(beams.leaves[0][alive].tolist()) == sorted(set(leaf_of_item.tolist()))
        torch.testing.assert_close(beams.scores[0][alive], scores[beams.leaves[0][alive]])
    torch.testing.assert_close(*found)
    leaves = softmax.leaf_log_probs(codebook, tables, hidden[:2], at_once=50)
    torch.testing.assert_close(leaves[1, leaf_of_item], found[0])


def test_levels_without_a_choice_cost_nothing():
    sids = table([[0, 1, 0], [1, 0, 1], [2, 2, 1]], (3, 3, 2))
    softmax, codebook, _, tables = setup(sids)
    assert [len(part) for part in tables] == [3, 0, 0]
    hidden = torch.randn(2, 4)
    expected = torch.log_softmax(hidden @ tables[0].T, dim=1)
    items = torch.tensor([3, 1])
    got = softmax.log_likelihood(codebook, tables, hidden, items)
    torch.testing.assert_close(got, expected[[0, 1], [2, 0]])
    torch.testing.assert_close(softmax.leaf_log_probs(codebook, tables, hidden, 99), expected)
    model = intrr(sids, softmax="children", node_vectors=True, decoding="beam")
    one = torch.ones(1, dtype=torch.int64)
    assert sorted(model.rank(one, one[:, None], one, 3, 3).items[0].tolist()) == [1, 2, 3]


def test_children_share_their_probability():
    legal = torch.tensor([[True, True, False], [False, False, False], [False, True, False]])
    logits = torch.tensor([[1.0, 1.0, 9.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = torch.tensor([[np.log(0.5), np.log(0.5), 0.0], [0.0] * 3, [0.0] * 3])
    torch.testing.assert_close(children_log_softmax(logits, legal), expected.float())


def test_runs_of_forks_hold_what_they_may():
    counts = torch.tensor([2, 2, 3, 9])
    # A fork takes 1 and a child 10: 21 and 42 fit into 45, 3 * 31 do not.
    assert _bounded(counts, 1, 10, 45) == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert _bounded(counts, 1, 10, 10**6) == [slice(0, 4)]


def test_children_and_masks_of_the_catalogue():
    catalogue = Catalogue(SIDS)
    rows, children = catalogue.children_of(1, torch.tensor([2, 0, 1]))
    assert rows.tolist() == [0, 0, 1, 1, 2]
    assert children.tolist() == [3, 4, 0, 1, 2]
    mask = catalogue.child_mask(1, torch.tensor([0, 1]))
    assert mask.tolist() == [[True, False, True], [False, True, False]]
    assert catalogue.node_of_item.tolist() == [[0, 0], [0, 0], [0, 1], [1, 2], [2, 3], [2, 4]]
