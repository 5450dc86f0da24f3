import itertools

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.generator import intrr as intrr_module
from tests.generator.catalogues import intrr, random_table, table
from tests.generator.contracts import ALL, HISTORY, LENGTHS, USERS, packed_is_prefix_training

SIDS = random_table(np.random.default_rng(4), 25, (4, 5, 3), "dedup")
VECTORS = np.random.default_rng(5).normal(size=(25, 7)).astype(np.float32)
KINDS = [
    {},
    {"backbone": "hstu"},
    {"item_token": "recursive"},
    {"item_embedding": False},
    {"vectors": VECTORS},
    {"vectors": VECTORS, "item_embedding": False, "item_token": "recursive"},
    {"softmax": "children"},
    {"softmax": "children", "node_vectors": True},
    {"softmax": "children", "node_vectors": True, "vectors": VECTORS, "item_embedding": False},
]


@pytest.mark.parametrize("together", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_prefix_training_have_the_same_loss_and_gradients(kind, together):
    packed_is_prefix_training(intrr(SIDS, **kind), together)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_negative_log_likelihood(kind):
    model = intrr(SIDS, **kind)
    targets = torch.tensor([2, 4, 6])
    loss = model.prefix_loss(USERS, HISTORY, LENGTHS, targets)
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, targets[:, None])
    assert loss.item() == pytest.approx(-scores.mean().item(), abs=1e-5)


def test_the_likelihoods_of_all_code_tuples_sum_to_one():
    codes = [list(codes) for codes in itertools.product(range(2), range(3), range(2))]
    model = intrr(table(codes, (2, 3, 2)))
    items = torch.arange(1, 13)[None]
    scores = model.log_likelihood(USERS[:1], HISTORY[:1], LENGTHS[:1], items)
    assert scores.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("node_vectors", [False, True])
def test_without_mass_on_missing_sids_the_likelihoods_of_all_items_sum_to_one(node_vectors):
    model = intrr(SIDS, softmax="children", node_vectors=node_vectors)
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(3))


def test_the_vectors_of_nodes_take_part_in_the_score():
    # Codes (0, 0) and (1, 0) differ in level 1 only: level 2 is the same network for both.
    sids = table([[0, 0], [0, 1], [1, 0], [1, 1]], (2, 2))
    model = intrr(sids, softmax="children", node_vectors=True)
    hidden = torch.randn(1, 16)
    items = model.item_embedding.weight
    first, second = (book.weight for book in model.codebook.codebooks)
    top = [first[0] + (items[1] + items[2]) / 2, first[1] + (items[3] + items[4]) / 2]
    level_1 = torch.log_softmax(torch.stack([hidden[0] @ node for node in top]), dim=0)
    query = model.codebook.query(1, hidden[0], top[1])
    logits = torch.stack([query @ (second[0] + items[3]), query @ (second[1] + items[4])])
    expected = level_1[1] + torch.log_softmax(logits, dim=0)[0]
    got = model._item_log_probs(hidden, torch.tensor([3]))
    torch.testing.assert_close(got[0], expected)


@pytest.mark.parametrize("collision", ["none", "dedup"])
@pytest.mark.parametrize("at_once", [1, 40, 2**26])
@pytest.mark.parametrize("softmax", ["level", "children"])
def test_exact_decoding_ranks_by_the_likelihood_of_every_item(
    softmax, collision, at_once, monkeypatch
):
    monkeypatch.setattr(intrr_module, "_SCORES_AT_ONCE", at_once)
    sids = random_table(np.random.default_rng(4), 25, (3, 3, 2), collision)
    model = intrr(sids, softmax=softmax, node_vectors=softmax == "children")
    scores = model.log_likelihood(USERS, HISTORY, LENGTHS, ALL)
    ranked = model.rank(USERS, HISTORY, LENGTHS, 25, beam_size=1)
    torch.testing.assert_close(ranked.scores, scores.sort(dim=1, descending=True).values)
    torch.testing.assert_close(ranked.scores, scores.gather(1, ranked.items - 1))
    assert all(len(set(row)) == 25 for row in ranked.items.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_finds_what_exact_decoding_finds(kind):
    exact = intrr(SIDS, **kind)
    beam = intrr(SIDS, **kind, decoding="beam")
    first = exact.rank(USERS, HISTORY, LENGTHS, 10, beam_size=1)
    second = beam.rank(USERS, HISTORY, LENGTHS, 10, beam_size=25)
    torch.testing.assert_close(first.scores, second.scores)
    assert torch.equal(first.items, second.items)


def test_positions_without_a_target_carry_no_loss():
    model = intrr(SIDS)
    history, places = torch.tensor([[3, 7, 1, 2]]), torch.tensor([[0, 2]])
    loss = model.packed_loss(USERS[:1], history, places, torch.tensor([[0, 4]]))
    single = model.prefix_loss(
        USERS[:1], torch.tensor([[3, 7, 1]]), torch.tensor([3]), torch.tensor([4])
    )
    assert loss.item() == pytest.approx(single.item(), abs=1e-5)


def test_the_reconstruction_loss_holds_the_codes_of_the_history():
    plain = intrr(SIDS, item_token="recursive")
    held = intrr(SIDS, item_token="recursive", reconstruction_weight=0.5)
    batch = (torch.tensor([[3, 7, 0]]), torch.tensor([[0, 1]]), torch.tensor([[7, 9]]))
    difference = held.packed_loss(USERS[:1], *batch) - plain.packed_loss(USERS[:1], *batch)
    items = torch.tensor([3, 7])
    _, logits = held._items(items)
    codes = held.catalogue.codes[items]
    expected = sum(
        -torch.log_softmax(logits[level], dim=-1)[range(2), codes[:, level]].mean()
        for level in range(held.catalogue.n_levels)
    )
    torch.testing.assert_close(difference, 0.5 * expected, atol=1e-5, rtol=1e-5)


def test_content_alone_serves_items_that_no_history_held():
    model = intrr(SIDS, vectors=VECTORS, item_embedding=False)
    names = [name for name, _ in model.named_parameters()]
    assert not any("item_embedding" in name for name in names)
    tokens, _ = model._items(torch.tensor([4]))
    codes = model.codebook.embed(model.catalogue.codes[[4]])
    torch.testing.assert_close(tokens - codes, model.content(torch.from_numpy(VECTORS[[3]])))


def test_vectors_are_asked_for_only_with_content():
    settings = intrr(SIDS).settings
    assert not intrr_module.IntRR.needs_vectors(settings)
    assert intrr_module.IntRR.needs_vectors(intrr(SIDS, vectors=VECTORS).settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_token": "recursive", "item_embedding": False}, "item_token"),
        ({"node_vectors": True}, "node_vectors"),
        (
            {"softmax": "children", "node_vectors": True, "item_embedding": False},
            "node_vectors",
        ),
        ({"softmax": "children", "label_smoothing": 0.1}, "label_smoothing"),
        ({"layers": 0}, "layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"temperature": 0.0}, "temperature"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        intrr(SIDS, **changes)


class TestKeptTables:
    """In evaluation the nodes' vectors are kept between requests until a weight changes."""

    users, history, lengths = torch.tensor([1]), torch.tensor([[3, 5, 2]]), torch.tensor([3])

    def model(self, seed=0):
        rng = np.random.default_rng(1)
        vectors = rng.normal(size=(40, 5)).astype(np.float32)
        settings = {"softmax": "children", "node_vectors": True, "decoding": "beam"}
        return intrr(random_table(rng, 40, (3, 4, 3), "dedup"), seed, vectors=vectors, **settings)

    def scores(self, model):
        with torch.no_grad():
            return model.rank(self.users, self.history, self.lengths, k=10, beam_size=10).scores

    def counted(self, model, monkeypatch):
        """The calls that make tables, from now on."""
        calls = []
        make = model.trie_softmax.tables
        monkeypatch.setattr(
            model.trie_softmax, "tables", lambda *args: calls.append(1) or make(*args)
        )
        return calls

    def test_they_are_made_once_and_the_scores_are_the_same_to_the_bit(self, monkeypatch):
        model = self.model()
        calls = self.counted(model, monkeypatch)
        first, second = self.scores(model), self.scores(model)
        assert len(calls) == 1
        assert torch.equal(first, second)
        assert torch.equal(self.scores(self.model()), first)
        with torch.inference_mode():
            inferred = model.rank(self.users, self.history, self.lengths, k=10, beam_size=10)
        assert torch.equal(inferred.scores, first)
        assert len(calls) == 1

    def changed_in_place(self, model):
        with torch.no_grad():
            model.content.bias.add_(torch.randn(model.content.bias.shape))
        return model

    def trained(self, model):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        places, targets = torch.tensor([[0, 1]]), torch.tensor([[5, 2]])
        model.packed_loss(self.users, self.history[:, :2], places, targets).backward()
        optimizer.step()
        return model.eval()

    def loaded(self, model):
        model.load_state_dict(self.model(seed=1).state_dict())
        return model

    def assigned(self, model):
        model.load_state_dict(self.model(seed=1).state_dict(), assign=True)
        return model

    def replaced(self, model):
        model.item_embedding.weight.data = torch.randn(model.item_embedding.weight.shape)
        return model

    def other_vectors(self, model):
        model.catalogue.vectors = torch.randn(model.catalogue.vectors.shape)
        return model

    @pytest.mark.parametrize(
        "change",
        ["changed_in_place", "trained", "loaded", "assigned", "replaced", "other_vectors"],
    )
    def test_a_change_of_weights_drops_them(self, change):
        model = self.model()
        before = self.scores(model)
        after = self.scores(getattr(self, change)(model))
        assert not torch.equal(after, before)
        model.forget()
        assert torch.equal(self.scores(model), after)

    def test_another_device_or_type_drops_them(self):
        model = self.model()
        self.scores(model)
        assert model.float()._kept_tables.empty
        self.scores(model)
        assert model.to("meta")._kept_tables.empty

    def test_training_makes_its_own(self, monkeypatch):
        model = self.model()
        self.scores(model)
        calls = self.counted(model, monkeypatch)
        items = torch.tensor([[4, 7]])
        likelihood = model.log_likelihood(self.users, self.history, self.lengths, items)
        likelihood.sum().backward()
        assert calls
        assert model.item_embedding.weight.grad.abs().sum() > 0
