"""Interactions by the million: reading, splitting and packing with and without prefix expansion.

Usage: python benchmarks/interactions_scale.py FOLDER [--interactions=1000000,10000000]
       [--expanded=1000000]

FOLDER gets a data set of each size: 20 interactions a user on average (5 to some 200, log-normal),
one item for fifty interactions, item popularity 1 / (rank + 10)^0.8, seeded. ``ours`` reads it as
our models do, splits it by leave-one-out, chains the training rows and cuts them into windows;
``expanded`` lets RecBole expand every prefix first, in the sizes of --expanded alone. Each is a
process of its own: seconds of processor time, and peak memory above that of the imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pandas as pd
import recbole.data.utils
from assign_rate import memory_mb, reset_peak_mb

from recbole_sid import datasets
from recbole_sid.generator.sequences import windows
from recbole_sid.model.dataset import split_sequences
from recbole_sid.quick_start import checked_config

HISTORY = 20


def write_world(folder: Path, n: int) -> None:
    """``n`` interactions, more or less."""
    rng = np.random.default_rng(n)
    lengths = np.clip(rng.lognormal(2.7, 0.75, n // 20), 5, 200).astype(np.int64)
    users = np.repeat(np.arange(len(lengths)), lengths)
    n_items = n // 50
    chances = np.cumsum((np.arange(n_items) + 10.0) ** -0.8)
    items = np.searchsorted(chances, rng.random(len(users)) * chances[-1], side="right")
    rows = pd.DataFrame(
        {
            "user_id:token": users,
            "item_id:token": items,
            "timestamp:float": rng.integers(0, 10**7, len(users)),
        }
    )
    folder.mkdir(parents=True)
    rows.sample(frac=1, random_state=0).to_csv(
        folder / f"{folder.name}.inter", sep="\t", index=False
    )
    ids = np.unique(items)
    titles = pd.DataFrame({"item_id:token": ids, "title:token": [f"thing {i}" for i in ids]})
    titles.to_csv(folder / f"{folder.name}.item", sep="\t", index=False)


def measure(folder: Path, expanded: bool, out) -> None:
    """Put the figures of one way into the queue ``out``."""
    settings = {
        "data_path": str(folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": HISTORY,
        "show_progress": False,
    }
    config = checked_config("TIGER", folder.name, config_dict=settings, command_line=[])
    before = reset_peak_mb()
    marks = [time.process_time()]
    if expanded:
        with datasets.texts_as_written():
            dataset = recbole.data.utils.create_dataset(config)
    else:
        dataset = datasets.create_dataset(config)
    marks.append(time.process_time())
    train = dataset.build()[0]
    marks.append(time.process_time())
    sequences = split_sequences(train, config)
    cut = windows(sequences, HISTORY, HISTORY)
    marks.append(time.process_time())
    out.put(
        {
            "rows": len(train),
            "windows": len(cut.starts),
            "seconds": dict(
                zip(("read", "split", "pack"), np.diff(marks).round(1).tolist(), strict=True)
            ),
            "peak_mb": round(memory_mb("VmHWM") - before),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--interactions", default="1000000,10000000")
    parser.add_argument("--expanded", default="1000000")
    given = parser.parse_args()
    sizes = [int(n) for n in given.interactions.split(",")]
    expanded = [int(n) for n in given.expanded.split(",") if n]
    processes = multiprocessing.get_context("spawn")
    for n in sizes:
        folder = given.folder / f"made{n}"
        if not folder.exists():
            write_world(folder, n)
        for way in (False, True):
            if way and n not in expanded:
                continue
            out = processes.Queue()
            process = processes.Process(target=measure, args=(folder, way, out))
            process.start()
            found = out.get(timeout=3600)  # a process that died leaves nothing
            process.join()
            print(json.dumps({"n": n, "way": "expanded" if way else "ours", **found}), flush=True)


if __name__ == "__main__":
    main()
