"""``prepare``: from a table of items and a log of events to the atomic files of RecBole.

Reading is a stream of blocks; all that needs many rows at once (repeats, k-core, order) is left to
DuckDB, which spills to disk. So memory does not grow with the data.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.filesets import refuse_finished, written_together
from recbole_sid.preparing.amazon import YEARS, amazon_mapping, category_of, compare
from recbole_sid.preparing.mapping import DataMapping, read_mapping
from recbole_sid.preparing.taobao import taobao_mapping

if TYPE_CHECKING:
    from recbole_sid.preparing.store import Store

logger = logging.getLogger("recbole_sid")

PRESETS = (*(f"amazon-{year}" for year in YEARS), "taobao")
ENDINGS = (".inter", ".item", ".yaml", ".report.json", ".rejected.tsv")
_NAME = re.compile(r"[\w][\w.-]*")
_ELSEWHERE = "choose another --name"


def prepare(
    output: str | Path,
    mapping: str | Path | DataMapping | None = None,
    *,
    preset: str | None = None,
    reviews: str | None = None,
    meta: str | None = None,
    folder: str | None = None,
    name: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    memory_limit: str = "1GB",
    temp_folder: str | Path | None = None,
) -> dict[str, Any]:
    """Write ``output/NAME/NAME.inter``, ``.item``, ``.yaml``, ``.report.json``, ``.rejected.tsv``.

    ``output`` is RecBole's ``data_path`` and NAME its ``dataset``. The same input and settings give
    the same bytes.

    Args:
        mapping: a yaml file (see ``dataset_configs/ad_mapping.yaml``), or what it says.
        preset: in place of a mapping: ``amazon-2014``, ``amazon-2018`` or ``amazon-2023`` with
            ``reviews`` and ``meta``, or ``taobao`` with ``folder``.
        name: by default the name of the mapping file, the Amazon category, or ``taobao``.
        strict: refuse bad rows instead of counting them.
        overwrite: replace files that exist.
        memory_limit: what DuckDB may take before it spills to disk.
        temp_folder: where it spills to; the system's place for such files by default.

    Returns:
        What ``NAME.report.json`` holds, with the folder under ``folder``.

    Raises:
        InputError: an argument, the mapping or a file is bad, or nothing is left.
    """
    given = {"reviews": reviews, "meta": meta, "folder": folder}
    settings, default = _settings(mapping, preset, given)
    name = default if name is None else name
    if not _NAME.fullmatch(name):
        raise InputError(f"--name is {name!r}, but must be letters, digits, _, - and dots")
    target = Path(output) / name
    paths = {ending: target / (name + ending) for ending in ENDINGS}
    files = [path.name for path in paths.values()]
    if not overwrite:
        refuse_finished(target, name, files, _ELSEWHERE)
    _check_writable(target)
    if importlib.util.find_spec("duckdb") is None:
        raise InputError('prepare needs duckdb: pip install "recbole-sid[prepare]"')
    from recbole_sid.preparing.store import open_store

    spill = None if temp_folder is None else Path(temp_folder)
    with open_store(memory_limit, spill, strict) as store:
        report = _read(store, settings)
        year = None if preset in (None, "taobao") else str(preset).removeprefix("amazon-")
        report = {"name": name, "preset": preset, **report}
        try:
            with written_together(target, name, files, _ELSEWHERE, overwrite):
                of_amazon = None if year is None else (year, default)
                _write(store, settings, name, paths, report, of_amazon)
        except OSError as error:
            raise InputError(f"'{target}' cannot be written: {error}") from error
    return {"folder": str(target), **report}


def _check_writable(folder: Path) -> None:
    """Whatever of ``folder`` is there already is a folder that takes files."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"'{there}' is a file, but --output must be a folder: name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"no files may be written in '{there}': name another --output")


def _settings(
    mapping: str | Path | DataMapping | None, preset: str | None, given: dict[str, str | None]
) -> tuple[DataMapping, str]:
    """The mapping, and the name that the data set has by default."""
    if (mapping is None) == (preset is None):
        raise InputError(f"prepare needs --mapping FILE or --preset, one of {', '.join(PRESETS)}")
    needed: tuple[str, ...] = ()
    if preset is not None:
        if preset not in PRESETS:
            raise InputError(
                f"unknown preset '{preset}'.{did_you_mean(preset, PRESETS)} Known: "
                f"{', '.join(PRESETS)}"
            )
        needed = ("folder",) if preset == "taobao" else ("reviews", "meta")
    for key, value in given.items():
        if (key in needed) != (value is not None):
            what = f"--preset={preset}" if preset else "--mapping"
            raise InputError(f"{what} {'needs' if key in needed else 'takes no'} --{key}")
    if preset == "taobao":
        return taobao_mapping(given["folder"] or ""), "taobao"
    if preset is not None:
        reviews = given["reviews"] or ""
        year = preset.removeprefix("amazon-")
        return amazon_mapping(year, reviews, given["meta"] or ""), category_of(reviews)
    if isinstance(mapping, DataMapping):
        return mapping, "data"
    assert mapping is not None
    return read_mapping(mapping), Path(mapping).stem


def _read(store: Store, mapping: DataMapping) -> dict[str, Any]:
    """Fill the store; the counts of every step."""
    from recbole_sid.preparing.core import filter_events, refuse_twins
    from recbole_sid.preparing.events import read_events
    from recbole_sid.preparing.items import read_items

    items = read_items(store, mapping.items, mapping.item_columns)
    logger.info("items: %s of %s rows", f"{items['items']:,}", f"{items['rows']:,}")
    events = read_events(store, mapping.events, mapping.event_columns)
    logger.info("events: %s of %s rows", f"{events['kept']:,}", f"{events['rows']:,}")
    refuse_twins(store)
    dropped = filter_events(store, mapping.events, mapping.minimum)
    return {"items": items, "events": events, "dropped": dropped}


def _write(
    store: Store,
    mapping: DataMapping,
    name: str,
    paths: dict[str, Path],
    report: dict[str, Any],
    amazon: tuple[str, str] | None,
) -> None:
    """All files; ``report`` gets the counts of what was written."""
    from recbole_sid.preparing import atomic

    labelled = bool(mapping.events.positive)
    report["result"] = atomic.describe(store, labelled)
    if labelled:
        found = report["result"]
        numbers = (f"{found[key]:,}" for key in ("positive", "interactions"))
        logger.info("labels: %s of %s interactions are positive", *numbers)
    for part in ("items", "events"):
        count = sum(report[part]["rejected"].values())
        if count:
            shown = store.first_rejected(part)
            logger.warning("%s bad rows of %s; the first %d:", f"{count:,}", part, len(shown))
            for line in shown:
                logger.warning("  %s", line)
    if amazon is not None:
        found = report["result"]
        sizes = found["users"], found["items_with_interactions"], found["interactions"]
        comparison = compare(*amazon, sizes)
        report["statistics"] = comparison
        if comparison is not None and not comparison["equal"]:
            logger.warning(
                "Users, items and interactions are %s, but the published ones of %s are %s.",
                comparison["found"],
                " ".join(amazon),
                comparison["published"],
            )
    atomic.write_inter(store, paths[".inter"], labelled)
    report["result"]["item_file"] = atomic.write_items(
        store, paths[".item"], mapping.item_columns, mapping.items.keep_all
    )
    atomic.write_rejected(store, paths[".rejected.tsv"])
    atomic.write_text(paths[".yaml"], atomic.dataset_config(mapping, name))
    report["settings"] = asdict(mapping)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    atomic.write_text(paths[".report.json"], text)
