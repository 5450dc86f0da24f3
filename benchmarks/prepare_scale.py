"""Seconds and peak memory of ``prepare`` on a synthetic log.

    python benchmarks/prepare_scale.py --events=10000000 --items=60000 --format=csv

The log is made of seeded draws: popular items are drawn more often, one event in ten is an
impression that is left out, one in a thousand is a bad row. It is written to a folder that is
removed at the end; ``--folder`` names the place, which needs about 100 bytes an event.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_sid.memory import peak_memory_mb
from recbole_sid.preparing import prepare

BLOCK = 500_000
MAPPING = """
items:
  files: items.csv
  columns: {item_id: ad, title: title, category: category}
  category_separator: ">"
events:
  files: events.*
  columns: {user_id: user, item_id: ad, event: type, time: time}
  keep: [click]
  ignore: [impression]
"""


def write_log(folder: Path, n_events: int, n_users: int, n_items: int, form: str) -> int:
    """The item table, the event log and the mapping; returns the bytes of the log."""
    rng = np.random.default_rng(0)
    (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    numbers = np.arange(n_items)
    pd.DataFrame(
        {
            "ad": [f"ad{n}" for n in numbers],
            "title": [f"Synthetic advertisement {n}, kind {n % 97}" for n in numbers],
            "category": [f"industry {n % 7} > kind {n % 97}" for n in numbers],
        }
    ).to_csv(folder / "items.csv", index=False)
    path = folder / ("events.csv" if form == "csv" else "events.jsonl")
    for start in range(0, n_events, BLOCK):
        n = min(BLOCK, n_events - start)
        frame = pd.DataFrame(
            {
                "user": "u" + pd.Series(rng.integers(n_users, size=n)).astype(str),
                "ad": "ad" + pd.Series((n_items * rng.random(n) ** 3).astype(int)).astype(str),
                "type": np.where(rng.random(n) < 0.1, "impression", "click"),
                "time": np.where(
                    rng.random(n) < 0.001, -1, rng.integers(1_600_000_000, 1_700_000_000, size=n)
                ),
            }
        )
        if form == "csv":
            frame.to_csv(path, index=False, mode="a", header=start == 0)
        else:
            frame.to_json(path, orient="records", lines=True, mode="a")
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="prepare on a synthetic log")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--format", choices=["csv", "jsonl"], default="csv")
    parser.add_argument("--memory_limit", default="1GB")
    parser.add_argument("--folder")
    given = parser.parse_args()
    users = given.users or max(1, given.events // 20)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        # In a process of its own, so that its memory is not counted.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            size = pool.apply(write_log, (folder, given.events, users, given.items, given.format))
        start, used = time.perf_counter(), time.process_time()
        report = prepare(folder / "out", folder / "mapping.yaml", memory_limit=given.memory_limit)
        seconds, processor = time.perf_counter() - start, time.process_time() - used
    print(f"{given.events:,} events in {size / 1e6:.0f} MB of {given.format}: {seconds:.1f} s")
    print(f"processor {processor:.1f} s, peak memory of the process {peak_memory_mb() or 0:.0f} MB")
    print({key: report["result"][key] for key in ("users", "interactions")}, report["dropped"])


if __name__ == "__main__":
    main()
