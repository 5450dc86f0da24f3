from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.autoencoder import Autoencoder, encode
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.rqvae import RQVAE, RQVAESettings

CPU = torch.device("cpu")
DEFAULTS = {
    "levels": 2,
    "codebook_size": 8,
    "reduce_dim": None,
    "standardize": True,
    "collapse_below": 0.1,
    "hidden_sizes": [32, 16],
    "latent_dim": 8,
    "dropout": 0.0,
    "loss_unit": "length",
    "commitment": 0.25,
    "codebook_update": "ema",
    "ema_decay": 0.9,
    "kmeans_init": True,
    "kmeans_init_sample": None,
    "restart_after": 10,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "weight_decay": 0.01,
    "epochs": 12,
    "batch_size": 64,
    "log_every": 4,
    "repulsion": "none",
    "repulsion_margin_full": 0.8,
    "repulsion_margin_partial": 0.5,
    "repulsion_weight_full": 0.2,
    "repulsion_weight_partial": 0.1,
    "repulsion_radius": 1,
    "repulsion_masking": True,
    "repulsion_exempt_cosine": None,
    "repulsion_exempt_by": "content",
    "repulsion_severity": 1.0,
    "repulsion_schedule": [1.0, 1.0],
}


def tokenizer(seed: int = 0, **changes) -> RQVAE:
    settings = RQVAESettings(**{**DEFAULTS, **changes})
    return RQVAE(settings, seed=seed, device=CPU, progress=False)


def mixture(n: int = 256, noise: float = 1.0) -> tuple[Items, np.ndarray]:
    """Items close to one of eight centres in 12 dimensions, and their centres."""
    rng = np.random.RandomState(0)
    centres = 4 * rng.randn(8, 12)
    group = rng.randint(8, size=n)
    vectors = (centres[group] + noise * rng.randn(n, 12)).astype(np.float32)
    return Items(tuple(f"item{row}" for row in range(n)), vectors), group


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad"])
def test_training_lowers_the_loss_and_uses_the_codes(update, optimizer):
    items, group = mixture()
    fitted = tokenizer(codebook_update=update, optimizer=optimizer, epochs=40).fit(items)
    history = fitted.report["history"]
    assert [entry["epoch"] for entry in history] == list(range(4, 41, 4))
    # Standardised vectors of 12 dimensions: a decoder that ignores its input is left with 12.
    assert history[-1]["reconstruction"] < 4
    assert history[-1]["loss"] < history[0]["loss"]
    assert ("codebook" in history[-1]) == (update == "gradient")
    assert min(fitted.report["coverage"]) >= 0.75
    assert min(fitted.report["perplexity"]) > 4
    # Two items of one group share the first code far more often than chance (1/8).
    first = fitted.codes[:, 0]
    same_group = group[:, None] == group
    assert (first[:, None] == first)[same_group].mean() > 0.6


def test_the_loss_is_the_sum_of_hand_weighted_terms():
    learner = tokenizer(codebook_update="gradient", commitment=0.5)
    model = Autoencoder(3, learner.settings)
    vectors = torch.randn(5, 3)
    output = model(vectors)
    terms = learner.losses(output, vectors, torch.arange(5))
    residuals, chosen = output.quantized.residuals, output.quantized.chosen
    gap = (residuals - chosen).square().sum().item() / 5
    assert terms["codebook"].item() == pytest.approx(gap, rel=1e-5)
    assert terms["commitment"].item() == pytest.approx(0.5 * gap, rel=1e-5)
    error = (output.decoded - vectors).square().sum().item() / 5
    assert terms["reconstruction"].item() == pytest.approx(error, rel=1e-5)


def test_losses_between_items_count_in_squared_lengths_of_the_vectors():
    learner = tokenizer(repulsion="hamr", codebook_size=2, levels=2)
    model = Autoencoder(3, learner.settings)
    vectors = torch.tensor([[3.0, 0, 4], [5, 0, 0], [0, 0, 0], [0, 1, 0]])
    output, rows = model(vectors), torch.arange(4)
    lone = tokenizer(repulsion="hamr", codebook_size=2, levels=2, loss_unit="one")
    one = lone.losses(output, vectors, rows)
    length = learner.losses(output, vectors, rows)
    # (25 + 25 + 0 + 1) / 4
    for name in ("repulsion_full", "repulsion_partial"):
        assert length[name].item() == pytest.approx(12.75 * one[name].item(), rel=1e-5)
    assert length["reconstruction"].item() == one["reconstruction"].item()
    assert sum(one[name].item() for name in one if name.startswith("repulsion")) > 0


def test_repulsion_lowers_the_collisions_and_is_in_the_report():
    items, _ = mixture(192, noise=3.0)
    options = {"epochs": 40, "codebook_size": 16, "batch_size": 192}
    strong = {"repulsion_weight_full": 3.0, "repulsion_weight_partial": 0.3}
    alone = tokenizer(**options).fit(items).report
    repelled = tokenizer(**options, **strong, repulsion="hamr").fit(items).report
    assert repelled["collision_rate"] < 0.9 * alone["collision_rate"]
    entry, plain = repelled["history"][-1], alone["history"][-1]
    assert entry["entropy"] > plain["entropy"]
    assert entry["entropy_ceiling"] == pytest.approx(np.log(192))
    assert entry["pairs_full"] > 0
    assert entry["masked_full"] == 0
    assert {"repulsion_full", "repulsion_partial"} <= entry.keys() - plain.keys()


def test_same_codes_for_a_seed_in_any_row_order_and_global_state():
    items, _ = mixture(100)
    torch.manual_seed(1)
    first = tokenizer(seed=3, dropout=0.1).fit(items)
    order = np.random.RandomState(2).permutation(100)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 (this state must not matter)
    before = torch.get_rng_state()
    again = tokenizer(seed=3, dropout=0.1).fit(items.take(order.tolist()))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.codes[order], again.codes)
    assert first.report == again.report
    assert not np.array_equal(first.codes, tokenizer(seed=4, dropout=0.1).fit(items).codes)


def test_layers_are_mirrored_and_the_last_is_linear():
    model = Autoencoder(12, RQVAESettings(**DEFAULTS))
    widths = [
        [(layer.in_features, layer.out_features) for layer in part if hasattr(layer, "in_features")]
        for part in (model.encoder, model.decoder)
    ]
    assert widths == [[(12, 32), (32, 16), (16, 8)], [(8, 16), (16, 32), (32, 12)]]
    assert isinstance(model.encoder[-1], torch.nn.Linear)
    assert isinstance(model.decoder[-1], torch.nn.Linear)


def test_batches_hold_every_item_once():
    with_rest = list(tokenizer(batch_size=4).batches(10))
    assert [len(rows) for rows in with_rest] == [4, 4, 2]
    assert sorted(torch.cat(with_rest).tolist()) == list(range(10))


def test_codes_are_read_without_dropout():
    model = Autoencoder(12, RQVAESettings(**{**DEFAULTS, "dropout": 0.5}))
    vectors = torch.randn(50, 12)
    assert np.array_equal(encode(model.train(), vectors), encode(model.train(), vectors))


@pytest.mark.parametrize("n_items", [1, 3])
def test_fewer_items_than_codes(n_items):
    items, _ = mixture(n_items)
    fitted = tokenizer(epochs=2).fit(items)
    assert fitted.codes.shape == (n_items, 2)


def test_equal_vectors_are_called_a_collapse(caplog):
    items = Items(tuple(f"item{row}" for row in range(40)), np.ones((40, 4), dtype=np.float32))
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        tokenizer(epochs=2, collapse_below=0.3).fit(items)
    messages = [record.getMessage() for record in caplog.records]
    assert any("LEVEL 1 HAS COLLAPSED" in message for message in messages)


def test_progress_is_logged(caplog):
    items, _ = mixture(64)
    with caplog.at_level(logging.INFO, "recbole_sid"):
        tokenizer(epochs=5, log_every=2).fit(items)
    messages = [record.getMessage() for record in caplog.records if record.module == "rqvae"]
    assert [message.split(":")[0] for message in messages] == [
        "rqvae epoch 2",
        "rqvae epoch 4",
        "rqvae epoch 5",
    ]
    for part in ("reconstruction", "perplexity", "SID entropy"):
        assert all(part in message for message in messages)


def test_a_loss_that_explodes_is_refused_with_remedy():
    items, _ = mixture(64)
    with pytest.raises(InputError, match=r"epoch \d, batch 1\. Lower tokenizer_learning_rate"):
        tokenizer(learning_rate=1e30, optimizer="adam", epochs=5).fit(items)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_dim", 0),
        ("epochs", 0),
        ("batch_size", 0),
        ("log_every", 0),
        ("kmeans_init_sample", 0),
        ("restart_after", 0),
        ("commitment", -0.1),
        ("weight_decay", -1.0),
        ("dropout", 1.0),
        ("ema_decay", 1.0),
        ("learning_rate", 0.0),
        ("hidden_sizes", [8, 0]),
    ],
)
def test_bounds(name, value):
    with pytest.raises(InputError, match=f"tokenizer_{name}"):
        RQVAESettings(**{**DEFAULTS, name: value})
