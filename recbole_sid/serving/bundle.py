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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from recbole_sid import registry, run_folder
from recbole_sid.errors import InputError
from recbole_sid.generator.base import Generator
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.items.vectors import load_item_vectors
from recbole_sid.model.recommender import SIDRecommender, user_buckets
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build, require
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.stored_run import require_finished
from recbole_sid.weights import load_weights

HEAD = "export.json"
SIDS = "sids.safetensors"
ITEMS = "items.json"
APPENDED = "append_report.json"  # in an export that append wrote
FORMAT = "recbole-sid-export"
VERSION = 1
# Of an export, besides its head.
NEEDED = (run_folder.WEIGHTS, SIDS)
OPTIONAL = (run_folder.VECTORS, run_folder.TOKENIZER, ITEMS)
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
        or not set(NEEDED) <= set(files) <= {*NEEDED, *OPTIONAL}
    ):
        raise InputError(f"export '{path}' was edited: {remedy}")
    for name in (*NEEDED, *OPTIONAL):
        if (folder / name).is_file() != (name in files):
            what = "is missing" if name in files else "does not belong to the export"
            raise InputError(f"'{folder / name}' {what}: {remedy}")
    for name, expected in files.items():
        try:
            found = sha256_of(folder / name)
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


def sha256_of(path: Path) -> str:
    """sha256 hex of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
