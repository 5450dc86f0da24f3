"""Small runs: ml-100k cut down to what trains in a second, and data sets made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import recbole_sid

LOADED = {"inter": ["user_id", "item_id", "timestamp"]}
CUT = {
    "user_inter_num_interval": "[20,30]",
    "item_inter_num_interval": "[5,inf)",
    "load_col": LOADED,
    "show_progress": False,
    "epochs": 1,
}
SMALL: dict[str, Any] = {
    **CUT,
    "tokenizer": "random",
    "tokenizer_codebook_size": 8,
    "hidden_size": 16,
    "inner_size": 16,
    "n_heads": 2,
    "head_size": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "beam_size": 10,
    "eval_step": 1,
    "warmup_steps": 5,
    "precision": "float32",
}
SAMPLED = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni10"}


def write_data(
    folder: Path,
    rows: Iterable[tuple[str, str, object]],
    titles: Mapping[str, str] | None = None,
    name: str = "made",
) -> dict[str, Any]:
    """Write ``name.inter`` (user, item, time) and ``name.item``; gives settings that read it."""
    rows = list(rows)
    data = folder / name
    data.mkdir(parents=True)
    lines = [f"{user}\t{item}\t{time}" for user, item, time in rows]
    (data / f"{name}.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
    )
    if titles is None:
        titles = {item: f"Thing {item}" for _, item, _ in rows}
    lines = [f"{item}\t{title}" for item, title in titles.items()]
    (data / f"{name}.item").write_text("\n".join(["item_id:token\ttitle:token", *lines]) + "\n")
    return {"data_path": str(folder), "load_col": LOADED}


def run(tmp_path: Path, cache: str, model: str = "TIGER", dataset: str = "ml-100k", **changes):
    """The result of a small run in the folder ``run``."""
    base = SMALL if model == "TIGER" else CUT
    settings = {**base, "cache_dir": cache, "output": str(tmp_path / "run"), **changes}
    return recbole_sid.run(model, dataset, config_dict=settings)


def made(folder: Path, n_users: int, n_items: int, **changes) -> dict:
    """Settings that read ``made``, a data set of users with five interactions each."""
    rows = [(f"u{u}", f"i{(u * 3 + i) % n_items}", i) for u in range(n_users) for i in range(5)]
    cut = {"user_inter_num_interval": None, "item_inter_num_interval": None}
    return cut | {"topk": [1], "valid_metric": "NDCG@1"} | changes | write_data(folder, rows)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below ``folder`` with its content, and every folder with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
