"""How fast a tokenizer gives new ads their codes, and in how much memory.

Usage: python benchmarks/assign_rate.py [--tokenizer=unisid] [--items=60000] [--fitted=2000]
       [--backbone=minilm]

The ads are those of ``make-ads``. The tokenizer is fitted on a few of them, for one epoch: the rate
does not depend on how well. Then processes of their own assign codes to a quarter, to half and to
all of the others. Memory counts from the moment before ``assign``, when model libraries, ads and
item vectors are there; the result grows with the ads (mostly its code space) and is subtracted.
Texts are made into vectors, or for ``unisid`` into token ids, outside of the clock as well, and
that has a column of its own; what ``unisid`` spends on token ids inside of ``assign`` is
subtracted.

Linux only: the peak of memory is reset through /proc.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_sid import registry
from recbole_sid.ads.catalogue import make_catalogue
from recbole_sid.ads.texts import SEPARATOR, feed_rows
from recbole_sid.items.encoder import EncoderSettings, encode
from recbole_sid.items.pairs import ItemPairs
from recbole_sid.items.source import ItemSource, settings_of
from recbole_sid.items.table import ItemTable
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build
from recbole_sid.tokenizer.backbone import Backbone
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer
from recbole_sid.tokenizer.stored_weights import StoredWeights, save_tokenizer_weights

CPU = torch.device("cpu")
DAYS = 60  # of the world; what ads say does not depend on it


def ads(n_items: int, seed: int) -> ItemSource:
    """Synthetic ads, such as ``make-ads`` makes."""
    rng = np.random.default_rng(seed)
    frame = feed_rows(make_catalogue(n_items, DAYS, rng), np.arange(n_items), rng)
    values: dict[str, Any] = {}
    for name in ("items", "schema"):
        values |= read_yaml(resource_dir("properties") / f"{name}.yaml")
    values |= {"item_text_fields": ["headline", "body"], "item_category_field": "category"}
    values |= {"item_category_format": "separator", "item_category_separator": SEPARATOR}
    fields, schema, _, summary = settings_of(values)
    columns = {name: tuple(frame[name]) for name in ("headline", "body", "category")}
    tokens = tuple(f"{seed}-{token}" for token in frame["ad_id"])
    return ItemSource(ItemTable(tokens, columns), None, fields, schema, summary)


def vectors(source: ItemSource) -> np.ndarray:
    settings = build(EncoderSettings, read_yaml(resource_dir("properties") / "items.yaml"))
    columns = source.table.columns
    texts = [". ".join(both) for both in zip(columns["headline"], columns["body"], strict=True)]
    with tempfile.TemporaryDirectory() as cache:
        return encode(texts, settings, Path(cache), CPU, progress=True)


def tokenizer_of(given: argparse.Namespace) -> Tokenizer:
    spec = registry.tokenizer(given.tokenizer)
    values = read_yaml(resource_dir("properties") / "tokenizer" / f"{given.tokenizer}.yaml")
    changes = {
        "epochs": 1,
        "log_every": 1,
        "reconstruction_weight": 0.0,
        "backbone": given.backbone,
    }
    for name, value in changes.items():
        if spec.cls.prefix + name in values:
            values[spec.cls.prefix + name] = value
    settings = build(spec.cls.Settings, values, spec.cls.prefix)
    return spec.cls(settings, seed=0, device=CPU, progress=True)


def fit(given: argparse.Namespace) -> BaseCodes:
    source = ads(given.fitted, seed=0)
    items = Items(source.table.tokens, vectors(source), source=source)
    pairs = ItemPairs(  # everybody's neighbour is the next one
        np.arange(given.fitted + 1, dtype=np.int64),
        np.roll(np.arange(given.fitted, dtype=np.int32), -1),
        np.ones(given.fitted, np.float32),
    )
    return tokenizer_of(given).fit(replace(items, pairs=pairs))


def measure(given: argparse.Namespace, n_items: int, weights: str, results: Any) -> None:
    tokenizer = tokenizer_of(given)
    source = ads(n_items, seed=1)
    tokens = source.table.tokens
    if tokenizer.assigns_by == "source":
        words = Backbone(tokenizer.settings).tokenizer
        begin = time.perf_counter()
        source.inputs(words)
        text = inside = time.perf_counter() - begin
        items = Items(tokens, None, source=source)
    else:
        begin = time.perf_counter()
        items = Items(tokens, vectors(source))
        text, inside = time.perf_counter() - begin, 0.0
    stored = StoredWeights(Path(weights))
    # Libraries that are imported when they are first used do not count.
    tokenizer.assign(items.take([0]), stored)
    before = reset_peak_mb()
    begin = time.perf_counter()
    found = tokenizer.assign(items, stored)
    seconds = time.perf_counter() - begin - inside
    grown = memory_mb("VmHWM") - before
    results.put((n_items, seconds, text, before, grown, result_mb(found)))


def result_mb(found: BaseCodes) -> float:
    arrays = [found.codes, *([] if found.embeddings is None else [found.embeddings])]
    if found.space is not None:
        arrays.append(found.space.latents)
    return sum(array.nbytes for array in arrays) / 2**20


def reset_peak_mb() -> float:
    """What the process holds; the peak starts from there."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def memory_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="unisid")
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--fitted", type=int, default=2000)
    parser.add_argument("--backbone", default="minilm")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        fitted = fit(given)
        assert fitted.weights is not None
        save_tokenizer_weights(weights, fitted.weights)
        print(f"{given.tokenizer}, {torch.get_num_threads()} threads", flush=True)
        print("  items  items/s  seconds  text s  held MB  + result MB  + work MB", flush=True)
        for n_items in (given.items // 4, given.items // 2, given.items):
            results = context.SimpleQueue()
            process = context.Process(target=measure, args=(given, n_items, str(weights), results))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"the measurement of {n_items} items ended with an error")
            count, seconds, text, before, grown, result = results.get()
            print(
                f"{count:7,} {count / seconds:8,.0f} {seconds:8.1f} {text:7.1f} {before:8,.0f} "
                f"{result:12,.0f} {grown - result:10,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
