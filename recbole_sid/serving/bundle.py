"""A finished run or an export of one, opened for use: no RecBole dataset, no training data.

An export is one folder of safetensors and JSON that holds all that ranking and appending need:

- ``export.json``: the format and its version, the settings, and the sha256 of every other file;
- ``model.safetensors``, ``sids.safetensors``: the weights, and the SIDs in the model's item order;
- ``item_vectors.safetensors``, ``tokenizer.safetensors``, ``items.json`` (columns of the items):
  where the run has them.

Row ``i`` of the SIDs is the model's item ``i + 1``, in a run's folder as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from recbole_sid import registry, run_folder, seals
from recbole_sid.config import INPUT_FILES
from recbole_sid.errors import InputError, preview
from recbole_sid.files import CannotWrite, flush
from recbole_sid.generator.base import Generator
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.items.vectors import load_item_vectors, save_item_vectors
from recbole_sid.locks import locked
from recbole_sid.model.recommender import SIDRecommender, user_buckets
from recbole_sid.parsing import read_yaml
from recbole_sid.quick_start import require_finished
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build, require
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.version import __version__
from recbole_sid.weights import load_weights, write_weights

HEAD = "export.json"
SIDS = "sids.safetensors"
ITEMS = "items.json"
APPENDED = "append_report.json"  # in an export that append wrote
FORMAT = "recbole-sid-export"
VERSION = 1
# Of an export, besides its head.
_NEEDED = (run_folder.WEIGHTS, SIDS)
_OPTIONAL = (run_folder.VECTORS, run_folder.TOKENIZER, ITEMS)
# Places on the machine of the training, which nothing but training reads.
_PLACES = ("data_path", "cache_dir")
_NO_USER = "[PAD]"
# What columns of an export that filter may hold; None is no bound.
_TIMES = {int, float, type(None)}
_KINDS: dict[str, set[type]] = {
    "allowed": {bool},
    "available_from": _TIMES,
    "available_until": _TIMES,
}
_CHUNK = 2**20

# A value an item, in the order of the SIDs, by the name of the column.
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Bundle:
    """What ranks items, and what it was made from. Nothing in it changes when it is used.

    Attributes:
        folder: a run's or an export's.
        settings: all settings of the run. In an export files are named without their folders.
        sids: row ``i`` is the model's item ``i + 1``.
        vectors: float32 (n_items, d), where the generator reads content vectors.
        generator: with its weights, in eval mode. Users are given to it as :meth:`users` has them.
        columns: what an export knows of its items besides; None in a run's folder.
    """

    folder: Path
    settings: dict[str, Any]
    sids: SemanticIDs
    vectors: np.ndarray | None
    generator: Generator
    columns: Columns | None

    @property
    def window(self) -> int:
        """Items of a history that the model sees, the last ones."""
        return int(self.settings["MAX_ITEM_LIST_LENGTH"])

    @property
    def beam_size(self) -> int:
        """The run's width of the search."""
        return int(self.settings["beam_size"])

    @property
    def exclude_history(self) -> bool:
        """Whether the run's lists leave out what the user had."""
        return bool(self.settings["exclude_history"])

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return self.generator.user_buckets.device

    def users(self, names: Sequence[str | None]) -> Tensor:
        """What the generator takes for users of these names (n,); None is a user without one.

        A name matters only to a generator with user tokens, by its hash as in training.
        """
        count = len(self.generator.user_buckets)
        if not count:
            return torch.zeros(len(names), dtype=torch.int64, device=self.device)
        hashes = user_buckets(_NO_USER if name is None else name for name in names)
        return hashes.to(self.device) % count


def open_bundle(folder: str | Path, device: torch.device | str | None = None) -> Bundle:
    """Open the folder of a finished run of ours, or an export of one.

    Args:
        device: where the generator computes; None is a GPU where there is one, unless the run's
            ``gpu_id`` is empty.

    Raises:
        InputError: it is neither, a file is missing or damaged, or its generator is not known here.
    """
    folder = Path(folder)
    exported = (folder / HEAD).is_file()
    stored = _read_head(folder) if exported else _read_run(folder)
    name = stored.get("generator")
    if not isinstance(name, str):
        raise InputError(
            f"'{folder}' holds {stored.get('model')}, which has no generator to recommend items: "
            "give a run of a model that has one"
        )
    spec = registry.generator(name)
    _refuse_own_ranking(stored)
    overall = read_yaml(resource_dir("properties") / "overall.yaml")
    settings = {**overall, **spec.defaults, **stored}
    typed = build(spec.cls.Settings, settings, spec.prefix)
    sids = SemanticIDs.load(folder / (SIDS if exported else run_folder.SIDS))
    vectors = None
    if (folder / run_folder.VECTORS).is_file():
        vectors = load_item_vectors(folder / run_folder.VECTORS, None, sids.tokens)
    elif spec.cls.needs_vectors(typed):
        raise InputError(f"'{folder}' has no {run_folder.VECTORS}, which its generator reads")
    # A user is given as one of the hashes that the generator tells apart.
    buckets = torch.arange(settings["user_tokens"] if "user_tokens" in spec.keys else 0)
    window = settings.get("MAX_ITEM_LIST_LENGTH")
    whole = type(window) is int and window >= 1
    require(whole, "MAX_ITEM_LIST_LENGTH", window, "a whole number, at least 1")
    generator = spec.cls(typed, Catalogue(sids, vectors), window, buckets)
    held = _Held(generator, sids).to(_device(settings) if device is None else device)
    load_weights(cast(SIDRecommender, held), folder / run_folder.WEIGHTS)
    generator.eval().requires_grad_(False)
    columns = _read_columns(folder / ITEMS, sids) if exported else None
    return Bundle(folder, settings, sids, vectors, generator, columns)


class _Held(nn.Module):
    """A generator under the name that it has in the recommender, whose weights are stored."""

    def __init__(self, generator: Generator, sids: SemanticIDs):
        super().__init__()
        self.generator, self.sids = generator, sids

    @property
    def device(self) -> torch.device:
        return self.generator.user_buckets.device


def _device(settings: Mapping[str, Any]) -> torch.device:
    """As RecBole chooses it."""
    gpu = str(settings.get("gpu_id", "")).split(",")[0].strip()
    if not gpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(gpu))


def _refuse_own_ranking(stored: Mapping[str, Any]) -> None:
    spec = registry.model(str(stored.get("model")))
    if spec and spec.recommender.rank_histories is not SIDRecommender.rank_histories:
        raise InputError(
            f"model '{spec.name}' ranks by a rank_histories of its own, but only the generator is "
            "opened here: move what it does into the generator's rank"
        )


def _read_run(folder: Path) -> dict[str, Any]:
    require_finished(folder)
    return read_yaml(folder / run_folder.CONFIG)


# -- exports --------------------------------------------------------------------------------------


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
    from recbole_sid.serving.rules import item_columns

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
        names = [name for name in (*_NEEDED, *_OPTIONAL) if (temporary / name).is_file()]
        head: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "recbole_sid": __version__,
            "settings": _without_places(settings),
            "files": {name: _sha256(temporary / name) for name in names},
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
    others = sorted(
        {file.name for file in output.iterdir()} - {HEAD, *_NEEDED, *_OPTIONAL, APPENDED}
    )
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


def _read_head(folder: Path) -> dict[str, Any]:
    """The settings of an export, of which every file is found to be as it was written."""
    path = folder / HEAD
    remedy = "write the export again"
    head = run_folder.read_json(path, remedy)
    if head.get("format") != FORMAT:
        raise InputError(f"'{path}' is not the head of an export of recbole_sid: {remedy}")
    if head.get("version") != VERSION:
        raise InputError(
            f"export '{path}' has format version {head.get('version')!r}, but this release reads "
            f"{VERSION}: open it with the release that wrote it, {head.get('recbole_sid')!r}, or "
            f"{remedy} with this one"
        )
    files, settings = head.get("files"), head.get("settings")
    if (
        not isinstance(files, dict)
        or not isinstance(settings, dict)
        or not set(_NEEDED) <= set(files) <= {*_NEEDED, *_OPTIONAL}
    ):
        raise InputError(f"export '{path}' was edited: {remedy}")
    for name in (*_NEEDED, *_OPTIONAL):
        if (folder / name).is_file() != (name in files):
            what = "is missing" if name in files else "does not belong to the export"
            raise InputError(f"'{folder / name}' {what}: {remedy}")
    for name, expected in files.items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise InputError(f"'{folder / name}' cannot be read: {error}") from error
        if found != expected:
            raise InputError(
                f"'{folder / name}' is damaged: its sha256 is {found}, but {HEAD} says {expected}. "
                f"Copy it again, or {remedy}"
            )
    return settings


def _read_columns(path: Path, sids: SemanticIDs) -> Columns:
    if not path.is_file():
        return {}
    columns = run_folder.read_json(path, "write the export again")
    for name, values in columns.items():
        kinds = _KINDS.get(name)
        if not isinstance(values, list) or (kinds and not kinds.issuperset(map(type, values))):
            raise InputError(f"'{path}' holds wrong values of '{name}': write the export again")
        if len(values) != sids.n_items:
            raise InputError(
                f"'{path}' has {len(values)} values of '{name}', but there are {sids.n_items} "
                "items: write the export again"
            )
    return cast(Columns, columns)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
