"""Seconds and memory of the pair builder, on a file of interactions or on synthetic ones.

Usage: python benchmarks/pairs_scale.py [--items=1000000] [--interactions=20000000] [--file=x.inter]
       [--seed=0] [--pair_source=swing] [--pair_max_users=500] [--key=value …]

Synthetic: baskets are lognormal (median 10, sigma 1), and an item's chance falls with its rank r as
1 / (r + 10)^0.8. With ``--file`` (RecBole's .inter format), the last two interactions of every user
are left out, as leave-one-out does. Prints one line of JSON; memory is the peak of the process.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pandas as pd
import yaml

from recbole_sid import settings
from recbole_sid.items.pairs import Interactions, PairSettings, item_pairs
from recbole_sid.memory import peak_memory_mb
from recbole_sid.parsing import parse_command_line
from recbole_sid.resources import resource_dir


def synthetic(n_items: int, n_interactions: int, seed: int) -> Interactions:
    """Independent draws: popular items and long baskets, but nothing that belongs together."""
    rng = np.random.default_rng(seed)
    mean_basket = 10 * np.exp(0.5)
    lengths = np.ceil(rng.lognormal(np.log(10), 1, round(n_interactions / mean_basket)))
    users = np.repeat(np.arange(len(lengths)), lengths.astype(np.int64))[:n_interactions]
    chances = np.cumsum((np.arange(n_items) + 10.0) ** -0.8)
    items = np.searchsorted(chances, rng.random(len(users)) * chances[-1], side="right")
    return Interactions(users, rng.permutation(n_items)[items])


def training_split(path: str) -> tuple[Interactions, int]:
    """All but the last two interactions of every user, rows of one time in their order."""
    table = pd.read_csv(path, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    table = table.sort_values("timestamp:float", kind="stable")
    users, items = (pd.factorize(table[f"{name}:token"])[0] for name in ("user_id", "item_id"))
    from_last = table.groupby(users).cumcount(ascending=False).to_numpy()
    training = from_last >= 2
    return Interactions(users[training], items[training]), int(items.max()) + 1


def main(arguments: list[str]) -> None:
    values, _ = parse_command_line(arguments)
    seed, file = int(values.pop("seed", 0)), values.pop("file", None)
    n_items, n = int(values.pop("items", 1_000_000)), int(values.pop("interactions", 20_000_000))
    if file is None:
        interactions = synthetic(n_items, n, seed)
    else:
        interactions, n_items = training_split(file)
    text = (resource_dir("properties") / "pairs.yaml").read_text(encoding="utf-8")
    asked = settings.build(PairSettings, yaml.safe_load(text) | values)
    before = peak_memory_mb()
    start, cpu_start = time.perf_counter(), time.process_time()
    pairs = item_pairs(asked, interactions, n_items, None, seed=seed, progress=True)
    result = {
        "items": n_items,
        "interactions": len(interactions.items),
        "users": len(np.unique(interactions.users)),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu_start, 1),
        "peak_mb": peak_memory_mb(),
        "peak_mb_before": before,
        "result_mb": sum(a.nbytes for a in (pairs.offsets, pairs.items, pairs.scores)) / 2**20,
        "items_with_neighbours": float(np.mean(pairs.counts > 0)),
        "mean_neighbours": float(pairs.counts.mean()),
        "fingerprint": pairs.fingerprint(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
