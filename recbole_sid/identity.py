"""What a run is known by: its settings as plain data, and the hash of those with an effect."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Settings that name a file which a run reads besides those of the data set.
INPUT_FILES = (
    "allowed_items",
    "sid_file",
    "item_embedding_file",
    "item_embedding_ids",
    "item_image_file",
    "item_image_ids",
)
# What RecBole adds to the settings; it follows from them and cannot be given back to it.
_DERIVED = frozenset(
    [
        "MODEL_TYPE",
        "MODEL_INPUT_TYPE",
        "eval_type",
        "device",
        "single_spec",
        "valid_neg_sample_args",
        "test_neg_sample_args",
        "checkpoint_dir",
        "config_files",
        "config_file",
        "local_rank",
        "nproc",
        "world_size",
        "ip",
        "port",
        "offset",
        "verbose",
        # Only once the data are read: the columns of its transforms (recbole/data/transform.py:60),
        # and a count that KD_DAGFM takes.
        "MASK_INDEX",
        "MASK_ITEM_SEQ",
        "POS_ITEMS",
        "NEG_ITEMS",
        "INVERSE_ITEM_SEQ",
        "CROP_ITEM_SEQ",
        "CROP_ITEM_SEQ_LEN",
        "REORDER_ITEM_SEQ",
        "feature_num",
    ]
)
# Settings that cannot change a result: two runs that differ only here are the same run.
_WITHOUT_EFFECT = frozenset(
    [
        "output",
        "resume",
        "overwrite",
        "strict",
        "cache_dir",
        "data_path",
        "gpu_id",
        "worker",
        "state",
        "show_progress",
        "log_wandb",
        "wandb_project",
        "save_dataset",
        "save_dataloaders",
        "loss_decimal_place",
    ]
)
# Settings that belong to one start of a run and are not written into its folder.
_OF_ONE_START = frozenset(["output", "resume", "overwrite"])


def plain_settings(final: Mapping[str, Any], data_root: str) -> dict[str, Any]:
    """The settings that make the same Config again, with absolute paths.

    Args:
        final: all settings, as RecBole completes them.
        data_root: ``data_path`` as it was given; that of ``final`` is the data set's own folder.
    """
    left_out = _DERIVED | _OF_ONE_START
    plain = {k: v for k, v in final.items() if k not in left_out}
    plain["data_path"] = os.path.abspath(data_root)
    for key in INPUT_FILES:
        if plain.get(key) is not None:
            plain[key] = os.path.abspath(plain[key])
    negatives = plain["train_neg_sample_args"]
    if negatives["distribution"] == "none":
        plain["train_neg_sample_args"] = None
    return copy.deepcopy(plain)


def settings_hash(plain: Mapping[str, Any]) -> str:
    """sha256 hex over those of the :func:`plain_settings` that can change a result."""
    kept = {k: v for k, v in plain.items() if k not in _WITHOUT_EFFECT}
    for key in INPUT_FILES:
        if kept.get(key) is not None:
            kept[key] = Path(kept[key]).name
    text = json.dumps(_canonical(kept), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """One spelling for equal values: tuples are lists, and 1.0 is 1."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
