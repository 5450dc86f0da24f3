"""``append``: SIDs for new items by a finished run, which recommends them at once.

Nothing is trained. The run's tokenizer gives the new items codes by its stored weights, the
collision rule finds them a place beside the published ones (:mod:`recbole_sid.sid.append`), and an
export is written whose trie has them all. No published SID moves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recbole_sid import distributed, registry, run_folder
from recbole_sid.clock import Clock
from recbole_sid.distributed import World
from recbole_sid.errors import InputError, preview
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.items.table import ItemTable
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.run_settings import RunSettings
from recbole_sid.serving.append_report import Limits, judged
from recbole_sid.serving.bundle import Bundle, open_bundle
from recbole_sid.serving.export import check_output, claimed, write_export
from recbole_sid.serving.rules import ALLOWED, SINCE, UNTIL, bounds_of, item_columns
from recbole_sid.settings import build
from recbole_sid.sid.append import append_codes
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.pipeline import configured_tokenizer, item_vectors, source_of
from recbole_sid.tokenizer.shared import assign_in_shares
from recbole_sid.tokenizer.stored_weights import StoredWeights

logger = logging.getLogger("recbole_sid")

# Input files of the training that the new items need one of their own of.
_FILES = ("item_embedding_file", "item_image_file")


def append(
    run: str | Path,
    items: str | Path,
    output: str | Path,
    *,
    known: Literal["refuse", "skip"] = "refuse",
    overwrite: bool = False,
    item_embedding_file: str | None = None,
    item_embedding_ids: str | None = None,
    item_image_file: str | None = None,
    item_image_ids: str | None = None,
    cache_dir: str | None = None,
    most_moved: float = 0.05,
    most_drift: float = 1.0,
    most_appended: float = 0.25,
    most_filled: float = 0.5,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Write an export of ``run`` that knows the new ``items`` as well.

    Under ``torchrun`` all processes call it alike: they share the encoding of the items and the
    search for their codes; the report is given to all.

    Args:
        run: the folder of a finished run, or an export; also one that was appended to before.
        items: an ``.item`` file of the new items, with the columns that the tokenizer read in
            training. Columns of availability that the run uses are read too; a run's
            ``allowed_items`` does not hold back new items.
        output: a folder, made where there is none, or empty; or an export, with ``overwrite``.
        known: what becomes of items that the run knows already: ``refuse``, or ``skip``, which
            leaves them as they are, whatever the file says of them.
        item_embedding_file, item_embedding_ids, item_image_file, item_image_ids: of the new items,
            where the run was given such a file (see ``properties/items.yaml``, ``schema.yaml``).
        cache_dir: of encoded texts and images; None is the run's own or the usual place.
        most_moved, most_drift, most_appended, most_filled: see :class:`Limits`.

    Returns:
        What ``append_report.json`` in the output holds: numbers of items, ``seconds`` of the
        stages, ``collisions`` (see :class:`.Appended`), ``fullness`` (see :func:`.fullness`),
        ``drift`` in what codes cost (None where the run does not say what its own items pay), and
        ``retokenize``: the reasons to, none or several.

    Raises:
        InputError: bad input; a tokenizer that cannot assign codes, a generator that learned
            something of every single item, or no room. Nothing is written then.
    """
    if known not in ("refuse", "skip"):
        raise InputError(f"'known' is {known!r}, but must be 'refuse' or 'skip'")
    limits = Limits(most_moved, most_drift, most_appended, most_filled)
    output = Path(output)
    check_output(output, overwrite)
    files = {
        "item_embedding_file": item_embedding_file,
        "item_embedding_ids": item_embedding_ids,
        "item_image_file": item_image_file,
        "item_image_ids": item_image_ids,
    }
    path = Path(items)
    with distributed.joined() as world, claimed(output) if world.leads else nullcontext():
        return _append(
            run, path, output, known, overwrite, files, cache_dir, limits, show_progress, world
        )


def _append(
    run: str | Path,
    path: Path,
    output: Path,
    known: str,
    overwrite: bool,
    files: Mapping[str, str | None],
    cache_dir: str | None,
    limits: Limits,
    show_progress: bool,
    world: World,
) -> dict[str, Any]:
    clock = Clock()
    with clock("open"):
        bundle = open_bundle(run)
        weights_file = _require_able(bundle)
        of_items = _tensors_of_items(bundle)
        tokens, n_known = _new_tokens(bundle, path, known)
        config = reading(bundle, path, files, cache_dir, show_progress)
    with clock("vectors"):
        cls = config.tokenizer_spec.cls
        by_vectors = cls.assigns_by == "vectors"
        wanted = by_vectors or bundle.vectors is not None
        vectors = item_vectors(config, tokens, world) if wanted else None
        by_source = cls.needs_source or not by_vectors
        source = source_of(config, tokens) if by_source else None
        all_vectors = _with_vectors(bundle, vectors)
    with clock("assign"):
        stored = StoredWeights(weights_file)
        new = Items(tokens, vectors, source=source)
        made = assign_in_shares(configured_tokenizer(config), new, stored, world)
    if made is None:
        return world.told()  # the first process goes on
    with clock("collisions"):
        appended = append_codes(bundle.sids, tokens, made.codes, made.space)
        columns = _with_columns(bundle, path, tokens)
    report: dict[str, Any] = {
        "tokenizer": bundle.settings["tokenizer"],
        "generator": bundle.settings["generator"],
        "collision": bundle.sids.collision,
        "items_before": bundle.sids.n_items,
        "items_after": appended.sids.n_items,
        "known_skipped": n_known,
        "without_own_vector": len(tokens) if of_items else 0,
        **judged(bundle.sids, appended, made, limits),
    }
    began = time.perf_counter()

    def timed() -> dict[str, Any]:
        clock.seconds["write"] = round(time.perf_counter() - began, 3)
        seconds = clock.report()["seconds"]
        rate = round(len(tokens) / max(seconds["total"], 1e-3), 1)
        report.update(seconds=seconds, items_per_second=rate)
        return report

    # An export in the output may be the run itself, and has all been read by now.
    tensors = _with_rows(bundle, of_items, len(tokens))
    write_export(
        output,
        bundle.settings,
        appended.sids,
        all_vectors,
        tensors or bundle.folder / run_folder.WEIGHTS,
        weights_file,
        items=columns,
        overwrite=overwrite,
        report=timed,
    )
    logger.info("Appended %s items to %s: %s", len(tokens), bundle.sids.n_items, output)
    logger.info("%s", "; ".join(report["retokenize"]) or "No need to tokenize again")
    return world.told(report)


# -- what cannot be done --------------------------------------------------------------------------


def _require_able(bundle: Bundle) -> Path:
    """The file of the tokenizer's weights; refused where there can be or is none."""
    name = bundle.settings["tokenizer"]
    if not registry.tokenizer(name).cls.can_assign:
        able = [s.name for s in registry.components() if s.kind == "tokenizer" and s.cls.can_assign]
        raise InputError(
            f"the run's tokenizer '{name}' cannot give codes to new items: train with one of "
            f"{', '.join(able)}"
        )
    path = bundle.folder / run_folder.TOKENIZER
    if not path.is_file():
        raise InputError(
            f"'{bundle.folder}' has no {run_folder.TOKENIZER}, the weights of the tokenizer: it "
            "was made by an older release. Run it again"
        )
    return path


def _tensors_of_items(bundle: Bundle) -> list[str]:
    """The generator's weights that hold a row an item, where new items can do with rows of zeros.

    They can where an item has a content vector besides. The weights are found by comparing with a
    generator for one item less.

    Raises:
        InputError: it has such weights, and the new items would be nothing without them.
    """
    spec = registry.generator(bundle.settings["generator"])
    typed = build(spec.cls.Settings, bundle.settings, spec.prefix)
    sids = replace(bundle.sids, tokens=bundle.sids.tokens[:-1], codes=bundle.sids.codes[:-1])
    vectors = None if bundle.vectors is None else bundle.vectors[:-1]
    buckets = bundle.generator.user_buckets
    smaller = spec.cls(typed, Catalogue(sids, vectors), bundle.window, buckets).state_dict()
    found = [
        name
        for name, tensor in bundle.generator.state_dict().items()
        if tensor.shape != smaller[name].shape
    ]
    if found and (found != ["item_embedding.weight"] or not spec.cls.needs_vectors(typed)):
        remedy = "take another generator, such as intrr with item_embedding: False"
        if "item_embedding" in spec.keys:
            content = ", content_vectors: True" if "content_vectors" in spec.keys else ""
            remedy = f"train it with item_embedding: False{content}"
        raise InputError(
            f"the run's generator '{spec.name}' learned {preview(found)} of every single item, "
            f"which new items lack: {remedy}"
        )
    return found


def _new_tokens(bundle: Bundle, items: Path, known: str) -> tuple[tuple[str, ...], int]:
    """The raw tokens in the file that the run does not know, and how many others there are."""
    if items.suffix != ".item":
        raise InputError(f"'{items}' is not an .item file: write the new items as one")
    settings = bundle.settings
    table = ItemTable.read(items, settings["ITEM_ID_FIELD"], [], settings["field_separator"])
    published = set(bundle.sids.tokens)
    old = [token for token in table.tokens if token in published]
    if old and known == "refuse":
        raise InputError(
            f"{len(old)} of the {len(table.tokens)} items in '{items}' are known to the run: "
            f"{preview(old)}. Their SIDs stay as they are: remove them, or pass them over with "
            "--known=skip"
        )
    tokens = tuple(token for token in table.tokens if token not in published)
    if not tokens:
        raise InputError(f"all {len(old)} items in '{items}' are known to the run: nothing is new")
    return tokens, len(old)


# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Settings as stage 1 takes them; an ``ItemConfig``, which needs no data set."""

    final_config_dict: dict[str, Any]
    tokenizer_spec: registry.ComponentSpec

    @property
    def run(self) -> RunSettings:
        return build(RunSettings, self.final_config_dict)

    @property
    def tokenizer_settings(self) -> Any:
        spec = self.tokenizer_spec
        return build(spec.cls.Settings, self.final_config_dict, spec.prefix)

    def __getitem__(self, key: str) -> Any:
        return self.final_config_dict[key]


def reading(
    bundle: Bundle,
    items: Path,
    files: Mapping[str, str | None],
    cache_dir: str | None,
    show_progress: bool,
) -> Reading:
    """The run's settings, for the items of the file ``items``."""
    for key in _FILES:
        ours, theirs = files[key], bundle.settings.get(key)
        if theirs is not None and ours is None:
            raise InputError(
                f"the run was trained with setting '{key}': give the new items' own, --{key}"
            )
        if theirs is None and ours is not None:
            raise InputError(
                f"setting '{key}' is {ours!r}, but the run was trained without one: leave it out"
            )
    folder, spec = resource_dir("properties"), registry.tokenizer(bundle.settings["tokenizer"])
    values: dict[str, Any] = {
        **read_yaml(folder / "items.yaml"),
        **read_yaml(folder / "schema.yaml"),
        **spec.defaults,
        **bundle.settings,
        **files,
        "data_path": str(items.parent),
        "dataset": items.stem,
        "device": bundle.device,
        "show_progress": show_progress,
    }
    if cache_dir is not None:
        values["cache_dir"] = cache_dir
    return Reading(values, spec)


def _with_vectors(bundle: Bundle, new: np.ndarray | None) -> np.ndarray | None:
    """The content vectors that the generator reads, of old and new items."""
    if bundle.vectors is None or new is None:
        return None
    if new.shape[1] != bundle.vectors.shape[1]:
        raise InputError(
            f"the new items' vectors have {new.shape[1]} dimensions, but the run's have "
            f"{bundle.vectors.shape[1]}: encode them as those of the run were"
        )
    return np.concatenate([bundle.vectors, new])


def _with_columns(
    bundle: Bundle, items: Path, tokens: tuple[str, ...]
) -> dict[str, Sequence[Any]] | None:
    """What the export knows of old and new items besides: when they are available."""
    columns = item_columns(bundle)
    settings = bundle.settings
    fields = {name: settings[f"{name}_field"] for name in (SINCE, UNTIL) if name in columns}
    table = ItemTable.read(
        items, settings["ITEM_ID_FIELD"], fields.values(), settings["field_separator"]
    ).aligned(tokens)
    new: dict[str, Sequence[Any]] = {
        name: bounds_of(table, field, items) for name, field in fields.items()
    }
    if ALLOWED in columns:
        new[ALLOWED] = [True] * len(tokens)
    return {name: [*old, *new[name]] for name, old in columns.items()} or None


def _with_rows(bundle: Bundle, of_items: list[str], n_new: int) -> dict[str, Tensor] | None:
    """The model's tensors with rows of zeros for the new items; None where none are needed."""
    if not of_items:
        return None
    tensors = {name: each.cpu() for name, each in bundle.generator.state_dict().items()}
    for name in of_items:
        rows = tensors[name].new_zeros(n_new, *tensors[name].shape[1:])
        tensors[name] = torch.cat([tensors[name], rows])
    return {f"generator.{name}": tensor for name, tensor in tensors.items()}
