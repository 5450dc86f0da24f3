from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recbole_sid import settings
from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError
from recbole_sid.resources import resource_dir
from recbole_sid.tokenizer.autoencoder import Autoencoder
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.equal_clusters import Partners
from recbole_sid.tokenizer.letter import LETTER, LETTERSettings, as_wide
from recbole_sid.tokenizer.rqvae import RQVAE

CPU = torch.device("cpu")
YAML = resource_dir("properties") / "tokenizer" / "letter.yaml"
SMALL = {
    "levels": 2,
    "codebook_size": 8,
    "hidden_sizes": [16],
    "latent_dim": 4,
    "learning_rate": 0.01,
    "epochs": 6,
    "batch_size": 64,
    "restart_after": 10,
    "log_every": 3,
    "diversity_clusters": 3,
}


def configured(**changes: Any) -> LETTERSettings:
    values = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    values |= {f"tokenizer_{name}": value for name, value in {**SMALL, **changes}.items()}
    return settings.build(LETTERSettings, values, "tokenizer_")


def tokenizer(seed: int = 0, **changes: Any) -> LETTER:
    return LETTER(configured(**changes), seed=seed, device=CPU, progress=False)


def catalogue(n: int = 160) -> Items:
    """Content in four groups, behaviour in four others, of which content has only a trace; every
    tenth item has no behaviour."""
    rng = np.random.RandomState(0)
    rows = np.arange(n)
    groups = np.eye(4)[(rows // 4) % 4]
    content = 3 * rng.randn(4, 10)[rows % 4] + 0.5 * rng.randn(n, 10)
    content[:, :4] += groups
    behaviour = 2 * groups + 0.1 * rng.randn(n, 4)
    behaviour[::10] = 0
    names = tuple(f"item{row:03}" for row in rows)
    return Items(names, content.astype(np.float32), behaviour=behaviour.astype(np.float32))


def test_the_loss_is_that_of_the_rqvae_and_two_more_in_units_of_squared_length():
    learner = tokenizer(codebook_size=4, diversity_clusters=2, alignment_weight=0.3,
                        diversity_weight=0.5)  # fmt: skip
    behaviour = torch.randn(6, 4)
    learner._behaviour, learner._known = behaviour, torch.tensor([1, 1, 0, 1, 1, 1]).bool()
    torch.manual_seed(1)
    model = Autoencoder(3, learner.settings)
    for book in model.quantizer.levels:
        book.vectors.data.normal_()
    learner._quantizer = model.quantizer
    # Codes 0 and 2 are one cluster, 1 and 3 the other: every code has one partner.
    learner._partners = [Partners(np.array([0, 1, 0, 1]), CPU)] * 2
    vectors = 2 * torch.nn.functional.normalize(torch.randn(3, 3), dim=1)  # squared length 4
    rows = torch.tensor([5, 2, 0])
    output = model(vectors)
    terms = learner.losses(output, vectors, rows)
    plain = RQVAE(learner.settings, seed=0, device=CPU, progress=False)
    shared = plain.losses(output, vectors, rows)
    assert terms.keys() - shared.keys() == {"alignment", "diversity"}
    assert all(terms[name].item() == shared[name].item() for name in shared)

    quantized = output.quantized.quantized
    logits = quantized[[0, 2]] @ behaviour[[5, 0]].T
    alignment = (logits.logsumexp(dim=1) - logits.diagonal()).mean().item()
    assert terms["alignment"].item() == pytest.approx(4 * 0.3 * alignment, rel=1e-5)
    levels = []
    for level, book in enumerate(model.quantizer.levels):
        losses = []
        for code in output.quantized.codes[:, level].tolist():
            others = [k for k in range(4) if k != code]
            products = {k: (book.vectors[code] @ book.vectors[k]).item() for k in others}
            total = sum(np.exp(value) for value in products.values())
            losses.append(np.log(total) - products[(code + 2) % 4])
        levels.append(np.mean(losses))
    assert terms["diversity"].item() == pytest.approx(4 * 0.5 * np.mean(levels), rel=1e-5)


def test_alignment_teaches_the_encoder_and_diversity_the_codebooks():
    learner = tokenizer()
    learner._behaviour, learner._known = torch.randn(8, 4), torch.ones(8, dtype=torch.bool)
    model = Autoencoder(3, learner.settings)
    learner._quantizer = model.quantizer
    vectors, rows = torch.randn(8, 3), torch.arange(8)
    terms = learner.losses_between(model(vectors), vectors, rows)
    terms["alignment"].backward(retain_graph=True)
    assert all(p.grad is None for p in model.quantizer.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    model.zero_grad()
    terms["diversity"].backward()
    assert all(book.vectors.grad is not None for book in model.quantizer.levels)
    assert all(p.grad is None for p in model.encoder.parameters())


def test_items_with_the_same_behaviour_share_more_codes_than_others_do():
    items = catalogue()
    options = {"epochs": 110, "batch_size": 160, "diversity_weight": 0.0}
    group = (np.arange(160) // 4) % 4
    together = (group[:, None] == group) & ~np.eye(160, dtype=bool)
    apart = group[:, None] != group
    gaps = {}
    for weight in (0.0, 1.0):
        codes = tokenizer(alignment_weight=weight, **options).fit(items).codes
        equal = (codes[:, None] == codes).sum(axis=2)
        gaps[weight] = equal[together].mean() - equal[apart].mean()
    assert gaps[1.0] > gaps[0.0] + 0.1


def test_clusters_are_made_anew_in_every_epoch(monkeypatch):
    from recbole_sid.tokenizer import letter

    made = []

    def spy(points, clusters, rng):
        made.append((points.copy(), clusters))
        return np.arange(len(points)) % clusters

    monkeypatch.setattr(letter, "equal_clusters", spy)
    tokenizer(epochs=3).fit(catalogue())
    assert [clusters for _, clusters in made] == [3] * 6  # two levels an epoch
    assert not np.array_equal(made[0][0], made[2][0])


@pytest.mark.parametrize(("name", "term"), [("alignment", "diversity"), ("diversity", "alignment")])
def test_a_weight_of_zero_leaves_its_loss_out(name, term):
    entry = tokenizer(**{f"{name}_weight": 0.0}).fit(catalogue()).report["history"][-1]
    assert name not in entry
    assert entry[term] > 0


def test_without_both_it_is_the_rqvae():
    off = {"alignment_weight": 0.0, "diversity_weight": 0.0}
    items = catalogue()
    plain = RQVAE(configured(**off), seed=0, device=CPU, progress=False).fit(items)
    assert np.array_equal(tokenizer(**off).fit(items).codes, plain.codes)


def test_deterministic_whatever_the_order_of_rows_and_the_global_state():
    items = catalogue()
    first = tokenizer(seed=3).fit(items)
    order = np.random.RandomState(2).permutation(160)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = tokenizer(seed=3).fit(items.take(order.tolist()))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.codes[order], again.codes)
    assert first.report == again.report
    assert not np.array_equal(first.codes, tokenizer(seed=4).fit(items).codes)


def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch):
    items = catalogue()
    undisturbed = tokenizer().fit(items)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE", 0.0)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE_PER_SECOND_OF_WRITING", 0)
    killed = tokenizer()
    killed.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    begin_epoch = killed.begin_epoch

    def die_in_the_fourth(epoch: int) -> None:
        begin_epoch(epoch)
        if epoch == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(killed, "begin_epoch", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(items)
    resumed = tokenizer()
    resumed.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    fitted = resumed.fit(items)
    assert np.array_equal(fitted.codes, undisturbed.codes)
    assert fitted.report == undisturbed.report


def test_new_items_need_no_behaviour():
    items = catalogue()
    fitted = tokenizer().fit(items)
    assert fitted.weights is not None
    bare = Items(items.tokens, items.vectors)
    assert np.array_equal(tokenizer().assign(bare, fitted.weights).codes, fitted.codes)


def test_items_without_behaviour_are_counted():
    report = tokenizer().fit(catalogue()).report
    assert report["without_behaviour"] == 16
    assert json.loads(json.dumps(report)) == report


def test_behaviour_is_needed():
    with pytest.raises(InputError, match=r"tokenizer letter needs .*Items\.behaviour"):
        tokenizer().fit(replace(catalogue(), behaviour=None))


def test_other_widths_are_mapped_linearly():
    rng = np.random.RandomState(0)
    vectors = rng.randn(9, 3).astype(np.float32)
    assert as_wide(vectors, 3) is vectors
    wider = as_wide(vectors, 5)
    assert wider.shape == (9, 5)
    assert np.array_equal(wider[:, :3], vectors)
    assert not wider[:, 3:].any()
    # Vectors of rank 2 in 3 dimensions keep their inner products in 2; zeros stay zeros.
    flat = (rng.randn(9, 2) @ rng.randn(2, 3)).astype(np.float32)
    flat[4] = 0
    narrower = as_wide(flat, 2)
    assert narrower.shape == (9, 2)
    assert narrower.dtype == np.float32
    assert narrower @ narrower.T == pytest.approx(flat @ flat.T, abs=1e-4)
    assert not narrower[4].any()


@pytest.mark.parametrize("width", [3, 7])
def test_behaviour_of_another_width_is_fitted(width):
    items = catalogue()
    assert items.behaviour is not None
    other = as_wide(items.behaviour, width)
    assert tokenizer().fit(replace(items, behaviour=other)).codes.shape == (160, 2)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"alignment_weight": -0.1}, "alignment_weight"),
        ({"diversity_weight": -1.0}, "diversity_weight"),
        ({"diversity_clusters": 0}, "diversity_clusters"),
        ({"diversity_clusters": 5}, "diversity_clusters"),  # of 8 codes
        ({"codebook_update": "ema"}, "codebook_update"),
    ],
)
def test_bounds(changes, key):
    with pytest.raises(InputError, match=f"tokenizer_{key}"):
        configured(**changes)


def test_without_diversity_moving_averages_are_possible():
    configured(codebook_update="ema", diversity_weight=0.0, diversity_clusters=99)


def test_the_yaml_file_holds_each_setting_once_and_the_values_of_the_paper():
    text = YAML.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert sorted(values) == sorted(settings.keys(LETTERSettings, "tokenizer_"))
    assert all(line.startswith("# ") or "# (" in line for line in text.splitlines())
    built = settings.build(LETTERSettings, values, "tokenizer_")
    assert built.sizes == (256,) * 4
    assert built.latent_dim == 32
    assert (built.alignment_weight, built.diversity_weight) == (0.02, 1e-4)
    assert built.diversity_clusters == 10
