from __future__ import annotations

import json
import logging
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recbole_sid import settings
from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError
from recbole_sid.items.pairs import ItemPairs
from recbole_sid.resources import resource_dir
from recbole_sid.tokenizer.autoencoder import Autoencoder
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.quasid import QuaSID, QuaSIDSettings

CPU = torch.device("cpu")
YAML = resource_dir("properties") / "tokenizer" / "quasid.yaml"
SMALL = {
    "levels": 2,
    "codebook_size": 8,
    "hidden_sizes": [16],
    "latent_dim": 8,
    "learning_rate": 0.01,
    "epochs": 8,
    "batch_size": 64,
    "restart_after": 10,
    "log_every": 4,
}


def configured(**changes: Any) -> QuaSIDSettings:
    values = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    values |= {f"tokenizer_{name}": value for name, value in {**SMALL, **changes}.items()}
    return settings.build(QuaSIDSettings, values, "tokenizer_")


def tokenizer(seed: int = 0, **changes: Any) -> QuaSID:
    return QuaSID(configured(**changes), seed=seed, device=CPU, progress=False)


def pairs_of(neighbours: list[list[int]], scores: list[list[float]]) -> ItemPairs:
    offsets = np.cumsum([0, *map(len, neighbours)]).astype(np.int64)
    return ItemPairs(
        offsets,
        np.array(list(chain(*neighbours)), dtype=np.int32),
        np.array(list(chain(*scores)), dtype=np.float32),
    )


def catalogue(n: int = 192, noise: float = 1.0) -> Items:
    """Items near one of eight centres; the neighbours of each are the next two of its centre."""
    rng = np.random.RandomState(0)
    centres = 4 * rng.randn(8, 12)
    vectors = (centres[np.arange(n) % 8] + noise * rng.randn(n, 12)).astype(np.float32)
    neighbours = [[(row + 8) % n, (row + 16) % n] for row in range(n)]
    pairs = pairs_of(neighbours, [[2.0, 1.0]] * n)
    return Items(tuple(f"item{row:03}" for row in range(n)), vectors, pairs)


def drawn(neighbours: list[list[int]], scores: list[list[float]], **changes: Any) -> np.ndarray:
    """The targets of each item in 3,000 epochs: (3000, n)."""
    n = len(neighbours)
    learner = tokenizer(epochs=1, batch_size=2, **changes)
    vectors = np.random.RandomState(0).randn(n, 4).astype(np.float32)
    learner.fit(Items(tuple(map(str, range(n))), vectors, pairs_of(neighbours, scores)))
    torch.manual_seed(0)
    found = np.empty((3000, n), dtype=np.int64)
    for targets in found:
        for rows in learner.batches(n):
            triggers, others = rows.numpy().reshape(2, -1)
            targets[triggers] = others
    return found


NEIGHBOURS = [[1, 2], [0], [], [0, 1, 2]]
SCORES = [[3.0, 1.0], [5.0], [], [2.0, 1.0, 1.0]]


def test_batches_are_triggers_then_targets_and_each_item_is_a_trigger_once():
    learner = tokenizer(batch_size=50, epochs=1)
    learner.fit(catalogue())
    batches = list(learner.batches(192))
    assert [len(rows) for rows in batches] == [100, 100, 100, 84]
    triggers = torch.cat([rows[: len(rows) // 2] for rows in batches])
    targets = torch.cat([rows[len(rows) // 2 :] for rows in batches])
    assert sorted(triggers.tolist()) == list(range(192))
    assert set(((targets - triggers) % 192).tolist()) == {8, 16}
    assert [learner.pairs_in(rows) for rows in batches] == [50, 50, 50, 42]


@pytest.mark.parametrize(
    ("sampling", "of_0", "of_3"),
    [
        ("nearest", {1: 1.0}, {0: 1.0}),
        ("uniform", {1: 0.5, 2: 0.5}, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}),
        ("proportional", {1: 0.75, 2: 0.25}, {0: 0.5, 1: 0.25, 2: 0.25}),
    ],
)
def test_targets_are_drawn_among_the_neighbours(sampling, of_0, of_3):
    found = drawn(NEIGHBOURS, SCORES, pair_sampling=sampling)
    for item, expected in ((0, of_0), (1, {0: 1.0}), (2, {2: 1.0}), (3, of_3)):
        targets, counts = np.unique(found[:, item], return_counts=True)
        assert targets.tolist() == list(expected)
        assert counts / 3000 == pytest.approx(list(expected.values()), abs=0.04)


def test_some_triggers_may_be_their_own_target():
    found = drawn(NEIGHBOURS, SCORES, pair_sampling="nearest", pair_probability=0.25)
    assert np.mean(found[:, 1] == 0) == pytest.approx(0.25, abs=0.04)
    assert set(found[:, 1]) == {0, 1}


def test_no_item_has_a_neighbour():
    assert (drawn([[], []], [[], []]) == [0, 1]).all()


def test_losses_are_those_of_the_rqvae_and_two_more_in_units_of_squared_length():
    learner = tokenizer(contrastive_weight=0.3, contrastive_temperature=0.5, codebook_size=2)
    learner.begin_epoch(1)
    model = Autoencoder(3, learner.settings)
    vectors = 2 * torch.nn.functional.normalize(torch.randn(6, 3), dim=1)  # squared length 4
    rows = torch.tensor([0, 1, 2, 1, 3, 0])
    output = model(vectors)
    # Codes that make 0-3 a positive and a full collision, and 0-1 a conflict.
    codes = torch.tensor([[1, 1], [1, 1], [0, 0], [1, 1], [0, 0], [1, 0]])
    output = output._replace(quantized=output.quantized._replace(codes=codes))
    terms = learner.losses(output, vectors, rows)
    assert terms.keys() == {
        "reconstruction", "commitment", "repulsion_full", "repulsion_partial", "contrastive",
    }  # fmt: skip
    cosine = torch.cosine_similarity(output.latents[:, None], output.latents[None], dim=2)

    def mean_loss(pairs: list[tuple[int, int]], margin: float) -> float:
        return sum(max(0.0, margin - 1 + cosine[i, j].item()) for i, j in pairs) / len(pairs)

    # H = 0: 0-1 and 2-4; 0-3 is a positive, 1-3 one item. H = 1: 1-5 and 3-5; 0-5 is one item;
    # 2-5 is a positive; 4-5 stays.
    full = 4 * 0.2 * mean_loss([(0, 1), (2, 4)], 0.8)
    partial = 4 * 0.1 * mean_loss([(1, 5), (3, 5), (4, 5)], 0.5)
    assert terms["repulsion_full"].item() == pytest.approx(full, abs=1e-5)
    assert terms["repulsion_partial"].item() == pytest.approx(partial, abs=1e-5)
    logits = cosine[:3, 3:] / 0.5
    contrastive = (logits.logsumexp(dim=1) - logits.diagonal()).mean().item()
    assert terms["contrastive"].item() == pytest.approx(4 * 0.3 * contrastive, rel=1e-5)


def test_losses_between_items_teach_the_encoder_alone():
    learner = tokenizer(codebook_update="gradient", codebook_size=2)
    model = Autoencoder(3, learner.settings)
    vectors, rows = torch.randn(8, 3), torch.arange(8)
    between = learner.losses_between(model(vectors), vectors, rows)
    torch.stack(list(between.values())).sum().backward()
    assert all(p.grad is None for p in model.quantizer.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_lonely_items_may_be_left_out_of_the_contrastive_mean():
    vectors = np.random.RandomState(0).randn(4, 4).astype(np.float32)
    items = Items(tuple("abcd"), vectors, pairs_of(NEIGHBOURS, SCORES))
    rows = torch.tensor([0, 1, 2, 1, 0, 2])  # triggers 0, 1 and 2, which is lonely
    losses = {}
    for choice in ("self", "drop"):
        learner = tokenizer(lonely_items=choice, epochs=1, contrastive_weight=1.0)
        learner.fit(items)
        torch.manual_seed(0)
        model = Autoencoder(4, learner.settings)
        inputs = torch.from_numpy(vectors)[rows]
        output = model(inputs)
        losses[choice] = learner.losses_between(output, inputs, rows)["contrastive"].item()
        logits = torch.nn.functional.normalize(output.latents, dim=1)
        logits = logits[:3] @ logits[3:].T / learner.settings.contrastive_temperature
        each = (logits.logsumexp(dim=1) - logits.diagonal()).tolist()
    assert losses["self"] == pytest.approx(sum(each) / 3, rel=1e-5)
    assert losses["drop"] == pytest.approx(sum(each[:2]) / 2, rel=1e-5)


def test_the_contrastive_weight_follows_its_schedule():
    learner = tokenizer(contrastive_schedule=[0.0, 1.0], epochs=3)
    model = Autoencoder(3, learner.settings)
    vectors, rows = torch.randn(8, 3), torch.arange(8)
    output = model(vectors)
    values = []
    for epoch in (1, 2, 3):
        learner.begin_epoch(epoch)
        values.append(learner.losses(output, vectors, rows)["contrastive"].item())
    assert values == pytest.approx([0, values[2] / 2, values[2]])
    assert values[2] > 0
    off = tokenizer(contrastive_weight=0.0)
    assert "contrastive" not in off.losses(output, vectors, rows)


def test_deterministic_whatever_the_order_of_rows_and_the_global_state():
    items = catalogue()
    torch.manual_seed(1)
    first = tokenizer(seed=3).fit(items)
    order = np.random.RandomState(2).permutation(192)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = tokenizer(seed=3).fit(items.take(order.tolist()))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.codes[order], again.codes)
    assert first.report == again.report
    assert not np.array_equal(first.codes, tokenizer(seed=4).fit(items).codes)


def test_repulsion_lowers_the_collisions():
    items = catalogue(noise=3.0)
    options = {"epochs": 40, "batch_size": 192, "codebook_size": 16}
    strong = {"repulsion_weight_full": 3.0, "repulsion_weight_partial": 0.3}
    alone = tokenizer(**options, repulsion="none").fit(items).report
    repelled = tokenizer(**options, **strong).fit(items).report
    assert repelled["collision_rate"] < 0.9 * alone["collision_rate"]
    assert repelled["history"][-1]["entropy"] > alone["history"][-1]["entropy"]
    assert "pairs_full" not in alone["history"][-1]


def test_report_and_log(caplog):
    with caplog.at_level(logging.INFO, "recbole_sid"):
        report = tokenizer(epochs=4).fit(catalogue()).report
    entry = report["history"][-1]
    # A target is a trigger too, often in the same batch: one item twice, with one SID.
    assert entry["masked_full"] > 0
    assert 0 < entry["distance_full"] < 2
    assert 0 < entry["entropy"] <= entry["entropy_ceiling"] == pytest.approx(np.log(192))
    assert json.loads(json.dumps(report)) == report
    line = next(r.getMessage() for r in caplog.records if "epoch 4" in r.getMessage())
    assert line.startswith("quasid epoch 4: loss ")
    assert "contrastive" in line
    assert f"pairs full {entry['pairs_full']} + {entry['masked_full']} masked at D" in line
    assert "SID entropy" in line
    assert line.endswith("masked at D %.2f" % entry["distance_partial"])  # noqa: UP031


def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch):
    options: dict[str, Any] = {
        "dropout": 0.1,
        "pair_probability": 0.5,
        "repulsion_schedule": [0.0, 1.0],
        "contrastive_schedule": [0.0, 1.0],
        "epochs": 6,
        "log_every": 1,
    }
    items = catalogue()
    undisturbed = tokenizer(**options).fit(items)

    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE", 0.0)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE_PER_SECOND_OF_WRITING", 0)
    killed = tokenizer(**options)
    killed.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    begin_epoch = killed.begin_epoch

    def die_in_the_fourth(epoch: int) -> None:
        begin_epoch(epoch)
        if epoch == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(killed, "begin_epoch", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(items)
    resumed = tokenizer(**options)
    resumed.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    state = resumed.checkpoint.load(CPU)
    assert state is not None
    assert state["progress"]["epoch"] == 3
    fitted = resumed.fit(items)
    assert np.array_equal(fitted.codes, undisturbed.codes)
    assert fitted.report == undisturbed.report


def test_pairs_are_needed():
    items = catalogue()
    with pytest.raises(InputError, match="pair_source"):
        tokenizer().fit(Items(items.tokens, items.vectors))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contrastive_weight", -0.1),
        ("contrastive_temperature", 0.0),
        ("contrastive_schedule", [1.0, 1.0, 1.0]),
        ("pair_probability", 1.5),
        ("pair_sampling", "best"),
        ("lonely_items", "skip"),
        ("repulsion_radius", 2),
        ("loss_unit", "meter"),
    ],
)
def test_bounds(name, value):
    with pytest.raises(InputError, match=f"tokenizer_{name}"):
        configured(**{name: value})


def test_the_yaml_file_holds_each_setting_once_and_the_values_of_the_paper():
    values = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    assert sorted(values) == sorted(settings.keys(QuaSIDSettings, "tokenizer_"))
    built = settings.build(QuaSIDSettings, values, "tokenizer_")
    assert built.sizes == (256, 256, 256)
    assert (built.repulsion, built.repulsion_radius, built.repulsion_masking) == ("hamr", 1, True)
    assert (built.repulsion_margin_full, built.repulsion_margin_partial) == (0.8, 0.5)
    assert (built.repulsion_weight_full, built.repulsion_weight_partial) == (0.2, 0.1)
    assert built.repulsion_exempt_cosine is None
    assert built.repulsion_severity == 1
    assert built.repulsion_schedule == built.contrastive_schedule == [1, 1]
