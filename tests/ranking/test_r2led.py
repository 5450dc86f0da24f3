import math

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_sid.errors import InputError
from recbole_sid.sid.table import SemanticIDs

from .data import build, random_ratings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("made"), random_ratings(), history_labels=True)


def sample(model, histories, targets, width, filler=0):
    """Rows of histories in ``width`` columns; what is behind the end holds ``filler``."""
    items = torch.full((len(histories), width), filler)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
    return Interaction(
        {
            model.ITEM_SEQ: items,
            model.ITEM_SEQ_LEN: torch.tensor([len(history) for history in histories]),
            model.ITEM_ID: torch.tensor(targets),
            "label_list": (items % 2).float(),
        }
    )


def by_hand(model, history, target):
    """The log-odds of one row, item by item and head by head, in float64."""
    part = {name: value.double().numpy() for name, value in model.state_dict().items()}
    codes, settings = model.codes.numpy(), model.settings

    def represent(item):
        semantic = sum(part["code_embedding.weight"][code] for code in codes[item])
        own = part["item_embedding.weight"][item]
        weight, bias = part["gate.weight.weight"], part["gate.weight.bias"]
        share = 1 / (1 + np.exp(-(weight @ np.concatenate([semantic, own]) + bias)))
        return share * semantic + (1 - share) * own

    def attend(name, query, vectors):
        if not len(vectors):
            return np.zeros_like(query)
        q = part[f"{name}.query.weight"] @ query + part[f"{name}.query.bias"]
        k = np.array(vectors) @ part[f"{name}.key.weight"].T
        v = np.array(vectors) @ part[f"{name}.value.weight"].T
        pooled = []
        for head in np.split(np.arange(len(query)), settings.n_heads):
            weights = np.exp(k[:, head] @ q[head] / math.sqrt(len(head)))
            pooled.append(weights / weights.sum() @ v[:, head])
        return part[f"{name}.output.weight"] @ np.concatenate(pooled)

    places = range(len(history))
    routes = []
    for length in model.prefixes:
        same = [p for p in places if (codes[history[p]] == codes[target])[:length].all()]
        routes.append(same[-settings.route_items :])
    likeness = [
        part["item_embedding.weight"][item] @ part["item_embedding.weight"][target]
        for item in history
    ]
    routes.append(sorted(places, key=lambda p: -likeness[p])[: settings.route_items])
    routes.append(list(places)[-settings.route_items :])
    aim = represent(target)
    fused = []
    for number, route in enumerate(routes):
        vectors = [
            represent(history[p]) + part["label_embedding.weight"][history[p] % 2] for p in route
        ]
        if vectors:
            fused.append(attend("fusion.over_items", aim, vectors) + part["fusion.route"][number])
    interest = attend("fusion.over_routes", aim, fused)
    filled = [len(route) / settings.route_items for route in routes]
    hidden = np.concatenate([interest, aim, interest * aim, filled])
    for name in sorted(n for n in part if n.startswith("mlp.") and n.endswith("weight")):
        bias = part[name.replace("weight", "bias")]
        hidden = np.maximum(part[name] @ hidden + bias, 0)
    return (part["head.weight"] @ hidden + part["head.bias"]).item()


def test_log_odds_equal_those_worked_out_one_by_one(made):
    _, _, model = made
    with torch.no_grad():
        model.fusion.route.normal_()
        model.gate.weight.bias.normal_()
    rng = np.random.default_rng(7)
    histories = [(rng.permutation(30)[: 1 + n] + 1).tolist() for n in range(12)]
    targets = rng.integers(1, 31, 12).tolist()
    with torch.no_grad():
        found = model.logits(sample(model, histories, targets, 12))
    expected = [by_hand(model, *row) for row in zip(histories, targets, strict=True)]
    assert np.ptp(expected) > 0.01
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_padding_never_matters(made):
    _, _, model = made
    histories, targets = [[3], [5, 9, 2], [7, 8]], [4, 5, 6]
    with torch.no_grad():
        narrow = model.logits(sample(model, histories, targets, 3))
        wide = model.logits(sample(model, histories, targets, 40))
        filled = model.logits(sample(model, histories, targets, 40, filler=5))
        alone = model.logits(sample(model, histories[1:2], targets[1:2], 3))
    torch.testing.assert_close(narrow, wide)
    torch.testing.assert_close(narrow, filled)
    torch.testing.assert_close(narrow[1:2], alone)


def test_an_empty_history_is_judged_by_the_target_alone(made):
    _, _, model = made
    with torch.no_grad():
        found = model.logits(sample(model, [[], [1, 2]], [4, 4], 3))
    assert found.isfinite().all()
    assert found[0].item() == pytest.approx(by_hand(model, [], 4), abs=1e-5)


def test_prediction_and_loss(made):
    _, (train, *_), model = made
    batch = next(iter(train))
    with torch.no_grad():
        odds = model.logits(batch).double()
        probabilities = model.predict(batch).double()
        loss = model.calculate_loss(batch).item()
    clicked = batch["label"].double()
    assert set(clicked.tolist()) == {0.0, 1.0}
    torch.testing.assert_close(probabilities, 1 / (1 + (-odds).exp()))
    terms = clicked * probabilities.log() + (1 - clicked) * (1 - probabilities).log()
    assert loss == pytest.approx(-terms.mean().item(), abs=1e-6)


def test_every_part_learns_and_padding_stays_zero(made):
    _, (train, *_), model = made
    model.zero_grad()
    model.calculate_loss(next(iter(train))).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert not model.item_embedding.weight[0].any()
    assert not model.code_embedding.weight[-1].any()
    model.zero_grad()


def test_labels_of_the_history_are_those_of_the_ratings(tmp_path):
    rows = [("a", f"i{n}", rating) for n, rating in enumerate([5, 1, 4, 3, 5, 2, 4, 1, 5, 1])]
    _, loaders, _ = build(tmp_path, rows, history_labels=True)
    last = loaders[2].dataset.inter_feat[-1]
    assert last["label_list"][:9].tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert last["label"].item() == 0


def test_the_dedup_digit_is_no_code_of_the_model(tmp_path):
    tokens = tuple(f"i{n}" for n in range(30))
    codes = np.array([[n % 3, n % 2, n // 6] for n in range(30)], dtype=np.int32)
    sids = SemanticIDs(tokens, codes, (3, 2, 5), "dedup", {})
    _, _, model = build(tmp_path, random_ratings(), sids, collision="dedup")
    assert model.prefixes == [1, 2]
    assert model.codes.shape == (31, 2)
    assert model.code_embedding.num_embeddings == 3 + 2 + 1
    assert model.codes[0].tolist() == [5, 5]


def test_the_routes_that_are_chosen(tmp_path):
    _, _, model = build(
        tmp_path,
        random_ratings(),
        route_prefixes=[2],
        route_collaborative=False,
        route_latest=False,
    )
    history = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        positions, _ = model.retrieve(history, history > 0, torch.tensor([4]))
    assert positions.shape == (1, 1, 3)
    assert model.fusion.route.shape == (1, 4)
    with pytest.raises(InputError, match=r"'route_prefixes' is \[3\], but must be lengths up to 2"):
        build(tmp_path / "longer", random_ratings(), route_prefixes=[3])


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (random_ratings(), {"threshold": None}, "no column 'label' is loaded"),
        (random_ratings(), {"threshold": {"rating": 1}}, "all labels of the training split are 1"),
        (
            random_ratings(),
            {"threshold": None, "LABEL_FIELD": "rating", "normalize_all": False},
            "must be 0 and 1, but are 1.0, 2.0, 3.0",
        ),
        (random_ratings(), {"learner": "adamax"}, "'learner' is 'adamax', but must be one of"),
        (
            random_ratings(),
            {
                "threshold": None,
                "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
                "history_labels": True,
            },
            "'history_labels' is True, but the histories have no labels",
        ),
    ],
)
def test_data_that_cannot_be_learned_from(tmp_path, rows, changes, message):
    with pytest.raises(InputError, match=message):
        build(tmp_path, rows, **changes)
