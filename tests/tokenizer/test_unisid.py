from __future__ import annotations

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
from recbole_sid.items.pairs import ItemPairs
from recbole_sid.items.source import ItemSource, settings_of
from recbole_sid.items.table import ItemTable
from recbole_sid.resources import resource_dir
from recbole_sid.tokenizer import unisid as unisid_module
from recbole_sid.tokenizer import unisid_reading
from recbole_sid.tokenizer.backbone import Backbone
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.sid_reader import SidReader
from recbole_sid.tokenizer.unisid import UniSID, UniSIDSettings
from recbole_sid.tokenizer.unisid_network import UniSIDNetwork, random_rotation
from tests.tokenizer.tiny_models import tiny

CPU = torch.device("cpu")
PROPERTIES = resource_dir("properties")
WORDS = ("water bowl", "rose soap", "home kitchen", "soap of rose")
CATEGORIES = ("home, kitchen", "soap, rose", "home, water", "soap, bowl")
N_ITEMS = 24


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny("bert", tmp_path_factory.mktemp("models"))


def configured(backbone: str, **changes: Any) -> UniSIDSettings:
    values = yaml.safe_load((PROPERTIES / "tokenizer" / "unisid.yaml").read_text(encoding="utf-8"))
    small = {
        "levels": 3,
        "codebook_size": 6,
        "backbone": backbone,
        "backbone_top_layers": 1,
        "batch_size": 12,
        "embedding_dim": 5,
        "epochs": 2,
        "precision": "float32",
        "head_learning_rate": 0.01,
        "second_view": False,
        "pair_levels": 0,
        "repulsion": "none",
        "granularity_min_categories": 1,
    }
    values |= {f"tokenizer_{name}": value for name, value in {**small, **changes}.items()}
    return settings.build(UniSIDSettings, values, "tokenizer_")


def tokenizer(backbone: str, seed: int = 0, **changes: Any) -> UniSID:
    return UniSID(configured(backbone, **changes), seed=seed, device=CPU, progress=False)


def source(images: bool = False) -> ItemSource:
    values: dict[str, Any] = {}
    for name in ("items", "schema"):
        values |= yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text(encoding="utf-8"))
    values |= {"item_category_field": "path", "item_category_format": "separator"}
    fields, schema, _, summary = settings_of(values)
    tokens = tuple(f"i{row:02}" for row in range(N_ITEMS))
    columns = {
        "title": tuple(WORDS[row % 4] + " a" * (row % 3) for row in range(N_ITEMS)),
        "path": tuple(CATEGORIES[row % 4] for row in range(N_ITEMS)),
    }
    pictures = None
    if images:
        rng = np.random.RandomState(1)
        pictures = ItemImages(
            rng.randn(N_ITEMS, 2, 3).astype(np.float32), rng.rand(N_ITEMS, 2) < 0.5
        )
    return ItemSource(ItemTable(tokens, columns), pictures, fields, schema, summary)


def pairs() -> ItemPairs:
    """The neighbour of item 2k is 2k + 1; odd items have none."""
    counts = np.arange(N_ITEMS + 1) // 2 + np.arange(N_ITEMS + 1) % 2
    return ItemPairs(
        counts.astype(np.int64),
        np.arange(1, N_ITEMS, 2, dtype=np.int32),
        np.ones(N_ITEMS // 2, dtype=np.float32),
    )


def catalogue(images: bool = False) -> Items:
    vectors = np.random.RandomState(0).randn(N_ITEMS, 6).astype(np.float32)
    items = source(images)
    return Items(items.table.tokens, vectors, pairs(), items, items.table.columns["title"])


def test_the_same_items_get_the_same_codes_in_any_order_of_rows(bert):
    fitted = tokenizer(bert).fit(catalogue())
    order = np.random.RandomState(3).permutation(N_ITEMS)
    again = tokenizer(bert).fit(catalogue().take(order.tolist()))
    assert np.array_equal(again.codes, fitted.codes[order])
    assert np.array_equal(again.embeddings, fitted.embeddings[order])
    assert fitted.codes.shape == (N_ITEMS, 3)
    assert fitted.embeddings.shape == (N_ITEMS, 5)
    assert fitted.sizes == (6, 6, 6)
    other = tokenizer(bert, seed=1).fit(catalogue())
    assert not np.array_equal(other.embeddings, fitted.embeddings)


def test_the_code_is_the_cheapest_one_of_its_space(bert):
    fitted = tokenizer(bert).fit(catalogue())
    rows = np.arange(N_ITEMS)
    for level in range(3):
        costs = fitted.space.costs(level, rows, fitted.codes)
        assert np.array_equal(costs.argmin(axis=1), fitted.codes[:, level])


def test_the_rotated_control_has_the_vectors_of_the_faithful_run_and_other_codes(bert):
    faithful = tokenizer(bert, similarity="logits").fit(catalogue())
    rotated = tokenizer(bert, similarity="logits", rotate=True).fit(catalogue())
    assert np.array_equal(faithful.embeddings, rotated.embeddings)
    assert faithful.report["history"] == rotated.report["history"]
    assert not np.array_equal(faithful.codes, rotated.codes)


def test_a_rotation_keeps_cosines_of_logits(bert):
    reader = SidReader(Backbone(configured(bert)), 3, None)
    network = UniSIDNetwork(reader, 6, 5).eval()
    content, lengths = torch.randn(4, 3, 16), torch.tensor([3, 2, 3, 1])
    before = network(content, lengths, None).logits
    network.rotate(torch.Generator().manual_seed(0))
    after = network(content, lengths, None).logits
    for level in range(3):
        cosine = torch.nn.functional.normalize(before[:, level])
        turned = torch.nn.functional.normalize(after[:, level])
        torch.testing.assert_close(turned @ turned.T, cosine @ cosine.T)
    assert not torch.allclose(before, after, atol=0.1)


def test_rotations_are_orthogonal_and_differ():
    generator = torch.Generator().manual_seed(0)
    first, second = random_rotation(7, generator), random_rotation(7, generator)
    torch.testing.assert_close(first @ first.T, torch.eye(7, dtype=torch.float64))
    assert not torch.allclose(first, second, atol=0.1)


def test_targets_go_together_with_their_anchors_and_the_lonely_are_their_own(bert):
    model = tokenizer(bert)
    model._pairs = pairs()
    step = model._step(torch.tensor([4, 7, 0, 20, 21]), 3)
    # Anchors 4, 7, 0: the neighbour of 4 is 5 and that of 0 is 1; 7 is odd and has none.
    assert step.rows.tolist() == [4, 7, 0, 20, 21, 5, 7, 1]
    assert step.rows[step.target].tolist() == [5, 7, 1]
    twice = tokenizer(bert, second_view=True)
    twice._pairs = pairs()
    assert twice._step(torch.tensor([4, 7, 9]), 2).rows.tolist() == [4, 7, 9, 5, 7, 4, 7]


def test_every_loss_can_be_switched_off_and_is_logged_by_itself(bert):
    terms = {"sid", "balance", "embedding", "reconstruction"}
    for name in terms:
        off = tokenizer(bert, epochs=1, **{f"{name}_weight": 0.0}).fit(catalogue())
        (entry,) = off.report["history"]
        assert terms & set(entry) == terms - {name}
        assert entry["loss"] == pytest.approx(sum(entry[term] for term in terms - {name}))
        assert len(entry["perplexity"]) == 3


def test_targets_count_as_positives_at_as_many_levels_as_set(bert):
    first = [
        tokenizer(bert, epochs=1, pair_levels=levels).fit(catalogue()).report["history"][0]
        for levels in (0, 1, 3)
    ]
    # The first batch is the same; what is learned from it is not.
    losses = [entry["sid_levels"] for entry in first]
    assert losses[0][2] != losses[1][2]
    assert losses[1][:2] != losses[2][:2]


def test_repulsion_plugs_in(bert):
    for on in ("logits", "embedding"):
        fitted = tokenizer(bert, repulsion="hamr", repulsion_on=on, epochs=1).fit(catalogue())
        (entry,) = fitted.report["history"]
        assert entry["repulsion_full"] > 0
        assert entry["pairs_full"] > 0


def test_training_lowers_the_loss_of_every_part(bert):
    report = tokenizer(bert, epochs=25, balance_weight=0.0).fit(catalogue()).report
    first, last = report["history"][0], report["history"][-1]
    for name in ("sid", "embedding", "reconstruction"):
        assert last[name] < 0.95 * first[name], name


def test_images_take_part_and_absent_ones_do_not(bert):
    without = tokenizer(bert, backbone_insert="bottom").fit(catalogue())
    images = tokenizer(bert, backbone_insert="bottom").fit(catalogue(images=True))
    assert not np.allclose(images.embeddings, without.embeddings, atol=1e-3)
    none = catalogue(images=True)
    mask = np.zeros_like(none.source.images.mask)
    masked = with_images(none, ItemImages(none.source.images.vectors, mask))
    changed = with_images(none, ItemImages(-none.source.images.vectors, mask))
    fits = [tokenizer(bert, backbone_insert="bottom").fit(some) for some in (masked, changed)]
    assert np.array_equal(fits[0].embeddings, fits[1].embeddings)


def with_images(items: Items, images: ItemImages) -> Items:
    return replace(items, source=replace(items.source, images=images))


def test_a_causal_language_model_reads_and_another_writes_the_summaries(tmp_path):
    gpt = tiny("gpt2", tmp_path)
    for train in ("all", "top"):
        fitted = tokenizer(
            gpt, backbone_train=train, backbone_insert="bottom", reconstruction_decoder=gpt,
            reconstruction_max_length=8,
        ).fit(catalogue())  # fmt: skip
        assert fitted.report["history"][-1]["reconstruction"] > 0
        assert len(np.unique(fitted.codes, axis=0)) > 1


class Killed(Exception):
    pass


class KilledAfter(Checkpoint):
    """Writes after every epoch, and fails after the first writing."""

    def save_when_due(self, state):
        self._due = 0.0
        super().save_when_due(state)
        raise Killed


class EveryEpoch(Checkpoint):
    def save_when_due(self, state):
        self._due = 0.0
        super().save_when_due(state)


@pytest.mark.parametrize("insert", ["top", "bottom"])
def test_a_killed_training_goes_on_to_the_same_codes(insert, bert, tmp_path):
    changes = {"epochs": 3, "backbone_insert": insert, "repulsion": "hamr"}
    whole = tokenizer(bert, **changes).fit(catalogue())
    killed = tokenizer(bert, **changes)
    killed.checkpoint = KilledAfter(tmp_path / "codes.safetensors")
    with pytest.raises(Killed):
        killed.fit(catalogue())
    resumed = tokenizer(bert, **changes)
    resumed.checkpoint = EveryEpoch(tmp_path / "codes.safetensors")
    state = resumed.checkpoint.load("cpu")
    assert state["progress"]["epoch"] == 1
    fitted = resumed.fit(catalogue())
    assert np.array_equal(fitted.codes, whole.codes)
    assert np.array_equal(fitted.embeddings, whole.embeddings)
    assert fitted.report == whole.report


def test_the_learning_rate_rises_then_falls_to_zero():
    factor = unisid_module._warm_then_linear(0.25, 8)
    # 2 of 8 steps warm up; then (8 - step) / 6.
    assert [factor(step) for step in (0, 1, 2, 5, 8)] == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert unisid_module._warm_then_linear(0.0, 1)(0) == 1


def test_how_many_items_are_read_at_a_time_changes_nothing(tmp_path, monkeypatch):
    calm = tiny("bert", tmp_path, hidden_dropout_prob=0.0)
    whole = tokenizer(calm).fit(catalogue())
    monkeypatch.setattr(unisid_reading, "READ_ROWS", 5)
    parts = tokenizer(calm).fit(catalogue())
    assert np.allclose(parts.embeddings, whole.embeddings, atol=1e-4)
    assert np.array_equal(parts.codes, whole.codes)


def test_missing_inputs_are_refused(bert):
    items = catalogue()
    for bare in (
        Items(items.tokens, items.vectors, items.pairs),
        Items(items.tokens, items.vectors, None, items.source),
    ):
        with pytest.raises(InputError, match=r"needs the items' columns, vectors and pairs"):
            tokenizer(bert).fit(bare)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"codebook_size": [4, 4, 5]}, "tokenizer_codebook_size"),
        ({"sid_temperature": 0.0}, "tokenizer_sid_temperature"),
        ({"embedding_weight": -1.0}, "tokenizer_embedding_weight"),
        ({"epochs": 0}, "tokenizer_epochs"),
        ({"warmup_share": 1.5}, "tokenizer_warmup_share"),
        ({"batch_size": 1}, "tokenizer_batch_size"),
        ({"granularity_near_cosine": 0.0}, "tokenizer_granularity_near_cosine"),
        (
            {"granularity_source": "none", "second_view": False, "pair_levels": 1},
            "tokenizer_granularity_source",
        ),
        ({"repulsion": "hamr", "repulsion_radius": 3}, "tokenizer_repulsion_radius"),
        ({"backbone_top_layers": 0}, "tokenizer_backbone_top_layers"),
        ({"reconstruction_layers": 0}, "tokenizer_reconstruction_layers"),
        (
            {name: 0.0 for name in
             ("sid_weight", "balance_weight", "embedding_weight", "reconstruction_weight")},
            "tokenizer_sid_weight",
        ),
    ],
)  # fmt: skip
def test_settings_out_of_bounds_are_named(changes, named, bert):
    with pytest.raises(InputError, match=named):
        configured(bert, **changes)


def test_the_yaml_names_every_setting_and_no_other():
    file = PROPERTIES / "tokenizer" / "unisid.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert set(values) == set(settings.keys(UniSIDSettings, "tokenizer_"))


def test_a_folder_is_where_the_models_come_from(tmp_path: Path):
    with pytest.raises(InputError, match="tokenizer_backbone"):
        tokenizer(str(tmp_path / "nothing")).fit(catalogue())
