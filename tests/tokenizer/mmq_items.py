"""A small catalogue of text, images and behaviour, and settings that fit it in a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from recbole_sid import settings
from recbole_sid.items.images import ItemImages
from recbole_sid.items.source import ItemSource, settings_of
from recbole_sid.items.table import ItemTable
from recbole_sid.resources import resource_dir
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.mmq_settings import MMQSettings

PROPERTIES = resource_dir("properties")
YAML = PROPERTIES / "tokenizer" / "mmq.yaml"
SMALL = {
    "codebook_size": 8,
    "hidden_sizes": [12],
    "gate_hidden_sizes": [],
    "shared_dim": 6,
    "latent_dim": 4,
    "learning_rate": 0.01,
    "epochs": 4,
    "batch_size": 64,
    "restart_after": 5,
}


def configured(**changes: Any) -> MMQSettings:
    values = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    values |= {f"tokenizer_{name}": value for name, value in {**SMALL, **changes}.items()}
    return settings.build(MMQSettings, values, "tokenizer_")


def names(n_items: int) -> tuple[str, ...]:
    return tuple(f"i{row:04}" for row in range(n_items))


def catalogue(n_items: int = 120, images: bool = False) -> Items:
    """Text in four groups, behaviour in four others; every tenth item has no behaviour, every
    sixth no image."""
    rng = np.random.RandomState(0)
    rows = np.arange(n_items)
    text = 3 * np.eye(4, 10)[rows % 4] + 0.3 * rng.randn(n_items, 10)
    behaviour = np.eye(4, 5)[(rows // 4) % 4] + 0.1 * rng.randn(n_items, 5)
    behaviour *= rng.uniform(0.5, 2, (n_items, 1))
    behaviour[::10] = 0
    return Items(
        names(n_items),
        text.astype(np.float32),
        source=source(n_items, pictures(n_items) if images else None),
        behaviour=behaviour.astype(np.float32),
    )


def pictures(n_items: int) -> ItemImages:
    rng = np.random.RandomState(1)
    mask = np.array([[True, False], [True, True], [False, False]])[(np.arange(n_items) % 6) // 2]
    vectors = rng.randn(n_items, 2, 3).astype(np.float32)
    return ItemImages(vectors * mask[:, :, None], mask)


def source(n_items: int, images: ItemImages | None) -> ItemSource:
    values: dict[str, Any] = {}
    for name in ("items", "schema"):
        values |= yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text(encoding="utf-8"))
    fields, schema, _, summary = settings_of(values)
    table = ItemTable(names(n_items), {"title": tuple("a thing" for _ in range(n_items))})
    return ItemSource(table, images, fields, schema, summary)
