"""The tokenizer's weights in the folder of a run; all else on it is in test_quick_start.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recbole_sid
from recbole_sid import run_folder
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer import pipeline
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.stored_weights import StoredWeights
from tests.runs import SMALL

OWN = {"tokenizer": "rqvae", "tokenizer_codebook_size": 8, "tokenizer_epochs": 2}


def vectors(n_items: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n_items, 12)).astype(np.float32)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Settings of a short run on vectors of ml-100k's items 1 to 1682."""
    np.save(tmp_path / "v.npy", vectors(1682))
    (tmp_path / "ids.txt").write_text("".join(f"{item}\n" for item in range(1, 1683)))
    files = {"item_embedding_file": tmp_path / "v.npy", "item_embedding_ids": tmp_path / "ids.txt"}
    return {
        **SMALL, **OWN, **{key: str(path) for key, path in files.items()},
        "cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / "run"),
    }  # fmt: skip


def run(given: dict[str, Any], **changes: Any) -> Path:
    return Path(recbole_sid.run("TIGER", "ml-100k", config_dict={**given, **changes})["run_folder"])


def test_new_items_get_their_codes_from_a_finished_run(given, tmp_path):
    folder = run(given)
    weights = StoredWeights(folder / run_folder.TOKENIZER)
    sids = SemanticIDs.load(folder / run_folder.SIDS)
    rows = [int(token) - 1 for token in sids.tokens]
    config = Config(config_file_list=[str(folder / run_folder.CONFIG)])
    tokenizer = pipeline.configured_tokenizer(config)
    found = tokenizer.assign(Items(sids.tokens, vectors(1682)[rows]), weights)
    assert np.array_equal(found.codes, sids.base_codes)
    new = Items(("an ad", "another"), -vectors(2))
    assert tokenizer.assign(new, weights).codes.shape == (2, sids.n_base_levels)

    # Codes from the cache leave the same file.
    warm = run(given, output=str(tmp_path / "warm"))
    assert "SIDs from the cache" in (warm / run_folder.LOG).read_text()
    for name in (run_folder.TOKENIZER, run_folder.SIDS, run_folder.RESULT):
        assert (warm / name).read_bytes() == (folder / name).read_bytes()

    # Loading a run takes the SIDs as they are, and no weights.
    loaded = recbole_sid.load(folder)
    assert loaded.model.tokenizer_weights is None


def test_a_run_that_starts_anew_leaves_no_weights_of_the_last_one(given):
    folder = run(given)
    assert (folder / run_folder.TOKENIZER).is_file()
    plain = {
        key: value for key, value in given.items()
        if key not in OWN and not key.startswith("item_embedding")
    }  # fmt: skip
    run({**plain, "tokenizer": "random", "overwrite": True})
    assert not (folder / run_folder.TOKENIZER).exists()


def test_weights_of_somebody_else_are_not_replaced(given):
    folder = Path(given["output"])
    folder.mkdir()
    (folder / run_folder.TOKENIZER).write_text("mine")
    with pytest.raises(InputError, match=r"is not the folder of a run.*tokenizer\.safetensors"):
        run(given)
    assert (folder / run_folder.TOKENIZER).read_text() == "mine"


def test_vectors_that_a_run_would_replace_are_refused(given, tmp_path):
    folder = Path(given["output"])
    folder.mkdir()
    inside = folder / run_folder.TOKENIZER
    shutil.copy(tmp_path / "v.npy", inside)
    with pytest.raises(
        InputError, match=r"'item_embedding_file' is .* which this run would replac"
    ):
        run(given, item_embedding_file=str(inside), overwrite=True)
    assert inside.read_bytes() == (tmp_path / "v.npy").read_bytes()
