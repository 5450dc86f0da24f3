from __future__ import annotations

import json
import logging
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
from recbole_sid.items.images import ItemImages
from recbole_sid.tokenizer import mmq_losses
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.mmq import MMQ
from recbole_sid.tokenizer.mmq_inputs import modalities
from recbole_sid.tokenizer.mmq_network import Mixed, MixtureNetwork
from recbole_sid.tokenizer.mmq_settings import MMQSettings
from tests.tokenizer.mmq_items import YAML, catalogue, configured, names

CPU = torch.device("cpu")


def tokenizer(seed: int = 0, **changes: Any) -> MMQ:
    return MMQ(configured(**changes), seed=seed, device=CPU, progress=False)


def a_step(learner: MMQ, items: Items) -> tuple[MixtureNetwork, Mixed]:
    """A network that knows the scale of ``items``, and what it makes of them."""
    vectors = modalities(items)
    torch.manual_seed(0)
    network = learner._network(vectors)
    network.scale_to(vectors)
    for book in network.books:
        book.vectors.data.normal_()
    return network, network(torch.from_numpy(np.concatenate(list(vectors.values()), axis=1)))


def trained(learner: MMQ, items: Items, monkeypatch: pytest.MonkeyPatch) -> MixtureNetwork:
    """The network that a fit leaves behind."""
    networks: list[MixtureNetwork] = []
    train = learner._train

    def spy(network: MixtureNetwork, rows: torch.Tensor) -> Any:
        networks.append(network)
        return train(network, rows)

    monkeypatch.setattr(learner, "_train", spy)
    learner.fit(items)
    return networks[0]


def test_the_loss_is_the_weighted_sum_of_its_parts():
    learner = tokenizer(
        codebook_update="gradient", commitment=0.5, content_weight=0.2, alignment_weight=0.3,
        orthogonality_weight=0.4, penalty_start=0.7, temperature=0.5, strength_slope=3.0,
        strength_damped=None, strength_threshold=2.0, sparsity=0.6,
    )  # fmt: skip
    network, output = a_step(learner, catalogue(12, images=True))
    terms = learner.losses(network, output)
    encoded, known = output.encoded, output.encoded.present["behaviour"]
    image = encoded.present["image"]
    assert (int((~known).sum()), int((~image).sum())) == (2, 4)

    # 10, 3 and 5 dimensions, each to count as much as 18 / 3.
    errors = {
        name: (output.decoded[name] - encoded.originals[name]).square().sum(dim=1)
        for name in ("text", "image", "behaviour")
    }
    expected = (
        6 / 10 * errors["text"].sum()
        + 6 / 3 * errors["image"][image].sum()
        + 6 / 5 * errors["behaviour"][known].sum()
    ) / 12
    assert terms["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-5)

    gaps = (encoded.latents - output.chosen).square().sum(dim=2)  # (B, L)
    assert network.levels == ["shared", "text", "image", "behaviour", "behaviour"]
    gaps = gaps[:, :2].sum() + gaps[image, 2].sum() + gaps[known, 3:].sum()
    assert terms["commitment"].item() == pytest.approx(0.5 * gaps.item() / 12, rel=1e-5)
    assert terms["codebook"].item() == pytest.approx(gaps.item() / 12, rel=1e-5)

    h = encoded.projected
    content = mmq_losses.content_loss(h["text"], h["image"], 0.5, image)
    assert terms["content"].item() == pytest.approx(18 * 0.2 * content.item(), rel=1e-5)
    strength = mmq_losses.alignment_strength(output.rich, 3.0, torch.tensor(2.0))
    both = h["text"] + h["image"] * image[:, None]
    aligned = mmq_losses.alignment_loss(h["behaviour"], both, strength, 0.5, known)
    assert terms["alignment"].item() == pytest.approx(18 * 0.3 * aligned.item(), rel=1e-5)
    target = 0.6 * (1 - output.rich[known]).mean()
    sparse = mmq_losses.sparsity_loss(output.routed[known], target)
    assert sparse > 0
    assert terms["sparsity"].item() == pytest.approx(0.7 * sparse.item(), rel=1e-5)
    overlap = mmq_losses.orthogonality_loss([expert[-1].weight for expert in network.experts])
    assert terms["orthogonality"].item() == pytest.approx(0.4 * overlap.item(), rel=1e-5)
    assert len(terms) == 7


def test_units_balance_and_parts_that_are_off():
    learner = tokenizer(loss_unit="one", modality_balance="dimensions", behaviour_experts=0)
    network, output = a_step(learner, catalogue(12))
    terms = learner.losses(network, output)
    assert terms.keys() == {"reconstruction", "commitment", "alignment"}
    encoded, known = output.encoded, output.encoded.present["behaviour"]
    errors = [
        (output.decoded[name] - encoded.originals[name]).square().sum(dim=1)
        for name in ("text", "behaviour")
    ]
    expected = (errors[0].sum() + errors[1][known].sum()) / 12
    assert terms["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-5)
    threshold = 10 * torch.quantile(output.rich[known], 0.4)
    strength = mmq_losses.alignment_strength(output.rich, 10.0, threshold)
    h = encoded.projected
    aligned = mmq_losses.alignment_loss(h["behaviour"], h["text"], strength, 0.07, known)
    assert terms["alignment"].item() == pytest.approx(0.1 * aligned.item(), rel=1e-5)


def test_alignment_teaches_projections_alone():
    learner = tokenizer()
    network, output = a_step(learner, catalogue(12, images=True))
    terms = learner.losses(network, output)
    (terms["alignment"] + terms["content"]).backward()
    for name, parameter in network.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        assert learns == name.startswith("projections."), name


def test_each_modality_s_codes_tell_its_own_groups_apart():
    """Text and behaviour come in four groups each, that have nothing to do with each other."""
    options: dict[str, Any] = {"behaviour_experts": 1, "latent_dim": 8, "penalty_start": 0.0}
    fitted = tokenizer(epochs=30, log_every=30, **options).fit(catalogue())
    assert fitted.report["levels"] == ["shared", "text", "behaviour"]
    known = np.arange(120) % 10 != 0
    by_text, by_behaviour = np.arange(120) % 4, (np.arange(120) // 4) % 4
    for level, own, other in ((1, by_text, by_behaviour), (2, by_behaviour, by_text)):
        equal = fitted.codes[known, None, level] == fitted.codes[known, level]
        same, alike = (groups[known, None] == groups[known] for groups in (own, other))
        assert equal[same].mean() > equal[~same].mean() + 0.4
        assert abs(equal[alike].mean() - equal[~alike].mean()) < 0.1
    assert len(set(fitted.codes[~known, 2].tolist())) == 1  # nothing is known of any of them


def test_images_bring_codes_of_their_own(caplog):
    with caplog.at_level(logging.INFO, logger="recbole_sid"):
        with_images = tokenizer().fit(catalogue(images=True))
        without = tokenizer().fit(catalogue())
    assert with_images.report["levels"] == ["shared", "text", "image", "behaviour", "behaviour"]
    assert with_images.report["without"] == {"text": 0, "image": 40, "behaviour": 12}
    assert with_images.codes.shape == (120, 5)
    assert with_images.sizes == (8,) * 5
    assert without.codes.shape == (120, 4)
    assert "content" in with_images.report["history"][-1]
    assert "content" not in without.report["history"][-1]
    lines = [r.message for r in caplog.records if r.message.startswith("mmq: text vectors")]
    assert "image vectors of 3 numbers (40 items without)" in lines[0]
    assert lines[1].endswith("no images, so no experts of images")


def test_no_image_at_all_is_as_good_as_no_images():
    items = catalogue()
    assert items.source is not None
    nothing = ItemImages(np.zeros((120, 1, 3), np.float32), np.zeros((120, 1), bool))
    empty = replace(items, source=replace(items.source, images=nothing))
    assert np.array_equal(tokenizer().fit(empty).codes, tokenizer().fit(items).codes)


def test_deterministic_whatever_the_order_of_rows_and_the_global_state():
    items = catalogue(images=True)
    first = tokenizer(seed=3).fit(items)
    order = np.random.RandomState(2).permutation(120)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = tokenizer(seed=3).fit(items.take(order.tolist()))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.codes[order], again.codes)
    assert first.report == again.report
    assert not np.array_equal(first.codes, tokenizer(seed=4).fit(items).codes)


def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch):
    items = catalogue(images=True)
    options: dict[str, Any] = {"epochs": 6, "dropout": 0.2}
    undisturbed = tokenizer(**options).fit(items)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE", 0.0)
    monkeypatch.setattr("recbole_sid.checkpoint.PAUSE_PER_SECOND_OF_WRITING", 0)
    killed = tokenizer(**options)
    killed.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    epochs = []
    epoch = killed._epoch

    def die_in_the_fourth(*arguments):
        epochs.append(1)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(killed, "_epoch", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(items)
    resumed = tokenizer(**options)
    resumed.checkpoint = Checkpoint(tmp_path / "codes.safetensors")
    fitted = resumed.fit(items)
    assert [entry["epoch"] for entry in fitted.report["history"]] == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(fitted.codes, undisturbed.codes)
    assert fitted.report == undisturbed.report


def test_the_router_comes_near_to_its_sparsity():
    options: dict[str, Any] = {
        "epochs": 90,
        "batch_size": 30,
        "behaviour_experts": 4,
        "log_every": 90,
    }
    report = tokenizer(sparsity=0.9, **options).fit(catalogue()).report
    last = report["history"][-1]
    assert last["sparsity_target"] > 0.4
    assert last["sparsity_current"] == pytest.approx(last["sparsity_target"], abs=0.1)
    assert last["penalty"] > 0.1
    unpunished = options | {"epochs": 20, "log_every": 20, "penalty_start": 0.0}
    free = tokenizer(sparsity=0.9, **unpunished).fit(catalogue()).report["history"][-1]
    assert free["sparsity_current"] < last["sparsity_current"] - 0.2
    assert free["sparsity"] == free["penalty"] == 0


def test_the_report_is_plain_and_complete():
    report = tokenizer(codebook_update="gradient", dropout=0.3).fit(catalogue()).report
    assert json.loads(json.dumps(report)) == report
    assert [entry["epoch"] for entry in report["history"]] == [1, 2, 3, 4]
    last = report["history"][-1]
    assert len(last["perplexity"]) == 4
    parts = ("reconstruction", "commitment", "codebook", "alignment", "sparsity")
    assert last["loss"] == pytest.approx(sum(last[part] for part in parts))
    assert last["perplexity"] == report["perplexity"]
    # Of 108 items with behaviour the shortest 43 are below 0.4.
    assert 65 / 108 <= last["strength_above_half"] < 0.7
    assert 0.4 < last["strength_mean"] < 0.7
    published = tokenizer(strength_damped=None).fit(catalogue()).report["history"][-1]
    assert published["strength_above_half"] < 0.3
    every_third = tokenizer(log_every=3).fit(catalogue()).report["history"]
    assert [entry["epoch"] for entry in every_third] == [3, 4]


# -- items that were not fitted -------------------------------------------------------------------


@pytest.mark.parametrize("images", [False, True])
def test_assigned_codes_are_those_of_the_fit_in_any_company(images):
    items = catalogue(images=images)
    fitted = tokenizer(dropout=0.3).fit(items)
    assert fitted.weights is not None
    assert all(array.dtype == np.float32 for array in fitted.weights.values())
    assert all(120 not in array.shape for array in fitted.weights.values())
    for rows in (list(range(120)), [7], [41, 3, 100]):
        found = tokenizer(dropout=0.3).assign(items.take(rows), fitted.weights)
        assert np.array_equal(found.codes, fitted.codes[rows])
        assert np.array_equal(found.space.latents, fitted.space.latents[rows])
        assert found.sizes == fitted.sizes
        assert found.weights is None


def test_new_items_without_behaviour_get_the_code_of_nothing_known():
    items = catalogue()
    fitted = tokenizer().fit(items)
    bare = Items(items.tokens, items.vectors)
    codes = tokenizer().assign(bare, fitted.weights).codes
    assert np.array_equal(codes[:, 1], fitted.codes[:, 1])  # of the text
    assert np.array_equal(codes[::10], fitted.codes[::10])  # had none in the fit either
    for level in (2, 3):
        assert set(codes[:, level].tolist()) == {fitted.codes[0, level]}


def test_behaviour_is_hidden_from_so_many_items_a_step():
    learner = tokenizer(behaviour_dropout=0.25)
    network, _ = a_step(learner, catalogue(12))
    rows = torch.arange(1.0, 15001).reshape(1000, 15)  # 10 numbers of text, 5 of behaviour
    torch.manual_seed(0)
    found = learner._some_hidden(network, rows)
    hidden = ~found[:, 10:].any(dim=1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert torch.equal(found[~hidden], rows[~hidden])
    assert torch.equal(found[:, :10], rows[:, :10])
    assert tokenizer(behaviour_dropout=0.0)._some_hidden(network, rows) is rows


def test_hidden_behaviour_teaches_to_do_without(monkeypatch):
    items = catalogue()
    joined = torch.from_numpy(np.concatenate(list(modalities(items).values()), axis=1))
    joined[:, 10:] = 0
    errors = {}
    for share in (0.0, 0.5):
        options = {"epochs": 30, "log_every": 30, "alignment_weight": 0.0}
        learner = tokenizer(behaviour_dropout=share, **options)
        network = trained(learner, items, monkeypatch)
        with torch.no_grad():
            output = network(joined)
        gaps = output.decoded["text"] - output.encoded.originals["text"]
        errors[share] = gaps.square().mean().item()
    assert errors[0.5] < 0.7 * errors[0.0]


def test_codebooks_start_from_a_sample_of_the_items_or_not_at_all(monkeypatch):
    seen = []
    monkeypatch.setattr(
        MixtureNetwork, "start_codebooks", lambda self, rows, rng: seen.append(len(rows))
    )
    for options in ({"kmeans_init_sample": 50}, {"kmeans_init_sample": None}):
        tokenizer(**options).fit(catalogue())
    assert seen == [50, 120]
    tokenizer(kmeans_init=False).fit(catalogue())
    assert len(seen) == 2


def test_codes_cost_the_least_of_all():
    items = catalogue(images=True)
    fitted = tokenizer().fit(items)
    assert not fitted.space.residual
    for level in range(5):
        costs = fitted.space.costs(level, np.arange(120), fitted.codes)
        chosen = costs[np.arange(120), fitted.codes[:, level]]
        np.testing.assert_allclose(chosen, costs.min(axis=1), atol=1e-6)
        assert costs.min() >= -1.00001


def test_images_must_be_as_they_were_in_the_fit():
    items, pictured = catalogue(), catalogue(images=True)
    plain, weights = tokenizer().fit(items).weights, tokenizer().fit(pictured).weights
    with pytest.raises(InputError, match=r"image vectors of 3 dimensions, but .* fitted without"):
        tokenizer().assign(pictured, plain)
    with pytest.raises(InputError, match=r"fitted with images.*Items\.source"):
        tokenizer().assign(replace(pictured, source=None), weights)
    # Nobody has an image: those who had none before keep their codes.
    codes = tokenizer().assign(items, weights).codes
    rows = np.arange(120) % 6 >= 4
    assert np.array_equal(codes[rows], tokenizer().assign(pictured, weights).codes[rows])


def test_weights_that_do_not_fit_are_refused():
    items = catalogue()
    weights = tokenizer().fit(items).weights
    narrow = Items(items.tokens, items.vectors[:, :7].copy())
    with pytest.raises(InputError, match=r"have 7 dimensions, but .* fitted on vectors of 10"):
        tokenizer().assign(narrow, weights)
    other = Items(items.tokens, items.vectors, behaviour=np.ones((120, 4), np.float32))
    with pytest.raises(InputError, match=r"behaviour vectors have 4 dimensions.* vectors of 5"):
        tokenizer().assign(other, weights)
    with pytest.raises(InputError, match=r"'codebooks.0.vectors' has the shape \(8, 4\)"):
        tokenizer(codebook_size=9).assign(items, weights)
    with pytest.raises(InputError, match=r"'experts.4.0.weight' is missing"):
        tokenizer(behaviour_experts=3).assign(items, weights)
    with pytest.raises(InputError, match="is missing"):
        tokenizer().assign(items, {})


def test_behaviour_is_needed():
    items = catalogue()
    for nothing in (None, np.zeros((120, 5), np.float32)):
        with pytest.raises(InputError, match=r"tokenizer mmq needs .*Items\.behaviour"):
            tokenizer().fit(replace(items, behaviour=nothing))


def test_few_items_and_equal_items_are_fitted():
    few = catalogue(3)
    assert tokenizer().fit(few).codes.shape == (3, 4)
    alike = Items(names(20), np.ones((20, 3), np.float32), behaviour=np.ones((20, 2), np.float32))
    codes = tokenizer().fit(alike).codes
    assert len(np.unique(codes, axis=0)) == 1


def test_a_diverging_training_is_refused():
    with pytest.raises(InputError, match=r"epoch 1, batch 2\. Lower tokenizer_learning_rate"):
        tokenizer(learning_rate=1e30).fit(catalogue())


def test_a_collapsed_level_is_told(caplog):
    with caplog.at_level(logging.WARNING, logger="recbole_sid"):
        tokenizer(collapse_below=1.0).fit(catalogue())
    assert "LEVEL 1 HAS COLLAPSED" in caplog.text
    assert "tokenizer_kmeans_init" in caplog.text


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"shared_experts": -1}, "shared_experts"),
        ({"shared_experts": 0, "text_experts": 0, "behaviour_experts": 0}, "shared_experts"),
        ({"image_experts": 63}, "shared_experts"),
        ({"codebook_size": 1}, "codebook_size"),
        ({"hidden_sizes": [0]}, "hidden_sizes"),
        ({"gate_hidden_sizes": [3, 0]}, "gate_hidden_sizes"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"restart_after": 0}, "restart_after"),
        ({"alignment_weight": -0.1}, "alignment_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"strength_damped": 1.0}, "strength_damped"),
        ({"strength_damped": -0.1}, "strength_damped"),
        ({"penalty_step": 0.9}, "penalty_step"),
        ({"penalty_start": -1.0}, "penalty_start"),
        ({"collapse_below": 1.5}, "collapse_below"),
        ({"codebook_update": "sum"}, "codebook_update"),
    ],
)
def test_bounds(changes, key):
    with pytest.raises(InputError, match=f"tokenizer_{key}"):
        configured(**changes)


def test_a_few_experts_are_enough():
    fitted = tokenizer(shared_experts=0, text_experts=2, behaviour_experts=0).fit(catalogue())
    assert fitted.report["levels"] == ["text", "text"]
    assert fitted.codes.shape == (120, 2)


def test_the_yaml_file_holds_each_setting_once_and_the_values_of_the_paper():
    text = YAML.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert sorted(values) == sorted(settings.keys(MMQSettings, "tokenizer_"))
    assert all(line.startswith("# ") or "# (" in line for line in text.splitlines())
    built = settings.build(MMQSettings, values, "tokenizer_")
    assert (built.temperature, built.sparsity) == (0.07, 0.6)
    assert (built.strength_slope, built.strength_threshold) == (10, 9)
    assert built.strength_damped == 0.4  # ours; ~ for the paper's
    # Four levels of 256 codes where there are no images.
    assert built.shared_experts + built.text_experts + built.behaviour_experts == 4
    assert built.codebook_size == 256
