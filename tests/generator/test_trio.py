import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_sid.errors import InputError
from recbole_sid.generator import duet as duet_module
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.duet import Duet, DuetSettings
from recbole_sid.generator.trio import TextProjection, Trio, TrioSettings
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
VECTORS = np.random.default_rng(5).normal(size=(25, 7)).astype(np.float32)
OWN = {
    "items_weight": 0.4,
    "items_share": 0.3,
    "text_weight": 0.6,
    "text_share": 0.2,
    "text_temperature": 0.5,
    "text_inner_size": 5,
    "text_dropout": 0.0,
}


def trio(**changes: object) -> Trio:
    """A small Trio in evaluation mode with random weights, float32, no dropout."""
    own = {key: changes.pop(key, value) for key, value in OWN.items()}
    like = {"softmax": "children", "node_vectors": True, "vectors": VECTORS}
    model = intrr(SIDS, **(like | {"content_vectors": False} | changes))  # type: ignore[arg-type]
    settings = TrioSettings(**vars(model.settings), **own)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return Trio(settings, Catalogue(SIDS, VECTORS), 6, torch.arange(50) * 7).eval()


def duet_of(model: Trio, items_share: float) -> Duet:
    """A Duet with the weights that a Trio has of it."""
    values = {key: value for key, value in vars(model.trio).items() if not key.startswith("text_")}
    settings = DuetSettings(**(values | {"items_share": items_share}))
    alone = Duet(settings, Catalogue(SIDS, VECTORS), 6, torch.arange(50) * 7).eval()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("text")}
    alone.load_state_dict(own)
    return alone


def text_log_probs(model: Trio) -> torch.Tensor:
    """ln p_text of all items, step by step."""
    vectors = torch.from_numpy(VECTORS)
    centred = vectors - vectors.mean(dim=0)
    tokens = model.text.layers(centred / (centred**2).mean().sqrt())  # (25, width)
    states = model.text_backbone(F.pad(tokens, (0, 0, 1, 0))[HISTORY])
    last = model.text_head(states[torch.arange(3), LENGTHS - 1])
    cosines = F.cosine_similarity(last[:, None], tokens[None], dim=-1)  # (3, 25)
    return (cosines / model.trio.text_temperature).log_softmax(dim=1)


@pytest.mark.parametrize("changes", [{}, {"text_inner_size": 0}, {"item_token": "recursive"}])
def test_the_loss_is_that_of_duet_and_the_weighted_one_of_the_texts(changes):
    model = trio(**changes)
    of_duet = duet_of(model, 0.3).prefix_loss(USERS, HISTORY, LENGTHS, TARGETS)
    of_text = -text_log_probs(model)[torch.arange(3), TARGETS - 1].mean()
    loss = model.prefix_loss(USERS, HISTORY, LENGTHS, TARGETS)
    assert loss.item() == pytest.approx((of_duet + 0.6 * of_text).item(), abs=1e-5)


def test_under_autocast_the_loss_of_the_texts_is_float32(monkeypatch):
    model = trio(text_temperature=0.05)  # scores up to 20, which bf16 rounds by up to 0.06
    model.train()
    table = model._table().detach().requires_grad_()
    monkeypatch.setattr(model, "_table", lambda: table)
    hidden = torch.randn(50, table.shape[1], requires_grad=True)
    targets = torch.arange(50) % 25 + 1

    def of_text() -> torch.Tensor:
        whole = model._cross_entropy(hidden, targets)
        ids = [model._halves(both)[0] for both in (hidden, table)]
        return (whole - model._duet_loss(*ids, targets)) / 0.6

    exact = of_text()
    with torch.autocast("cpu", torch.bfloat16):
        loss = of_text()
    assert loss.item() == pytest.approx(exact.item(), abs=1e-5)
    # Of the gradients, the products alone are rounded.
    for given in (hidden, table):
        expected, found = (
            torch.autograd.grad(value, given, retain_graph=True)[0].chunk(2, dim=1)[1]
            for value in (exact, loss)
        )
        assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("together", [None, 2])
def test_packed_and_prefix_training_have_the_same_loss_and_gradients(together):
    packed_is_prefix_training(trio(), together)


@pytest.mark.parametrize("at_once", [1, 60, 2**24])
def test_a_score_is_the_weighted_sum_of_three_distributions_over_items(at_once, monkeypatch):
    monkeypatch.setattr(duet_module, "SCORES_AT_ONCE", at_once)

    def scores(items_share: float, text_share: float) -> torch.Tensor:
        model = trio(items_share=items_share, text_share=text_share)
        return model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)

    items, texts, codes = scores(1.0, 0.0), scores(0.0, 1.0), scores(0.0, 0.0)
    torch.testing.assert_close(texts, text_log_probs(trio()))
    for share, found in ((1.0, items), (0.0, codes)):
        alone = duet_of(trio(), share).log_likelihood(USERS, HISTORY, LENGTHS, ALL)
        torch.testing.assert_close(found, alone)
    torch.testing.assert_close(scores(0.3, 0.2), 0.3 * items + 0.2 * texts + 0.5 * codes)


@pytest.mark.parametrize("decoding", ["exact", "beam"])
@pytest.mark.parametrize("shares", [(0.3, 0.2), (0.0, 0.0), (0.0, 1.0)])
def test_lists_are_the_best_of_all_items(shares, decoding):
    model = trio(items_share=shares[0], text_share=shares[1], decoding=decoding)
    lists_are_the_best(model, beam_size=25)


@pytest.mark.parametrize("decoding", ["exact", "beam"])
def test_lists_hold_only_what_may_be_listed(decoding):
    lists_hold_only_what_may_be_listed(trio(decoding=decoding), beam_size=25)


def test_the_text_branch_shares_no_weight_with_the_rest():
    model = trio(items_share=0.0, text_share=1.0)
    loss = model.log_likelihood(USERS, HISTORY, LENGTHS, TARGETS[:, None]).sum()
    names, weights = zip(*model.named_parameters(), strict=True)
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    moved = {
        name for name, slope in zip(names, slopes, strict=True) if slope is not None and slope.any()
    }
    assert {name.partition(".")[0] for name in moved} == {"text", "text_backbone", "text_head"}


def test_in_evaluation_the_table_of_items_is_kept_until_a_weight_changes(monkeypatch):
    model = trio(decoding="beam")
    made = []
    project = model.text.forward
    monkeypatch.setattr(
        model.text, "forward", lambda given: made.append(len(given)) or project(given)
    )

    def scores() -> torch.Tensor:
        with torch.no_grad():
            return model.rank(USERS, HISTORY, LENGTHS, 5, 10).scores

    first = scores()
    assert made == [3, 25]  # the histories of three users, and all items
    assert torch.equal(scores(), first)
    assert made == [3, 25, 3]
    for change in (model.text.layers[-1].bias, model.item_embedding.weight, model.text.mean):
        before, n_made = scores(), made.count(25)
        with torch.no_grad():
            change.add_(torch.randn(change.shape))
        after = scores()
        assert not torch.equal(after, before)
        assert made.count(25) == n_made + 1
        model.forget()
        assert torch.equal(scores(), after)


def test_texts_are_centred_and_scaled_by_those_of_training():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]])  # mean 3, 4; squares 8 + 24 of 6
    projection = TextProjection(vectors, trio().trio)
    assert projection.mean.tolist() == [3.0, 4.0]
    assert projection.scale.item() == pytest.approx((32 / 6) ** 0.5)
    later = TextProjection(vectors * 100 - 7, trio().trio)
    later.load_state_dict(projection.state_dict())
    new = torch.tensor([[9.0, -1.0]])
    torch.testing.assert_close(later(new), projection(new))
    same = TextProjection(torch.ones(3, 2), trio().trio)  # nothing to tell apart: no division by 0
    assert torch.isfinite(same(torch.ones(1, 2))).all()


def test_shares_may_leave_the_codes_nothing():
    assert trio(items_share=0.9, text_share=0.1).trio.text_share == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_share": 0.71}, r"'text_share' is 0\.71.* from 0 to 1 - items_share, which is 0\.7"),
        ({"text_share": -0.1}, "text_share"),
        ({"text_weight": 0.0}, "text_weight"),
        ({"text_temperature": 0.0}, "text_temperature"),
        ({"text_inner_size": -1}, "text_inner_size"),
        ({"text_dropout": 1.0}, "text_dropout"),
        ({"items_weight": 0.0}, "items_weight"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        trio(**changes)
