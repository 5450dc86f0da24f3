"""Two small runs whose data set is gone, and the lists that they gave while it was there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import recbole_sid
from recbole_sid.model.exclusion import distinct_items
from recbole_sid.model.recommender import last_items, user_buckets
from recbole_sid.serving.export import export
from tests.runs import SMALL, write_data

N_ITEMS = 40
WINDOW = 5
K = 7
GENERATORS = {
    "TIGER": {"user_tokens": 3},
    "IntRR": {
        "layers": 1,
        "codebook_inner_size": 8,
        "content_vectors": True,
        "item_embedding": False,
    },
}


class Made(NamedTuple):
    """A finished run, its export, and by exclude_history and user the lists of evaluation."""

    run: Path
    export: Path
    histories: dict[str, list[str]]
    lists: dict[bool, dict[str, tuple[list[str], np.ndarray]]]


@pytest.fixture(scope="session", params=list(GENERATORS))
def made(request, tmp_path_factory, cache) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    histories = {
        f"u{user}": [f"i{item}" for item in rng.permutation(N_ITEMS)[: 5 + user % 8]]
        for user in range(24)
    }
    rows = [
        (user, item, time)
        for user, items in histories.items()
        for time, item in enumerate([*items, f"i{len(user + items[0]) % N_ITEMS}"])
    ] + [("all", f"i{item}", time) for time, item in enumerate(range(N_ITEMS))]
    given: dict[str, Any] = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    given |= write_data(folder, rows)
    if request.param == "IntRR":
        given = {k: v for k, v in given.items() if k not in ("encoder_layers", "decoder_layers")}
        np.save(folder / "vectors.npy", rng.normal(size=(N_ITEMS, 6)).astype(np.float32))
        (folder / "ids.txt").write_text("\n".join(f"i{item}" for item in range(N_ITEMS)))
        given |= {
            "item_embedding_file": str(folder / "vectors.npy"),
            "item_embedding_ids": str(folder / "ids.txt"),
        }
    given |= GENERATORS[request.param] | {
        "cache_dir": cache, "output": str(folder / "run"), "MAX_ITEM_LIST_LENGTH": WINDOW,
        "epochs": 2, "learning_rate": 0.01, "eval_batch_size": 8,
    }  # fmt: skip
    recbole_sid.run(request.param, "made", config_dict=given)
    lists = {exclude: former_lists(folder / "run", histories, exclude) for exclude in (False, True)}
    for path in folder.iterdir():
        if path.name != "run":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Made(folder / "run", export(folder / "run", folder / "export"), histories, lists)


def former_lists(
    run: Path, histories: dict[str, list[str]], exclude: bool
) -> dict[str, tuple[list[str], np.ndarray]]:
    """One by one by the recommender that RecBole sees, over its dataset."""
    _, data, model = recbole_sid.load(run)
    model.generator.user_buckets = user_buckets(histories)
    tokens = data.field2id_token["item_id"]
    found = {}
    for user, (name, history) in enumerate(histories.items()):
        whole = torch.tensor([[data.token2id("item_id", item) for item in history]])
        window = last_items(whole, torch.tensor([len(history)]), WINDOW)
        with torch.no_grad():
            ranked = model.rank_histories(
                torch.tensor([user]), *window, K, distinct_items(whole) if exclude else None
            )
        found[name] = (tokens[ranked.items[0].numpy()].tolist(), ranked.scores[0].numpy())
    return found
