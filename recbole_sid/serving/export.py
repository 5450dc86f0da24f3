"""A finished run written as an export: one folder that appears whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from recbole_sid import run_folder, seals
from recbole_sid.errors import InputError, preview
from recbole_sid.files import CannotWrite, flush
from recbole_sid.identity import INPUT_FILES
from recbole_sid.items.vectors import save_item_vectors
from recbole_sid.locks import locked
from recbole_sid.serving.bundle import (
    APPENDED,
    FORMAT,
    HEAD,
    ITEMS,
    NEEDED,
    OPTIONAL,
    SIDS,
    VERSION,
    Columns,
    open_bundle,
    sha256_of,
)
from recbole_sid.serving.rules import item_columns
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.version import __version__
from recbole_sid.weights import write_weights

# Places on the machine of the training, which nothing but training reads.
_PLACES = ("data_path", "cache_dir")


def export(run: str | Path, output: str | Path, overwrite: bool = False) -> Path:
    """Write a finished run as one folder that is opened without its data set.

    What the run's settings say on its items (``allowed_items``, ``available_from_field``,
    ``available_until_field``) is read from the files of its data set, and goes with them.

    Args:
        run: the run's folder, or an export.
        output: a folder that does not exist or is empty; or an export, with ``overwrite``.

    Returns:
        ``output``.

    Raises:
        InputError: not a run of ours, or the output cannot be written.
    """
    output = Path(output)
    check_output(output, overwrite)
    with claimed(output):
        bundle = open_bundle(run, "cpu")
        tokenizer = bundle.folder / run_folder.TOKENIZER
        return write_export(
            output,
            bundle.settings,
            bundle.sids,
            bundle.vectors,
            bundle.folder / run_folder.WEIGHTS,
            tokenizer if tokenizer.is_file() else None,
            items=item_columns(bundle),
            overwrite=overwrite,
        )


def write_export(
    output: str | Path,
    settings: Mapping[str, Any],
    sids: SemanticIDs,
    vectors: np.ndarray | None,
    weights: str | Path | Mapping[str, Tensor],
    tokenizer_file: str | Path | None,
    items: Columns | None = None,
    overwrite: bool = False,
    report: Callable[[], Mapping[str, Any]] | None = None,
) -> Path:
    """Write an export; the folder appears whole or not at all.

    Args:
        output: as in :func:`export`.
        settings: a run's; places on this machine are left out, and files lose their folders.
        sids: in the order of the model's items.
        vectors: (n_items, d), or None where the generator reads none.
        weights: a run's ``model.safetensors``, or its tensors by their names in that file. They are
            written as those of ``sids``.
        tokenizer_file: a run's ``tokenizer.safetensors``.
        items: plain values by column, as :func:`.item_columns` gives them.
        report: gives what ``append_report.json`` holds, asked for when all else is written.

    Returns:
        ``output``.

    Raises:
        InputError: the output exists, or cannot be written.
    """
    output = Path(output)
    check_output(output, overwrite)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        sids.save(temporary / SIDS)
        _write_weights(temporary / run_folder.WEIGHTS, weights, sids)
        if vectors is not None:
            save_item_vectors(temporary / run_folder.VECTORS, vectors, sids.tokens)
        if tokenizer_file is not None:
            _copy(Path(tokenizer_file), temporary / run_folder.TOKENIZER)
        if items:
            run_folder.write_json(temporary / ITEMS, {k: list(v) for k, v in items.items()})
        names = [name for name in (*NEEDED, *OPTIONAL) if (temporary / name).is_file()]
        head: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "recbole_sid": __version__,
            "settings": _without_places(settings),
            "files": {name: sha256_of(temporary / name) for name in names},
        }
        run_folder.write_json(temporary / HEAD, head)
        # safetensors lets only the owner read its files; a service may be someone else.
        for name in names:
            (temporary / name).chmod((temporary / HEAD).stat().st_mode)
        if report is not None:
            run_folder.write_json(temporary / APPENDED, report())
        flush(temporary)
        _move(temporary, output)
    except OSError as error:
        cause = error.__cause__ if isinstance(error, CannotWrite) else error
        raise CannotWrite(
            f"output '{output}' cannot be written: {cause}. Make room, or name another --output"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return output


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Have the folder of an export to oneself, and bring back what a killed process moved away.

    Raises:
        InputError: another process writes it.
    """
    lock = output.with_name(f".{output.name}.lock")
    with locked(lock, f"output '{output}'", "wait for it, or name another --output"):
        if not output.exists():
            for old in output.parent.glob(f".{output.name}.*.old"):
                os.replace(old, output)
                break
        for kind in ("old", "tmp"):
            for left in output.parent.glob(f".{output.name}.*.{kind}"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a place where no export may be written, before anything is computed.

    Raises:
        InputError: it is no folder, holds other things, or an export without ``overwrite``.
    """
    nearest = next(path for path in (output, *output.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir() or output.is_symlink():
        raise InputError(f"output '{output}': '{nearest}' is no folder: name another one")
    if not output.is_dir():
        return
    others = sorted({file.name for file in output.iterdir()} - {HEAD, *NEEDED, *OPTIONAL, APPENDED})
    if others:
        raise InputError(
            f"output '{output}' holds {preview(others)}, which is no part of an export: name "
            "another folder"
        )
    if any(output.iterdir()) and not overwrite:
        raise InputError(
            f"output '{output}' exists: name another folder, or replace it by --overwrite"
        )


def _move(temporary: Path, output: Path) -> None:
    """Put a finished folder in the place of ``output``, which may be an export already."""
    old = temporary.with_suffix(".old")
    if output.exists():
        os.replace(output, old)
    os.replace(temporary, output)
    flush(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    seals.check(source, "run it again, or write the export again")
    shutil.copyfile(source, target)
    flush(target)


def _write_weights(
    path: Path, weights: str | Path | Mapping[str, Tensor], sids: SemanticIDs
) -> None:
    metadata = {"epoch": "-1"}
    fingerprint = sids.fingerprint()
    if isinstance(weights, (str, Path)):
        try:
            with safe_open(weights, framework="pt") as file:
                metadata |= file.metadata() or {}
            if metadata.get("sids") == fingerprint:
                _copy(Path(weights), path)
                return
            weights = load_file(weights)
        except SafetensorError as error:
            raise InputError(f"checkpoint {weights} cannot be read: {error}") from error
    write_weights(path, weights, metadata | {"sids": fingerprint})


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in _PLACES}
    for key in INPUT_FILES:
        if kept.get(key) is not None:
            kept[key] = Path(kept[key]).name
    # yaml knows dates, which JSON does not.
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain
