import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_sid.errors import InputError
from recbole_sid.generator import duet as duet_module
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.duet import Duet, DuetSettings
from tests.generator.catalogues import intrr, random_table
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
VECTORS = np.random.default_rng(5).normal(size=(25, 7)).astype(np.float32)
KINDS = [
    {},
    {"vectors": VECTORS, "item_embedding": False},
    {"item_token": "recursive"},
    {"backbone": "hstu", "node_vectors": False},
]


def duet(sids=SIDS, vectors=None, **changes: object) -> Duet:
    """A small Duet in evaluation mode with random weights, float32, no dropout."""
    like = {"softmax": "children", "node_vectors": True}
    own = {key: changes.pop(key, value) for key, value in OWN.items()}
    model = intrr(SIDS, vectors=vectors, **(like | changes))
    settings = DuetSettings(**vars(model.settings), **own)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return Duet(settings, Catalogue(sids, vectors), 6, torch.arange(50) * 7).eval()


OWN = {"items_weight": 1.0, "items_share": 0.3}


@pytest.mark.parametrize("together", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_prefix_training_have_the_same_loss_and_gradients(kind, together):
    packed_is_prefix_training(duet(**kind), together)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_codes_and_the_weighted_one_of_the_items(kind):
    model = duet(items_weight=0.4, **kind)
    hidden = model._last(HISTORY, LENGTHS)
    tokens, _ = model._items(torch.arange(1, 26))
    of_items = F.cross_entropy(model.item_head(hidden) @ tokens.T, TARGETS - 1)
    of_codes = -model._item_log_probs(hidden, TARGETS).mean()
    loss = model.prefix_loss(USERS, HISTORY, LENGTHS, TARGETS)
    assert loss.item() == pytest.approx((of_codes + 0.4 * of_items).item(), abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 60, 2**24])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sids", [SIDS, TIED])
def test_a_score_is_the_weighted_sum_of_two_distributions_over_items(
    sids, kind, at_once, monkeypatch
):
    monkeypatch.setattr(duet_module, "SCORES_AT_ONCE", at_once)
    found = {
        share: duet(sids, items_share=share, **kind).log_likelihood(USERS, HISTORY, LENGTHS, ALL)
        for share in (0.0, 0.3, 1.0)
    }
    for share in (0.0, 1.0):
        torch.testing.assert_close(found[share].exp().sum(dim=1), torch.ones(3))
    torch.testing.assert_close(found[0.3], 0.3 * found[1.0] + 0.7 * found[0.0])
    assert not torch.allclose(found[0.0], found[1.0])


def test_items_of_one_sid_share_what_the_codes_say_and_differ_in_what_the_items_do():
    model = duet(TIED)
    same = [item for item in range(1, 26) if (TIED.codes[item - 1] == TIED.codes[0]).all()]
    assert len(same) > 1
    hidden = model._last(HISTORY, LENGTHS)
    items = torch.tensor(same).expand(3, -1)
    of_codes = model._code_scores(hidden, items)
    assert (of_codes == of_codes[:, :1]).all()
    path = model._item_log_probs(hidden, items[:, 0])
    torch.testing.assert_close(of_codes[:, 0].exp() * len(same), path.exp())
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, items)
    assert len(set(scores[0].tolist())) == len(same)


@pytest.mark.parametrize("at_once", [1, 60, 2**24])
@pytest.mark.parametrize("decoding", ["exact", "beam"])
@pytest.mark.parametrize("sids", [SIDS, TIED])
def test_lists_are_the_best_of_all_items(sids, decoding, at_once, monkeypatch):
    monkeypatch.setattr(duet_module, "SCORES_AT_ONCE", at_once)
    lists_are_the_best(duet(sids, decoding=decoding), beam_size=25)


def test_both_heads_propose_items():
    model = duet(decoding="beam")
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)
    of_items = duet(items_share=1.0).log_likelihood(USERS, HISTORY, LENGTHS, ALL)
    found = model._candidates(model._last(HISTORY, LENGTHS), of_items, 3, None)
    by_items = of_items.topk(3, dim=1).indices + 1
    alone = intrr(SIDS, softmax="children", node_vectors=True, decoding="beam")
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if "item_head" not in k})
    by_codes = alone.rank(USERS, HISTORY, LENGTHS, 3, 3).items
    ranked = model.rank(USERS, HISTORY, LENGTHS, 3, 3)
    for row in range(3):
        candidates = sorted(item for item in found[row].tolist() if item)
        assert candidates == sorted({*by_items[row].tolist(), *by_codes[row].tolist()})
        assert len(candidates) > 3
        best = sorted(candidates, key=lambda item, row=row: -scores[row, item - 1].item())[:3]
        assert ranked.items[row].tolist() == best


@pytest.mark.parametrize("decoding", ["exact", "beam"])
@pytest.mark.parametrize("sids", [SIDS, TIED])
def test_lists_hold_only_what_is_there_and_is_not_excluded(sids, decoding):
    lists_hold_only_what_may_be_listed(duet(sids, decoding=decoding), beam_size=25)


def test_the_catalogues_and_the_sizes_of_leaves_stay_out_of_the_weights():
    names = {name.split(".")[0] for name in duet(TIED).state_dict()}
    assert names == {name.split(".")[0] for name in intrr(SIDS).state_dict()} | {"item_head"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"softmax": "level", "node_vectors": False}, "softmax"),
        ({"items_weight": 0.0}, "items_weight"),
        ({"items_share": -0.1}, "items_share"),
        ({"items_share": 1.1}, "items_share"),
        ({"layers": 0}, "layers"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        duet(**changes)
