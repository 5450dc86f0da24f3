"""``make-ads``: a seeded world of synthetic ads whose truth is known, as a feed and a log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_sid.ads.behaviour import DAY, TYPES, Plan, make_plan, simulate
from recbole_sid.ads.catalogue import Catalogue, make_catalogue, numbered
from recbole_sid.ads.documents import (
    FEED,
    LOG,
    MAPPING,
    MAPPING_TEXT,
    NAME,
    README,
    README_TEXT,
    TRUTH,
    VECTOR_IDS,
    VECTORS,
    WORLD,
)
from recbole_sid.ads.live import make_tastes
from recbole_sid.ads.oracle import LATE_SHARE, Oracle
from recbole_sid.ads.texts import feed_rows, paths
from recbole_sid.ads.vectors import image_vectors
from recbole_sid.errors import InputError
from recbole_sid.files import written_whole
from recbole_sid.filesets import refuse_finished, written_together
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")

EPOCH = 1_767_225_600  # the first second of 2026, UTC
CHUNK = 50_000  # ads

_FILES = (FEED, LOG, TRUTH, WORLD, MAPPING, README, VECTORS, VECTOR_IDS)
_ELSEWHERE = "choose another --output"
_BOUNDS = {
    "items": (2, 10_000_000),
    "users": (1, 10_000_000),
    "events": (10, 1_000_000_000),
    "days": (2, 3650),
    "seed": (0, 2**63 - 1),
    "image_dimensions": (0, 4096),
}


def make_ads(
    output: str | Path,
    *,
    items: int = 60_000,
    users: int = 20_000,
    events: int = 1_000_000,
    days: int = 60,
    seed: int = 2020,
    image_dimensions: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a world of synthetic ads into the folder ``output``.

    Goods form a tree (industry, category, kind), with brands and products below it. A product has
    several ads that say the same in other words, each shown from a day to the end of its campaign.
    Users click from ad to ad by a process that README.txt states. The same arguments give the same
    bytes, with the same versions of NumPy and pandas.

    Files: ``ads.csv`` (the feed), ``events.csv`` (the log, by time), ``synthetic-ads.yaml`` (the
    mapping: ``prepare --mapping`` makes the data set ``synthetic-ads`` of it), ``truth.csv`` (for
    measurement only), ``world.json``, ``README.txt``, and with ``image_dimensions``
    ``image_vectors.npy`` with ``image_ids.txt``, for ``item_embedding_file``.

    Args:
        items: ads.
        users: each has at least one click.
        events: impressions, clicks (30 %) and conversions (8 % of the clicks).
        days: of the log, from 2026-01-01 on.
        seed: 0 or more.
        image_dimensions: of a vector an ad that looks like one of its image; 0 makes none.
        overwrite: replace files that exist.
        progress: whether to show bars.

    Returns:
        What ``world.json`` holds, with the folder under ``folder``.

    Raises:
        InputError: a number out of bounds, or files that would be replaced.
    """
    settings = {
        "items": items,
        "users": users,
        "events": events,
        "days": days,
        "seed": seed,
        "image_dimensions": image_dimensions,
    }
    for key, value in settings.items():
        low, high = _BOUNDS[key]
        if type(value) is not int or not low <= value <= high:
            raise InputError(
                f"--{key} is {value!r}, but must be a whole number from {low} to {high}"
            )
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file, but --output must be a folder")
    if not overwrite:
        refuse_finished(folder, NAME, _FILES, _ELSEWHERE)
    world = make_catalogue(items, days, _random(seed, "catalogue"))
    plan = make_plan(world, users, events, days, _random(seed, "plan"))
    with written_together(folder, NAME, _FILES, _ELSEWHERE, overwrite):
        return {"folder": str(folder), **_write(folder, world, plan, settings, progress)}


def _write(
    folder: Path, world: Catalogue, plan: Plan, settings: dict[str, int], progress: bool
) -> dict[str, Any]:
    """Write all files; gives what ``world.json`` holds."""
    items, users, events, days, seed, image_dimensions = settings.values()
    logger.info("%s: %s ads of %s products", NAME, f"{items:,}", f"{world.n_products:,}")
    _write_ads(folder, world, seed, progress)
    for name in (VECTORS, VECTOR_IDS):
        (folder / name).unlink(missing_ok=True)  # of other settings
    if image_dimensions:
        _write_vectors(folder, world, image_dimensions, seed, progress)
    last_days = max(1, round(LATE_SHARE * days))
    late = plan.click_bounds[-1] - plan.click_bounds[_first(plan, days - last_days)]
    oracle = Oracle(users, int(late), days - last_days, _random(seed, "oracle"))
    counts = _write_events(folder / LOG, world, plan, oracle, seed, progress)
    report = {
        "data": "SYNTHETIC: made by make-ads of recbole_sid; nobody ever saw or clicked these ads",
        "name": NAME,
        "recbole_sid": __version__,
        "settings": settings,
        "counts": {
            "ads": world.n_ads,
            "products": world.n_products,
            "kinds": len(np.unique(world.product_kind)),
            "brands": world.n_brands,
            "advertisers": len(world.advertisers),
            "campaigns": len(world.campaign_start),
            "users": users,
            "events": events,
            **counts,
        },
        "first_second": EPOCH,
        "test_from": EPOCH + (days - last_days) * DAY,
        "oracle": oracle.report(),
    }
    _write_text(folder / MAPPING, MAPPING_TEXT)
    _write_text(folder / README, README_TEXT)
    _write_text(folder / WORLD, json.dumps(report, indent=2) + "\n")
    return report


def _random(seed: int, part: str, number: int = 0) -> np.random.Generator:
    """A generator for each part of the world, so that one does not disturb another."""
    return np.random.default_rng([seed, number, *part.encode()])


def _first(plan: Plan, day: int) -> int:
    return int(np.searchsorted(plan.days, day))


def _chunks(world: Catalogue, what: str, progress: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The numbers of the ads in parts that fit in memory, each with its own number."""
    starts = range(0, world.n_ads, CHUNK)
    for start in tqdm(starts, desc=what, unit="chunk", disable=not progress):
        yield start // CHUNK, np.arange(start, min(start + CHUNK, world.n_ads))


def _write_ads(folder: Path, world: Catalogue, seed: int, progress: bool) -> None:
    """The feed, and the truth about it."""
    with written_whole(folder / FEED) as feed, written_whole(folder / TRUTH) as truth:
        for number, rows in _chunks(world, "ads", progress):
            frame = feed_rows(world, rows, _random(seed, "texts", number))
            first, last = world.ad_start[rows], world.ad_end[rows]
            frame["start"] = EPOCH + first * DAY
            frame["end"] = EPOCH + last * DAY - 1
            _append(frame, feed, number)
            campaigns = world.ad_campaign[rows]
            true = frame[["ad_id", "product"]].copy()
            true["category"] = paths(world, rows)
            true["campaign"] = frame["campaign"]
            true["campaign_start"] = EPOCH + world.campaign_start[campaigns] * DAY
            true["campaign_end"] = EPOCH + world.campaign_end[campaigns] * DAY - 1
            true["arrival_day"] = first
            _append(true, truth, number)


def _write_vectors(
    folder: Path, world: Catalogue, dimensions: int, seed: int, progress: bool
) -> None:
    with written_whole(folder / VECTORS) as path, written_whole(folder / VECTOR_IDS) as ids:
        shape = (world.n_ads, dimensions)
        made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with ids.open("w", encoding="utf-8", newline="\n") as file:
            for number, rows in _chunks(world, "image vectors", progress):
                made[rows] = image_vectors(world, rows, dimensions, seed, number)
                file.writelines(f"{name}\n" for name in world.ad_ids(rows))
        made.flush()


def _write_events(
    path: Path, world: Catalogue, plan: Plan, oracle: Oracle, seed: int, progress: bool
) -> dict[str, int]:
    """The log, a day at a time; how many events there are of each type."""
    tastes = make_tastes(world, seed, _random(seed, "tastes"))
    names = numbered("u", np.arange(len(plan.first_clicks)))
    ids = world.ad_ids(np.arange(world.n_ads))
    types = np.array(TYPES, object)
    counts = np.zeros(len(TYPES), np.int64)
    days = simulate(tastes, plan, _random(seed, "events"), oracle.watch)
    with written_whole(path) as temporary:
        bar = tqdm(days, total=len(plan.days), desc="events", unit="day", disable=not progress)
        for number, log in enumerate(bar):
            counts += np.bincount(log.types, minlength=len(TYPES))
            frame = pd.DataFrame(
                {
                    "user": names[log.users],
                    "ad_id": ids[log.ads],
                    "event": types[log.types],
                    "time": EPOCH + log.seconds,
                }
            )
            _append(frame, temporary, number)
    return {f"{name}s": int(count) for name, count in zip(TYPES, counts, strict=True)}


def _append(frame: pd.DataFrame, path: Path, number: int) -> None:
    """Rows behind those of the file; the first ones with names above them."""
    with path.open("a" if number else "w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")


def _write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
