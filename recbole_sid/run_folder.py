"""The folder of a run: what it may replace, what lies in it, and which inputs it belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from recbole_sid import distributed, seals
from recbole_sid.config import Config
from recbole_sid.errors import InputError, preview
from recbole_sid.files import REMEDY, remove_leftovers
from recbole_sid.identity import INPUT_FILES
from recbole_sid.items.atomic_vectors import ATOMIC_SUFFIXES
from recbole_sid.locks import locked
from recbole_sid.tokenizer.pipeline import source_hash
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")

CONFIG = "config.yaml"
SIDS = "sids.json"
VECTORS = "item_vectors.safetensors"
EMBEDDINGS = "item_embeddings.safetensors"
TOKENIZER = "tokenizer.safetensors"
WEIGHTS = "model.safetensors"
STATE = "training.pt"
LOG = "run.log"
RESULT = "result.json"
TIMING = "timing.json"
OUTCOMES = "outcomes.safetensors"
LOCK = ".lock"
_WRITTEN = (
    *(CONFIG, SIDS, VECTORS, EMBEDDINGS, TOKENIZER, WEIGHTS, STATE, LOG, RESULT, TIMING),
    OUTCOMES,
)
_EVENTS = "events.out.tfevents.*"

_CHUNK = 2**20
_AGAIN = "run it again, with --overwrite"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have an output folder to oneself, from the first second on.

    A folder that may only be read is not locked: no other process can write there either. Of the
    processes of one run the first has it.

    Raises:
        InputError: another process works in it.
    """
    if not distributed.current().leads or not os.access(_nearest(folder), os.W_OK | os.X_OK):
        yield
        return
    with locked(folder / LOCK, f"the folder '{folder}'", "wait for it, or name another --output"):
        yield


def stored_result(config: Config) -> dict[str, Any] | None:
    """The result of this very run if its folder holds it, else None: then the run may start.

    Raises:
        InputError: the folder holds something that would be lost, or cannot be made.
    """
    folder = config.run_folder
    above = _require_folder("output", folder)
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"no files may be written in '{above}': name another --output")
    if config.model_spec is not None:
        # A cache that may only be read is of use as long as it holds what is needed.
        _require_folder("cache_dir", config.run.cache_folder)
    _refuse_lost_inputs(config, folder)
    if config.run.overwrite and config.run.resume:
        raise InputError("--overwrite starts anew and --resume goes on: give one of them")
    if config.run.overwrite:
        return None
    present = [name for name in _WRITTEN if os.path.lexists(folder / name)]
    if present == [LOG] and (folder / LOG).stat().st_size == 0:
        return None  # what a run leaves that is killed when it has only begun
    if present and not {CONFIG, LOG} <= set(present):
        raise InputError(
            f"'{folder}' is not the folder of a run, but has {preview(present)}, which a run "
            "would replace: name another --output"
        )
    if (folder / RESULT).is_file():
        return _reused(config, folder)
    if (folder / STATE).is_file() and not config.run.resume:
        raise InputError(
            f"'{folder}' holds an unfinished run. Go on with --resume, or start anew with "
            "--overwrite"
        )
    return None


def _require_folder(key: str, folder: Path) -> Path:
    """The nearest folder that exists: ``folder`` or one above it; a file there is refused."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise InputError(
            f"setting '{key}' leads to '{folder}', but '{nearest}' is a file, not a folder: name "
            f"another --{key}"
        )
    return nearest


def _nearest(folder: Path) -> Path:
    """``folder``, or the nearest one above it that exists."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if os.path.lexists(path))


def _refuse_lost_inputs(config: Config, folder: Path) -> None:
    written = {(folder / name).resolve() for name in _WRITTEN}
    for key, file in _stage_1_files(config).items():
        if file.resolve() in written:
            raise InputError(
                f"setting '{key}' is '{file}', which this run would replace: copy it to another "
                "folder, or name another --output"
            )


def _stage_1_files(config: Config) -> dict[str, Path]:
    """The user's files that a run reads besides those of the data set, by their settings."""
    values = config.final_config_dict
    return {
        key: Path(values[key])
        for key in INPUT_FILES
        if config.model_spec is not None and values.get(key) is not None
    }


def _reused(config: Config, folder: Path) -> dict[str, Any]:
    result, timing = (read_json(folder / name, _AGAIN) for name in (RESULT, TIMING))
    for key, now, what in (
        ("settings_hash", config.settings_hash(), "of other settings"),
        (
            "inputs_hash",
            inputs_hash(config),
            "on other data or by other code: the files have changed since",
        ),
    ):
        if result.get(key) != now:
            raise InputError(
                f"'{folder}' holds a run {what}. Choose another --output, or --overwrite to "
                "replace it"
            )
    # The run may have been killed before it had cleared up.
    (folder / STATE).unlink(missing_ok=True)
    remove_leftovers(folder, _WRITTEN)
    logger.warning(
        "This run is finished already, its stored result follows; --overwrite runs it again. %s",
        folder,
    )
    return result | {"run_folder": str(folder), "timing": timing}


def start(config: Config) -> Path:
    """Make the folder, or clear what an earlier run left in it; write the settings.

    A resumed run keeps all it has. Files that no run writes are left alone.

    Raises:
        InputError: the file system refuses it.
    """
    folder = config.run_folder
    try:
        _start(config, folder)
    except OSError as error:
        raise InputError(
            f"the run folder '{folder}' cannot be written: {error}. Name another --output"
        ) from error
    return folder


def _start(config: Config, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (config.run.resume and (folder / STATE).is_file()):
        # In this order, a kill between two lines leaves no result or state without its weights,
        # and a folder that is still known for a run's.
        first = (RESULT, STATE, WEIGHTS)
        for name in (*first, VECTORS, EMBEDDINGS, TOKENIZER, SIDS, TIMING, OUTCOMES):
            (folder / name).unlink(missing_ok=True)
        (folder / LOG).write_bytes(b"")
        # RecBole's last event, the hyperparameters, has a folder of its own, named by the time.
        for pattern in (_EVENTS, f"[0-9]*.[0-9]*/{_EVENTS}"):
            for events in list(folder.glob(pattern)):
                events.unlink()
                if events.parent != folder and not any(events.parent.iterdir()):
                    events.parent.rmdir()
    remove_leftovers(folder, _WRITTEN)
    settings = yaml.safe_dump(config.to_plain(), sort_keys=True)
    with seals.written_sealed(folder / CONFIG) as temporary:
        temporary.write_text(f"{settings}# {seals.blank()}\n", encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any], remedy: str = REMEDY) -> None:
    """Write an object, sealed, whole or not at all; numbers that JSON lacks are refused.

    Raises:
        CannotWrite: the file system refuses it.
    """
    text = json.dumps({**values, seals.KEY: seals.blank()}, indent=2, allow_nan=False) + "\n"
    with seals.written_sealed(path, remedy) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """What :func:`write_json` wrote.

    Args:
        remedy: what the user can do if it cannot be read.

    Raises:
        InputError: the file is missing, damaged, edited, or not one of ours.
    """
    seals.check(path, remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return seals.unsealed(values)
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise InputError(f"'{path}' cannot be read: {error}. Remedy: {remedy}") from error


def check_finished(folder: Path) -> None:
    """See that settings and result of a finished run are as they were written.

    Weights, SIDs and vectors are checked where they are read.

    Raises:
        InputError: one of them is damaged or was edited.
    """
    for name in (CONFIG, RESULT):
        seals.check(folder / name, _AGAIN)


def check_data(config: Config) -> None:
    """Refuse a finished run whose dataset is not the one that it was made on.

    The code and the inputs of stage 1 may differ: weights and SIDs are those in the folder.
    """
    path = config.run_folder / RESULT
    stored = read_json(path, _AGAIN)
    if stored.get("data_hash") != data_hash(config):
        raise InputError(
            f"'{path.parent}' holds a run on other data: the files in '{config['data_path']}' "
            "have changed since. Give it the old files, or run it again"
        )


def data_hash(config: Config) -> str:
    """sha256 hex over names and contents of the dataset's files that RecBole reads, wherever they
    lie: atomic files, and those that ``additional_feat_suffix`` names."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    read = {
        f".{suffix}" for suffix in (*ATOMIC_SUFFIXES, *(config["additional_feat_suffix"] or ()))
    }
    files = (file for file in folder.glob(f"{dataset}.*") if file.suffix in read)
    return _files_hash(sorted(file for file in files if file.is_file()))


def inputs_hash(config: Config) -> str:
    """sha256 hex over all but the settings that a result follows from.

    The dataset's files, the user's files of stage 1, the version of this package, and the source
    of the tokenizer and of what stage 2 trains.
    """
    parts = [__version__, data_hash(config), _files_hash(_stage_1_files(config).values())]
    if config.model_spec is not None:
        for component in (config.tokenizer_spec, config.stage_2_spec):
            parts.append(source_hash(component.cls) or "typed into a session")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _files_hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
