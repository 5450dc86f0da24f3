"""Small data sets with ratings, and models on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.config import Config
from recbole_sid.ranking.r2led import R2LED
from recbole_sid.reading import read_data
from recbole_sid.sid.table import SemanticIDs

LABELLED: dict[str, Any] = {
    "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
    "threshold": {"rating": 4},
    "show_progress": False,
}


def write_ratings(folder: Path, rows: Iterable[tuple[str, str, float]]) -> dict[str, Any]:
    """Write a data set ``made`` of (user, item, rating), in the order of time."""
    (folder / "made").mkdir(parents=True)
    lines = [f"{user}\t{item}\t{rating}\t{time}" for time, (user, item, rating) in enumerate(rows)]
    (folder / "made" / "made.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *lines]) + "\n"
    )
    return {**LABELLED, "data_path": str(folder), "tokenizer": "random"}


def random_ratings(n_users: int = 12, n_items: int = 30, each: int = 15) -> list[Any]:
    rng = np.random.default_rng(3)
    return [
        (f"u{user}", f"i{item}", int(rng.integers(1, 6)))
        for user in range(n_users)
        for item in rng.permutation(n_items)[:each]
    ]


def build(folder: Path, rows: Iterable[tuple[str, str, float]], sids: Any = None, **changes: Any):
    """Config, loaders and model on ``rows``; SIDs of two levels of three codes unless given."""
    settings = {**write_ratings(folder, rows), "embedding_size": 4, "route_items": 3, **changes}
    config = Config("R2LED", "made", config_dict=settings)
    data, loaders = read_data(config)
    tokens = tuple(data.field2id_token["item_id"][1:].tolist())
    if sids is None:
        rng = np.random.default_rng(5)
        codes = rng.integers(0, 3, (len(tokens), 2)).astype(np.int32)
        sids = SemanticIDs(tokens, codes, (3, 3), "none", {})
    return config, loaders, R2LED(config, loaders[0].dataset, sids).eval()
