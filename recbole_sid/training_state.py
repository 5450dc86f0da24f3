"""What stage 2 goes on from: a stored state that fits, and where RecBole's random numbers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_sid.checkpoint import load_state
from recbole_sid.distributed import World
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.training_data import TrainingData

STATE_FORMAT = "recbole-sid-training-state-2"
_START_ANEW = "start anew with --overwrite and without --resume"


def read_state(path: str | Path, config, model: SIDRecommender) -> dict[str, Any]:
    """A ``training.pt``: tensors and plain data, read without running code from it.

    Raises:
        InputError: the file is damaged, of other settings, of other SIDs (another dataset), or not
            ours.
    """
    state = load_state(Path(path), model.device, _START_ANEW)
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise InputError(f"{path} is not a training state of recbole_sid")
    for key, now, what in (
        ("sids", model.sids.fingerprint(), "on other items or other SIDs"),
        ("settings", config.settings_hash(), "with other settings"),
    ):
        if state[key] != now:
            raise InputError(
                f"training state {path} was made {what}: give the settings and data it was made "
                f"with, name another --output, or {_START_ANEW}"
            )
    return state


def check_sequences(state: Mapping[str, Any], data: TrainingData, path: Path) -> None:
    """Refuse a state of :func:`read_state` that was made on other interactions than ``data``."""
    if state["data"] != data.fingerprint:
        raise InputError(f"training state {path} was made on other interactions: {_START_ANEW}")


def sampling_state() -> dict[str, Any]:
    """State of numpy's global random numbers: RecBole draws candidates (``uni100``) from them."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 (RecBole uses this generator)
    assert isinstance(state, dict)
    words = {"key": torch.from_numpy(state["state"]["key"].astype(np.int64))}
    return {**state, "state": {**state["state"], **words}}


def set_sampling_state(state: Mapping[str, Any]) -> None:
    """Draw from here on as from the :func:`sampling_state` ``state``."""
    words = {"key": state["state"]["key"].cpu().numpy().astype(np.uint32)}
    np.random.set_state({**state, "state": {**state["state"], **words}})  # noqa: NPY002 (as above)


def agree_on_sampling(world: World) -> None:
    """Draw from here on what the first process draws."""
    if world.alone:
        return
    state = sampling_state()
    words = state["state"]["key"].tolist()
    told = world.told({**state, "state": {**state["state"], "key": words}})
    words = torch.tensor(told["state"]["key"])
    set_sampling_state({**told, "state": {**told["state"], "key": words}})
