"""Codes for items that were not fitted, from every tokenizer that can give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.items.images import ItemImages
from recbole_sid.items.pairs import ItemPairs
from recbole_sid.items.source import ItemSource, settings_of
from recbole_sid.items.table import ItemTable
from recbole_sid.resources import resource_dir
from recbole_sid.tokenizer.base import BaseCodes, Items, LevelSettings, Tokenizer
from recbole_sid.tokenizer.blocks import BLOCK_ROWS
from recbole_sid.tokenizer.letter import LETTER
from recbole_sid.tokenizer.opq import OPQ
from recbole_sid.tokenizer.quasid import QuaSID
from recbole_sid.tokenizer.random_codes import RandomCodes
from recbole_sid.tokenizer.rqkmeans import RQKMeans
from recbole_sid.tokenizer.rqvae import RQVAE
from recbole_sid.tokenizer.sid_file import SIDFile
from recbole_sid.tokenizer.unisid import UniSID
from tests.tokenizer.tiny_models import tiny

CPU = torch.device("cpu")
PROPERTIES = resource_dir("properties")
CLASSES: dict[str, type[Tokenizer]] = {
    "rqkmeans": RQKMeans, "rqvae": RQVAE, "quasid": QuaSID, "letter": LETTER, "opq": OPQ,
    "unisid": UniSID,
}  # fmt: skip
N_ITEMS, DIM = 60, 24
WORDS = ("water bowl", "rose soap", "home kitchen", "soap of rose")

Make = Callable[..., Tokenizer]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny("bert", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def make(bert: str) -> Make:
    def tokenizer(name: str, **changes: Any) -> Tokenizer:
        file = PROPERTIES / "tokenizer" / f"{name}.yaml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        small: dict[str, Any] = {"codebook_size": 12}
        if name in ("rqvae", "quasid", "letter"):
            small |= {"epochs": 3, "batch_size": 32, "hidden_sizes": [20], "latent_dim": 6}
            small |= {"reduce_dim": 16, "log_every": 3}
        if name == "letter":
            small |= {"diversity_clusters": 4}
        if name in ("rqkmeans", "opq"):
            small |= {"reduce_dim": 8}
        if name == "unisid":
            small |= {"backbone": bert, "backbone_top_layers": 1, "batch_size": 16, "epochs": 1}
            small |= {"embedding_dim": 5, "precision": "float32"}
        values |= {f"tokenizer_{key}": value for key, value in {**small, **changes}.items()}
        cls = CLASSES[name]
        built = settings.build(cls.Settings, values, "tokenizer_")
        return cls(built, seed=3, device=CPU, progress=False)

    return tokenizer


def source(n_items: int, images: bool = False) -> ItemSource:
    values: dict[str, Any] = {}
    for name in ("items", "schema"):
        values |= yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text(encoding="utf-8"))
    values |= {"item_category_field": "path", "item_category_format": "separator"}
    fields, schema, _, summary = settings_of(values)
    columns = {
        "title": tuple(WORDS[row % 4] + " a water" * (row % 5) for row in range(n_items)),
        "path": tuple(("home, kitchen", "soap, rose")[row % 2] for row in range(n_items)),
    }
    pictures = None
    if images:
        rng = np.random.RandomState(1)
        mask = rng.rand(n_items, 3) < 0.5
        pictures = ItemImages(rng.randn(n_items, 3, 4).astype(np.float32), mask)
    return ItemSource(ItemTable(names(n_items), columns), pictures, fields, schema, summary)


def names(n_items: int) -> tuple[str, ...]:
    return tuple(f"i{row:04}" for row in range(n_items))


def catalogue(n_items: int = N_ITEMS, images: bool = False) -> Items:
    vectors = 0.3 + np.random.RandomState(0).randn(n_items, DIM).astype(np.float32)
    # The neighbour of item 2k is 2k + 1; odd items have none.
    offsets = (np.arange(n_items + 1, dtype=np.int64) + 1) // 2
    odd = np.arange(1, n_items, 2, dtype=np.int32)
    pairs = ItemPairs(offsets, odd, np.ones(len(odd), np.float32))
    behaviour = np.random.RandomState(1).randn(n_items, 5).astype(np.float32)
    own = source(n_items, images)
    return Items(names(n_items), vectors, pairs, own, behaviour=behaviour)


def bare(tokenizer: Tokenizer, items: Items) -> Items:
    """Only what ``assign`` may read."""
    if tokenizer.assigns_by == "vectors":
        return Items(items.tokens, items.vectors)
    return Items(items.tokens, None, source=items.source)


def same(one: BaseCodes, other: BaseCodes, rows: Any = slice(None)) -> None:
    assert np.array_equal(one.codes, other.codes[rows])
    assert one.codes.dtype == other.codes.dtype == np.int32
    assert one.sizes == other.sizes
    assert one.space is not None
    assert other.space is not None
    assert np.array_equal(one.space.latents, other.space.latents[rows])
    pairs = zip(one.space.codebooks, other.space.codebooks, strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert one.space.residual == other.space.residual
    if other.embeddings is None:
        assert one.embeddings is None
    else:
        assert one.embeddings is not None
        assert np.array_equal(one.embeddings, other.embeddings[rows])


@pytest.mark.parametrize("name", CLASSES)
def test_fitted_items_get_the_codes_of_the_fit_in_any_company(make, name):
    items = catalogue()
    fitted = make(name).fit(items)
    assert fitted.weights is not None
    again = make(name)
    same(again.assign(bare(again, items), fitted.weights), fitted)
    shuffled = np.random.RandomState(5).permutation(N_ITEMS).tolist()
    same(again.assign(bare(again, items).take(shuffled), fitted.weights), fitted, shuffled)
    for rows in ([7], [41, 3], list(range(11, 40))):
        some = again.assign(bare(again, items).take(rows), fitted.weights)
        same(some, fitted, rows)
        assert some.weights is None


@pytest.mark.parametrize("name", CLASSES)
def test_new_items_get_codes_that_depend_on_themselves(make, name):
    items = catalogue()
    seen, unseen = list(range(0, 40)), list(range(40, N_ITEMS))
    old = items.take(seen)
    pairs = ItemPairs(np.zeros(41, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    fitted = make(name).fit(replace(old, pairs=pairs))
    tokenizer = make(name)
    new = bare(tokenizer, items.take(unseen))
    all_at_once = tokenizer.assign(new, fitted.weights)
    for row in (0, 9, 19):
        same(tokenizer.assign(new.take([row]), fitted.weights), all_at_once, [row])
    for level in range(3):
        costs = all_at_once.space.costs(level, np.arange(20), all_at_once.codes)
        chosen = costs[np.arange(20), all_at_once.codes[:, level]]
        # A code without a centroid is no choice, so only those that the fit had are compared.
        n_codes = len(fitted.weights[f"codebook_{level + 1}"]) if name == "rqkmeans" else 12
        np.testing.assert_allclose(chosen, costs[:, :n_codes].min(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_the_weights_know_no_items(make, name):
    weights = make(name).fit(catalogue()).weights
    assert all(array.dtype == np.float32 for array in weights.values())
    assert all(N_ITEMS not in array.shape for array in weights.values())


@pytest.mark.parametrize("name", ["rqkmeans", "rqvae", "opq"])
def test_more_items_than_a_block(make, name):
    items = catalogue(2 * BLOCK_ROWS + 6)
    fitted = make(name, codebook_size=64).fit(items)
    tokenizer = make(name, codebook_size=64)
    same(tokenizer.assign(bare(tokenizer, items), fitted.weights), fitted)
    rows = [0, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 4]
    for row in rows:
        same(tokenizer.assign(bare(tokenizer, items).take([row]), fitted.weights), fitted, [row])


@pytest.mark.parametrize("changes", [
    {"standardize": False},
    {"reduce_dim": None},
    {"reduce_dim": None, "standardize": False, "codebook_update": "gradient"},
    {"hidden_sizes": [], "dropout": 0.3},
])  # fmt: skip
def test_every_preparation_of_the_vectors(make, changes):
    items = catalogue()
    fitted = make("rqvae", **changes).fit(items)
    tokenizer = make("rqvae", **changes)
    same(tokenizer.assign(bare(tokenizer, items).take([4, 2]), fitted.weights), fitted, [4, 2])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bert", {"backbone_insert": "bottom", "backbone_train": "all"}),
        ("bert", {"backbone_train": "none"}),
        ("bert", {"rotate": True, "similarity": "logits"}),
        ("bert", {"backbone_insert": "bottom", "precision": "bf16"}),
        (
            "qwen2",
            {"backbone_insert": "bottom", "backbone_train": "lora", "reconstruction_weight": 0},
        ),
        ("gpt2", {"backbone_insert": "top"}),
    ],
)
@pytest.mark.parametrize("images", [False, True])
def test_every_way_to_train_unisid(make, tmp_path, kind, changes, images):
    if changes.get("backbone_train") == "lora":
        pytest.importorskip("peft")
    folder = tiny(kind, tmp_path)
    items = catalogue(images=images)
    fitted = make("unisid", backbone=folder, **changes).fit(items)
    tokenizer = make("unisid", backbone=folder, **changes)
    same(tokenizer.assign(bare(tokenizer, items), fitted.weights), fitted)
    for rows in ([8], [50, 1, 30]):
        some = bare(tokenizer, items).take(rows)
        same(tokenizer.assign(some, fitted.weights), fitted, rows)


def test_empty_places_for_images_change_nothing(make):
    items = catalogue(images=True)
    fitted = make("unisid", backbone_insert="bottom").fit(items)
    vectors, mask = items.source.images
    wider = ItemImages(
        np.concatenate([vectors, np.ones((N_ITEMS, 2, 4), np.float32)], axis=1),
        np.concatenate([mask, np.zeros((N_ITEMS, 2), bool)], axis=1),
    )
    tokenizer = make("unisid", backbone_insert="bottom")
    padded = replace(bare(tokenizer, items), source=replace(items.source, images=wider))
    same(tokenizer.assign(padded, fitted.weights), fitted)
    # Without any image at all, those that have none anyway stay what they were.
    without = replace(bare(tokenizer, items), source=replace(items.source, images=None))
    rows = np.flatnonzero(~mask.any(axis=1))
    assert 0 < len(rows) < N_ITEMS
    found = tokenizer.assign(without, fitted.weights)
    assert np.array_equal(found.codes[rows], fitted.codes[rows])
    assert np.array_equal(found.embeddings[rows], fitted.embeddings[rows])


def test_unisid_reads_text_and_images_of_the_new_items(make):
    fitted = make("unisid").fit(catalogue(images=True))
    tokenizer = make("unisid")
    items = bare(tokenizer, catalogue(images=True))
    before = tokenizer.assign(items, fitted.weights).embeddings
    table = ItemTable(
        items.tokens,
        {
            **items.source.table.columns,
            "title": ("kitchen rose", *items.source.table.columns["title"][1:]),
        },
    )
    text = tokenizer.assign(
        replace(items, source=replace(items.source, table=table)), fitted.weights
    )
    changed = ~(text.embeddings == before).all(axis=1)
    assert changed.tolist() == [True] + [False] * (N_ITEMS - 1)
    vectors, mask = items.source.images
    images = ItemImages(-vectors, mask)
    seen = tokenizer.assign(
        replace(items, source=replace(items.source, images=images)), fitted.weights
    )
    assert np.array_equal(~(seen.embeddings == before).all(axis=1), mask.any(axis=1))


@pytest.mark.parametrize(("cls", "name"), [(RandomCodes, "random"), (SIDFile, "file")])
def test_tokenizers_that_learn_nothing_refuse(cls, name):
    tokenizer = cls(LevelSettings(2, 4), seed=0, device=CPU, progress=False)
    refusal = f"tokenizer {name} cannot give codes to items it was not fitted on; choose rqkmeans, "
    with pytest.raises(InputError, match=refusal + "rqvae, quasid, letter, mmq, opq or unisid"):
        tokenizer.assign(catalogue(), {})


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_read_must_be_there(make, name):
    tokenizer = make(name)
    wrong = {
        "vectors": (f"tokenizer {name} needs item vectors", catalogue().source),
        "source": ("tokenizer unisid needs the items' columns", None),
    }[tokenizer.assigns_by]
    with pytest.raises(InputError, match=wrong[0]):
        tokenizer.assign(Items(names(N_ITEMS), None, source=wrong[1]), {})


@pytest.mark.parametrize("name", ["rqkmeans", "rqvae", "quasid", "letter", "opq"])
@pytest.mark.parametrize("reduce_dim", [None, 8])
def test_vectors_of_other_dimensions_are_refused(make, name, reduce_dim):
    items = catalogue()
    weights = make(name, reduce_dim=reduce_dim).fit(items).weights
    other = Items(items.tokens, items.vectors[:, :20].copy())
    with pytest.raises(InputError, match=r"have 20 dimensions, but .* fitted on vectors of 24"):
        make(name, reduce_dim=reduce_dim).assign(other, weights)


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("rqkmeans", {"reduce_dim": None}, r"'pca_components' is not known; 'pca_mean' is not known"),
    ("rqkmeans", {"levels": 2}, r"'codebook_3' is not known"),
    ("rqkmeans", {"levels": 4}, r"'codebook_4' is missing"),
    ("rqkmeans", {"codebook_size": 5}, r"'codebook_1' has the shape \(12, 8\).* \(5, 8\)"),
    ("rqvae", {"standardize": False}, r"'mean' is not known; 'scale' is not known"),
    ("rqvae", {"latent_dim": 5}, r"'encoder.3.weight' has the shape \(6, 20\).* \(5, 20\)"),
    ("rqvae", {"codebook_size": 9}, r"codebooks.0.vectors' has the shape \(12, 6\).* \(9, 6\)"),
    ("opq", {"levels": 5}, r"'projection' has the shape \(8, 24\).* \(10, 24\)"),
    ("opq", {"codebook_size": 9}, r"'codebook_1' has the shape \(12, 2\).* \(9, 2\)"),
    ("unisid", {"embedding_dim": 6}, r"'embedding.weight' has the shape \(5, 16\).* \(6, 16\)"),
    ("unisid", {"levels": 2}, r"'heads.2.weight' is not known"),
    ("unisid", {"backbone_train": "none"}, r"is not known.*; and \d+ more"),
])  # fmt: skip
def test_weights_of_other_settings_are_refused(make, name, changes, message):
    items = catalogue()
    weights = make(name).fit(items).weights
    tokenizer = make(name, **changes)
    with pytest.raises(InputError, match=message):
        tokenizer.assign(bare(tokenizer, items), weights)
    with pytest.raises(InputError, match="is missing"):
        make(name).assign(bare(tokenizer, items), {})


def test_images_that_the_fit_had_not_are_refused(make):
    weights = make("unisid").fit(catalogue()).weights
    with pytest.raises(InputError, match="of 4 dimensions, but the tokenizer was fitted without"):
        make("unisid").assign(catalogue(images=True), weights)


def test_a_model_that_is_gone_is_named(make, tmp_path: Path):
    weights = make("unisid").fit(catalogue()).weights
    with pytest.raises(InputError, match="tokenizer_backbone"):
        make("unisid", backbone=str(tmp_path / "gone")).assign(catalogue(), weights)
