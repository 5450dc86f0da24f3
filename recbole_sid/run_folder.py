"""The folder of a run: what it may replace, what lies in it, and which inputs it belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_sid.errors import InputError

if TYPE_CHECKING:
    from recbole_sid.config import Config

logger = logging.getLogger("recbole_sid")

CONFIG = "config.yaml"
SIDS = "sids.json"
WEIGHTS = "model.safetensors"
STATE = "training.pt"
LOG = "run.log"
RESULT = "result.json"
TIMING = "timing.json"
_EVENTS = "events.out.tfevents.*"

_CHUNK = 2**20


def stored_result(config: Config) -> dict[str, Any] | None:
    """The result of this very run if its folder holds it, else None: then the run may start.

    Raises:
        InputError: the folder holds something that would be lost.
    """
    folder = config.run_folder
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file, but a run needs a folder: name another --output")
    if config.run.overwrite and config.run.resume:
        raise InputError("--overwrite starts anew and --resume goes on: give one of them")
    if config.run.overwrite:
        return None
    if (folder / RESULT).is_file():
        return _reused(config, folder)
    if (folder / STATE).is_file() and not config.run.resume:
        raise InputError(
            f"'{folder}' holds an unfinished run. Go on with --resume, or start anew with "
            "--overwrite"
        )
    if (folder / CONFIG).is_file() and not (folder / LOG).is_file():
        raise InputError(
            f"'{folder}' is not the folder of a run, but has a {CONFIG}, which would be replaced: "
            "name another --output"
        )
    return None


def _reused(config: Config, folder: Path) -> dict[str, Any]:
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        timing = json.loads((folder / TIMING).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the result in '{folder}' cannot be read: {error}. --overwrite runs it again"
        ) from error
    for key, now, what in (
        ("settings_hash", config.settings_hash(), "of other settings"),
        ("inputs_hash", inputs_hash(config), "on other data: the files have changed since"),
    ):
        if result.get(key) != now:
            raise InputError(
                f"'{folder}' holds a run {what}. Choose another --output, or --overwrite to "
                "replace it"
            )
    logger.warning(
        "This run is finished already, its stored result follows; --overwrite runs it again. %s",
        folder,
    )
    return result | {"run_folder": str(folder), "timing": timing}


def start(config: Config) -> Path:
    """Make the folder, or clear what an earlier run left in it; write the settings.

    A resumed run keeps all it has. Files that no run writes are left alone.
    """
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (config.run.resume and (folder / STATE).is_file()):
        for name in (SIDS, WEIGHTS, STATE, LOG, RESULT, TIMING):
            (folder / name).unlink(missing_ok=True)
        # RecBole's last event, the hyperparameters, has a folder of its own, named by the time.
        for pattern in (_EVENTS, f"[0-9]*.[0-9]*/{_EVENTS}"):
            for events in list(folder.glob(pattern)):
                events.unlink()
                if events.parent != folder and not any(events.parent.iterdir()):
                    events.parent.rmdir()
    (folder / CONFIG).write_text(yaml.safe_dump(config.to_plain(), sort_keys=True), "utf-8")
    return folder


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write whole or not at all; numbers that JSON lacks are refused."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def inputs_hash(config: Config) -> str:
    """sha256 hex over names and contents of the files that the run reads, wherever they lie."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    files = sorted(file for file in folder.glob(f"{dataset}.*") if file.is_file())
    values = config.final_config_dict
    for key in ("sid_file", "item_embedding_file", "item_embedding_ids"):
        if config.model_spec is not None and values.get(key) is not None:
            files.append(Path(values[key]))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
