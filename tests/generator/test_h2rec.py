import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.evaluation import expected_hits
from recbole_sid.generator import h2rec as h2rec_module
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.h2rec import H2Rec, H2RecSettings
from recbole_sid.generator.h2rec_losses import code_alignment_loss, granularity_loss
from tests.generator.catalogues import random_table, table
from tests.generator.contracts import (
    ALL,
    HISTORY,
    LENGTHS,
    TARGETS,
    USERS,
    lists_are_the_best,
    lists_hold_only_what_may_be_listed,
    packed_is_prefix_training,
)

SIDS = random_table(np.random.default_rng(4), 25, (4, 5, 3), "dedup")
TIED = random_table(np.random.default_rng(4), 25, (2, 2, 2), "none")
KINDS = [{}, {"fusion": "mean"}, {"share_backbone": False}]


def h2rec(sids=SIDS, seed: int = 0, window: int = 6, **changes: object) -> H2Rec:
    """A small H2Rec in evaluation mode with random weights, float32, no dropout, L_rec alone."""
    values: dict[str, object] = {
        "fusion": "gate",
        "share_backbone": True,
        "lambda_code": 0.0,
        "align_prefix": 2,
        "align_temperature": 0.5,
        "lambda_seq": 0.0,
        "mask_share": 0.5,
        "mask_temperature": 0.1,
        "window_stride": 1,
        "window_targets": None,
        "beam_size": 10,
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "head_size": 8,
        "layers": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "embedding_init": 0.5,
    }
    torch.manual_seed(seed)
    settings = H2RecSettings(**(values | changes))  # type: ignore[arg-type]
    model = H2Rec(settings, Catalogue(sids), window, torch.arange(50) * 7).eval()
    if model.sid_vectors.gate is not None:
        for weight in model.sid_vectors.gate.values():
            torch.nn.init.normal_(weight)
    return model


@pytest.mark.parametrize("together", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_prefix_training_have_the_same_loss_and_gradients(kind, together):
    packed_is_prefix_training(h2rec(**kind), together)


@pytest.mark.parametrize("at_once", [1, 60, 2**24])
@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_sum_of_both_branches_and_its_softmax_the_likelihood(
    kind, at_once, monkeypatch
):
    monkeypatch.setattr(h2rec_module, "SCORES_AT_ONCE", at_once)
    model = h2rec(**kind)
    sid_table, hid_table = model.sid_vectors(), model.hid_embedding.weight
    for row, length in enumerate(LENGTHS.tolist()):
        items = HISTORY[row : row + 1, :length]
        of_sid = model.backbones[0](sid_table[items])[0, -1]
        of_hid = model.backbones[-1](hid_table[items])[0, -1]
        scores = sid_table[1:] @ of_sid + hid_table[1:] @ of_hid
        found = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)[row]
        torch.testing.assert_close(found, torch.log_softmax(scores, dim=0))
        loss = model.prefix_loss(
            USERS[:1], items, LENGTHS[row : row + 1], TARGETS[row : row + 1]
        ).item()
        assert loss == pytest.approx(-found[TARGETS[row] - 1].item(), abs=1e-5)


def test_backbones_are_one_or_two():
    assert len(h2rec().backbones) == 1
    assert len(h2rec(share_backbone=False).backbones) == 2


@pytest.mark.parametrize("sids", [SIDS, TIED])
def test_the_sid_vector_is_the_weighted_sum_of_its_codes(sids):
    model = h2rec(sids)
    vectors = model.sid_vectors
    weight, gate = vectors.embedding.weight, vectors.gate
    offsets = sids.offsets
    for item in (1, 8, 25):
        codes = [1 + offsets[level] + sids.codes[item - 1, level] for level in range(3)]
        logits = [weight[c] @ gate["weight"][level] for level, c in enumerate(codes)]
        share = torch.softmax(torch.stack(logits) + gate["bias"], dim=0)
        expected = sum(share[level] * weight[c] for level, c in enumerate(codes))
        torch.testing.assert_close(vectors()[item], expected)
        plain = h2rec(sids, fusion="mean").sid_vectors
        expected = plain.embedding.weight[codes].mean(dim=0)
        torch.testing.assert_close(plain()[item], expected)


def test_the_dedup_digit_says_nothing():
    sids = table([[0, 1], [0, 1], [1, 0]], (2, 2), "dedup")
    assert sids.n_levels == 3
    vectors = h2rec(sids).sid_vectors()
    assert torch.equal(vectors[1], vectors[2])
    assert not torch.equal(vectors[1], vectors[3])


@pytest.mark.parametrize(("share", "lacking"), [(0.5, 1), (0.1, 1), (0.7, 2), (1.0, 3)])
def test_masking_puts_whole_levels_of_a_row_out(share, lacking):
    model = h2rec()
    vectors = model.sid_vectors
    weight, tokens = vectors.embedding.weight, vectors.tokens[HISTORY]
    weights = vectors.weights(tokens)
    torch.manual_seed(1)
    masked = vectors.masked(HISTORY, share)
    drawn = set()
    for row in range(3):
        found = []
        for out in torch.cartesian_prod(*[torch.tensor([False, True])] * 3):
            mask_tokens = torch.tensor(list(vectors.mask_tokens))
            seen = torch.where(out, mask_tokens, tokens[row])
            expected = (weights[row][..., None] * weight[seen]).sum(dim=1)
            if torch.allclose(masked[row], expected, atol=1e-5):
                found.append(tuple(out.tolist()))
        assert len(found) == 1
        assert sum(found[0]) == lacking
        drawn |= set(found)
    assert share == 1.0 or len(drawn) > 1


def test_code_alignment_is_of_the_distinct_targets_and_their_near_codes():
    plain, aligned = h2rec(TIED), h2rec(TIED, lambda_code=0.3)
    batch = (USERS, HISTORY, LENGTHS)
    targets = torch.tensor([12, 4, 12])
    items = torch.tensor([4, 12])
    codes = torch.from_numpy(TIED.codes[items - 1])
    near = (codes[:, None, :2] == codes[:, :2]).all(dim=2)
    expected = code_alignment_loss(
        plain.hid_embedding.weight[items], plain.sid_vectors()[items], near, 0.5
    )
    difference = aligned.prefix_loss(*batch, targets) - plain.prefix_loss(*batch, targets)
    torch.testing.assert_close(difference, 0.3 * expected, atol=1e-5, rtol=1e-5)
    # All items have the first code in common with some; more levels than there are count as all.
    several = torch.arange(1, 26)
    history = HISTORY[:1].expand(25, -1)
    lengths, users = torch.full((25,), 3), torch.arange(25)
    losses = [
        h2rec(TIED, lambda_code=1.0, align_prefix=prefix).prefix_loss(
            users, history, lengths, several
        )
        for prefix in (1, 2, 3, 9)
    ]
    assert losses[0] < losses[1] < losses[2] == losses[3]


def test_the_granularity_loss_is_of_each_rows_last_trained_place():
    plain, masking = h2rec(), h2rec(lambda_seq=0.3)
    places = torch.tensor([[2, 0], [0, 3], [1, 2]])
    targets = torch.tensor([[5, 3], [8, 0], [9, 2]])
    torch.manual_seed(5)
    loss = masking.packed_loss(USERS, HISTORY, places, targets)
    torch.manual_seed(5)
    masked = plain.backbones[0](plain.sid_vectors.masked(HISTORY, 0.5))
    whole = plain.backbones[0](plain.sid_vectors()[HISTORY])
    last = ([0, 1, 2], [2, 0, 2])
    expected = granularity_loss(masked[last], whole[last], USERS, 0.1)
    difference = loss - plain.packed_loss(USERS, HISTORY, places, targets)
    torch.testing.assert_close(difference, 0.3 * expected, atol=1e-5, rtol=1e-5)


def test_a_weight_of_zero_draws_nothing_and_costs_nothing(monkeypatch):
    monkeypatch.setattr(h2rec_module, "code_alignment_loss", None)
    monkeypatch.setattr(h2rec_module, "granularity_loss", None)
    model = h2rec()
    model.sid_vectors.masked = None
    state = torch.random.get_rng_state()
    model.prefix_loss(USERS, HISTORY, LENGTHS, TARGETS)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("sids", [SIDS, TIED])
@pytest.mark.parametrize("at_once", [1, 60, 2**24])
def test_lists_are_the_best_of_all_items(sids, at_once, monkeypatch):
    monkeypatch.setattr(h2rec_module, "SCORES_AT_ONCE", at_once)
    model = h2rec(sids)
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(3))
    lists_are_the_best(model, beam_size=1)


@pytest.mark.parametrize("sids", [SIDS, TIED])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_lists_hold_only_what_is_there_and_is_not_excluded(sids, at_once, monkeypatch):
    monkeypatch.setattr(h2rec_module, "SCORES_AT_ONCE", at_once)
    lists_hold_only_what_may_be_listed(h2rec(sids), beam_size=10)


def test_items_of_one_sid_are_told_apart():
    model = h2rec(TIED)
    same = [item for item in range(1, 26) if (TIED.codes[item - 1] == TIED.codes[0]).all()]
    assert len(same) > 1
    ranked = model.rank(USERS, HISTORY, LENGTHS, 25, 1)
    assert (ranked.scores[:, 1:] < ranked.scores[:, :-1]).all()
    # A list without the target is no hit, whichever item of its SID it holds.
    items = torch.tensor([[same[0], 24]])
    sizes = torch.ones_like(items)
    hits, weights = expected_hits(items, sizes, torch.tensor([same[1]]), model.catalogue)
    assert hits.tolist() == [[0, 0]]
    hits, weights = expected_hits(items, sizes, torch.tensor([same[0]]), model.catalogue)
    assert (hits.tolist(), weights.tolist()) == ([[1, 0]], [1.0])
    assert torch.equal(model.catalogue.node_of_item, Catalogue(TIED).node_of_item)


def test_a_catalogue_given_to_it_stays_as_it_is():
    catalogue = Catalogue(TIED)
    leaves, leaf_of_item = catalogue.leaves()[0].clone(), catalogue.leaf_of_item.clone()
    settings = h2rec().settings
    model = H2Rec(settings, catalogue, 6, torch.arange(50))
    assert model.catalogue is not catalogue
    assert torch.equal(catalogue.leaves()[0], leaves)
    assert torch.equal(catalogue.leaf_of_item, leaf_of_item)
    untied = Catalogue(SIDS)
    assert H2Rec(settings, untied, 6, torch.arange(50)).catalogue is untied


def test_the_catalogue_stays_out_of_the_weights():
    names = {name.split(".")[0] for name in h2rec(TIED).state_dict()}
    assert names == {"sid_vectors", "hid_embedding", "backbones"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers"),
        ({"align_prefix": 0}, "align_prefix"),
        ({"lambda_code": -0.1}, "lambda_code"),
        ({"lambda_seq": -0.1}, "lambda_seq"),
        ({"align_temperature": 0.0}, "align_temperature"),
        ({"mask_share": 0.0}, "mask_share"),
        ({"mask_share": 1.1}, "mask_share"),
        ({"dropout": 1.0}, "dropout"),
        ({"window_targets": 0}, "window_targets"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        h2rec(**changes)
