"""A million items: tokenizing, collisions, trie, decoding, evaluation; and a trie of ten million.

Usage: python benchmarks/scale_million.py FOLDER [--items=1000000] [--small=12101] [--users=256]
       [--rounds=7] [--parts=tokenize,collisions,trie,decode,evaluate]

The vectors are a seeded mixture of normal clusters whose sizes fall with their rank r as
1 / (r + 10)^0.8, in 384 dimensions, float32; the small catalogue is a random sample of the large
one, tokenized by itself. FOLDER keeps both tables, so that parts can be run one by one.

``tokenize`` fits ``rqkmeans`` with its defaults. ``collisions`` applies the rules, ``trie`` builds
the trie of both tables, and of --items * 10 distinct random SIDs. ``decode`` ranks ten items for
random histories with TIGER and IntRR, random weights, both catalogues in turn, median of the
rounds. ``evaluate`` makes a data set of one user a hundred items and evaluates the untrained IntRR
on the validation split of it. Times are process CPU time (one thread: OMP_NUM_THREADS=1); memory is
the peak of a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from assign_rate import memory_mb, reset_peak_mb
from recbole.utils import init_seed

from recbole_sid import compat, registry, settings
from recbole_sid.generator.base import Generator
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.memory import keep_freed_memory
from recbole_sid.quick_start import checked_config, trainer_class
from recbole_sid.reading import read_data
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid.trie import Trie
from recbole_sid.tokenizer.base import Items, Tokenizer

DIMENSIONS = 384
# So that the small catalogue shares SIDs about as often as Beauty's 12,101 items do (19 %).
NOISE = 0.75
HISTORY = 20
PARTS = ("tokenize", "collisions", "trie", "decode", "evaluate")


def world(n_items: int, seed: int) -> np.ndarray:
    """Vectors (n_items, 384) of length 1 around skewed clusters."""
    rng = np.random.default_rng(seed)
    n_clusters = max(2, n_items // 50)
    centres = rng.standard_normal((n_clusters, DIMENSIONS), dtype=np.float32)
    chances = np.cumsum((np.arange(n_clusters) + 10.0) ** -0.8)
    cluster = np.searchsorted(chances, rng.random(n_items) * chances[-1], side="right")
    vectors = rng.standard_normal((n_items, DIMENSIONS), dtype=np.float32)
    vectors *= NOISE
    vectors += centres[cluster]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def catalogues(given: argparse.Namespace) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Vectors and raw tokens of the large and the small catalogue."""
    vectors = world(given.items, seed=0)
    tokens = np.array([f"i{number}" for number in range(given.items)])
    some = np.sort(np.random.default_rng(1).choice(given.items, given.small, replace=False))
    return {
        "small": (vectors[some], tuple(tokens[some])),
        "large": (vectors, tuple(tokens)),
    }


def tokenizer() -> Tokenizer:
    spec = registry.tokenizer("rqkmeans")
    values = settings.build(spec.cls.Settings, spec.defaults, spec.cls.prefix)
    return spec.cls(values, seed=0, device=torch.device("cpu"), progress=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def table_file(given: argparse.Namespace, size: str) -> Path:
    return Path(given.folder) / f"{size}.safetensors"


def tokenize(given: argparse.Namespace) -> dict:
    found: dict[str, Any] = {}
    for size, (vectors, tokens) in catalogues(given).items():
        before = reset_peak_mb()
        seconds, codes = timed(lambda v=vectors, t=tokens: tokenizer().fit(Items(t, v)))
        sids = SemanticIDs(tokens, codes.codes, codes.sizes, "none", {})
        sids.save(table_file(given, size))
        assert codes.space is not None
        codes.space.save(Path(given.folder) / f"{size}-space.safetensors")
        shared = sids.groups.collisions(sids.n_levels).collision_rate
        found[size] = {
            "seconds": round(seconds, 1),
            "held_mb": round(before),
            "peak_mb": round(memory_mb("VmHWM")),
            "collision_rate": round(shared, 4),
        }
    return found


def collisions(given: argparse.Namespace) -> dict:
    found = {}
    for size in ("small", "large"):
        sids = SemanticIDs.load(table_file(given, size))
        space = CodeSpace.load(Path(given.folder) / f"{size}-space.safetensors")
        for rule in ("dedup", "nearest_free"):
            fresh = replace(sids)  # nothing sorted yet
            seconds, after = timed(lambda f=fresh, r=rule, s=space: apply_collision(f, r, s))
            found[f"{size} {rule}"] = {"seconds": round(seconds, 2), "sizes": after.sizes}
    return found


def trie(given: argparse.Namespace) -> dict:
    found = {}
    tables = {
        size: apply_collision(SemanticIDs.load(table_file(given, size)), "dedup")
        for size in ("small", "large")
    }
    rng = np.random.default_rng(2)
    number = np.unique(rng.integers(0, 2**32, 10 * given.items, dtype=np.int64))
    codes = np.stack([number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255], axis=1)
    tokens = tuple(map(str, range(len(codes))))
    tables["ten times"] = SemanticIDs(tokens, codes.astype(np.int32), (256,) * 4, "none", {})
    for size, sids in tables.items():
        # A table is sorted when it is made: from codes to trie.
        seconds, tree = timed(lambda s=sids: Trie.from_sids(replace(s)))
        found[size] = {
            "items": sids.n_items,
            "seconds": round(seconds, 2),
            "bytes_an_item": round(tree.nbytes / sids.n_items, 1),
            "max_children": tree.max_children,
        }
    return found


def generator(model: str, sids: SemanticIDs) -> Generator:
    """The untrained generator of ``model`` with its defaults over ``sids``."""
    spec = registry.model(model)
    assert spec is not None
    assert spec.generator is not None
    component = registry.generator(spec.generator)
    values = settings.build(component.cls.Settings, component.defaults, component.prefix)
    torch.manual_seed(0)
    users = torch.zeros(2, dtype=torch.int64)
    return component.cls(values, Catalogue(sids), HISTORY, users).eval()


def decode(given: argparse.Namespace) -> dict:
    found = {}
    sids = {
        size: apply_collision(SemanticIDs.load(table_file(given, size)), "dedup")
        for size in ("small", "large")
    }
    users, lengths = torch.ones(given.users, dtype=torch.int64), torch.full((given.users,), HISTORY)
    for model in ("TIGER", "IntRR"):
        networks = {size: generator(model, table) for size, table in sids.items()}
        seconds: dict[str, list[float]] = {size: [] for size in sids}
        for _ in range(given.rounds + 1):
            for size, network in networks.items():
                history = torch.randint(1, sids[size].n_items + 1, (given.users, HISTORY))
                with torch.inference_mode():
                    taken, _ = timed(lambda n=network, h=history: n.rank(users, h, lengths, 10, 20))
                seconds[size].append(taken)
        ratios = [
            large / small for small, large in zip(seconds["small"], seconds["large"], strict=True)
        ][1:]
        found[model] = {
            f"{size}_ms_a_user": round(1000 * statistics.median(rounds[1:]) / given.users, 2)
            for size, rounds in seconds.items()
        } | {"ratio": round(statistics.median(ratios), 2), "rounds": [min(ratios), max(ratios)]}
    return found


def evaluate(given: argparse.Namespace) -> dict:
    return {size: in_own_process(evaluate_one, given, size) for size in ("small", "large")}


def evaluate_one(given: argparse.Namespace, size: str) -> dict:
    """The same users and as many targets, whatever the catalogue's size."""
    sids = SemanticIDs.load(table_file(given, size))
    folder = Path(given.folder) / size
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    n_users, each = 10_000, 10
    items = rng.integers(0, sids.n_items, n_users * each)
    frame = pd.DataFrame(
        {
            "user_id:token": np.repeat(np.arange(n_users), each),
            "item_id:token": np.array(sids.tokens)[items],
            "timestamp:float": np.tile(np.arange(each), n_users),
        }
    )
    frame.to_csv(folder / f"{size}.inter", sep="\t", index=False)
    pd.DataFrame({"item_id:token": sids.tokens}).to_csv(
        folder / f"{size}.item", sep="\t", index=False
    )
    values = {
        "dataset": size,
        "data_path": given.folder,
        "tokenizer": "file",
        "sid_file": str(table_file(given, size)),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
        "ITEM_ID_FIELD": "item_id",
        "eval_batch_size": 256,
        "show_progress": False,
    }
    config = checked_config("IntRR", config_dict=values)
    init_seed(config["seed"], config["reproducibility"])
    _, (train, valid, _) = read_data(config)
    network = compat.get_model("IntRR")(config, train.dataset).to(config["device"])
    trainer = trainer_class(config)(config, network)
    trainer.evaluate(valid, load_best_model=False)  # libraries are loaded, tables are kept
    held = reset_peak_mb()
    seconds, _ = timed(lambda: trainer.evaluate(valid, load_best_model=False))
    peak = memory_mb("VmHWM")
    return {
        "items": sids.n_items,
        "users": n_users,
        "seconds": round(seconds, 1),
        "held_mb": round(held),
        "peak_mb": round(peak),
        "peak_over_held": round(peak / held, 2),
    }


def _answer(work: Callable[..., dict], arguments: tuple, results: Any) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    results.put(work(*arguments))


def in_own_process(work: Callable[..., dict], *arguments: Any) -> dict:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_answer, args=(work, arguments, results))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{work.__name__} ended with an error")
    return results.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=12_101)
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    Path(given.folder).mkdir(parents=True, exist_ok=True)
    for part in given.parts.split(","):
        if part not in PARTS:
            raise SystemExit(f"unknown part {part!r}: one of {', '.join(PARTS)}")
        found = evaluate(given) if part == "evaluate" else in_own_process(globals()[part], given)
        print(json.dumps({part: found}), flush=True)


if __name__ == "__main__":
    main()
