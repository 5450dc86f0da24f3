"""500 real web ads with screenshots: how well SIDs of text, of images and of both tell the topics.

Usage: python benchmarks/webads.py --data_path=FOLDER [--image_vectors=FILE] [--image_ids=FILE]
       [--tokenizer=rqkmeans] [--seeds=5] [--cache_dir=FOLDER] [--tokenizer_…=value …]

FOLDER/webads/webads.item has the columns item_id, text (read off the screenshot), topic and image.
Image vectors come as ``item_embedding_file`` takes them; without them there is text alone. Both:
the two vectors of an ad, each scaled to length 1, side by side. All ads are tokenized and measured.

Prints, for each input and measure, the mean over the seeds and their standard deviation, then the
ten pairs of ads whose SIDs are closest under seed 0, to look at: those with the most levels in
common from the first one on, then with the most equal levels, then with the highest cosine. An ad
comes once, and copies (one text, or one image) are passed over.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from recbole_sid import registry
from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.items.encoder import EncoderSettings, encode
from recbole_sid.items.table import ItemTable
from recbole_sid.items.vectors import load_item_vectors
from recbole_sid.measures.v_measure import finest_categories, level_agreement
from recbole_sid.parsing import parse_command_line, read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build, keys
from recbole_sid.tokenizer.base import Items

PAIRS = 10
ALIKE = 0.9999  # cosine from which on two vectors are copies
SHOWN = 70  # characters of a text
OWN = ("data_path", "image_vectors", "image_ids", "tokenizer", "seeds", "cache_dir")
# Where the command line says nothing: 500 ads do not fill 256 codes a level.
CODES = {"tokenizer_levels": 3, "tokenizer_codebook_size": 32}


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scaled to length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1).astype(np.float32)


def closest_pairs(codes: np.ndarray, vectors: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Rows of ``count`` pairs of items with the closest codes (n, L), closest first."""
    first, second = np.triu_indices(len(codes), k=1)
    directions = unit(vectors)
    cosines = (directions @ directions.T)[first, second]
    differ = cosines < ALIKE
    first, second, cosines = first[differ], second[differ], cosines[differ]
    equal = codes[first] == codes[second]  # (pairs, L)
    prefix = np.cumprod(equal, axis=1).sum(axis=1)
    best = np.lexsort((-cosines, -equal.sum(axis=1), -prefix))
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for pair in zip(first[best].tolist(), second[best].tolist(), strict=True):
        if len(pairs) < count and taken.isdisjoint(pair):
            pairs.append(pair)
            taken.update(pair)
    return pairs


def inputs(table: ItemTable, values: dict) -> dict[str, np.ndarray]:
    """Vectors of the ads by the name of what they are made of: float32 (n, d)."""
    settings = build(EncoderSettings, read_yaml(resource_dir("properties") / "items.yaml") | values)
    cache = Path(values.get("cache_dir", "cache"))
    text = unit(encode(table.columns["text"], settings, cache, "cpu", progress=True))
    if "image_vectors" not in values:
        return {"text": text}
    image = unit(load_item_vectors(values["image_vectors"], values.get("image_ids"), table.tokens))
    return {"text": text, "image": image, "both": np.concatenate([text, image], axis=1)}


def main(arguments: list[str]) -> None:
    values, _ = parse_command_line(arguments)
    name = values.get("tokenizer", "rqkmeans")
    tokenizer = registry.tokenizer(name)
    known = [*OWN, *keys(EncoderSettings), *tokenizer.keys]
    for key in values:
        if key not in known:
            raise InputError(f"unknown setting '{key}'.{did_you_mean(key, known)}")
    if "data_path" not in values:
        raise InputError("no --data_path: name the folder that holds webads/webads.item")
    path = Path(values["data_path"]) / "webads" / "webads.item"
    table = ItemTable.read(path, "item_id", ["text", "topic", "image"])
    topics = finest_categories([(topic,) if topic else () for topic in table.columns["topic"]])
    settings = build(
        tokenizer.cls.Settings, {**tokenizer.defaults, **CODES, **values}, tokenizer.prefix
    )
    for source, vectors in inputs(table, values).items():
        items = Items(table.tokens, vectors)
        begin = time.perf_counter()
        codes = [
            tokenizer.cls(settings, seed=seed, device=torch.device("cpu"), progress=False)
            .fit(items)
            .codes
            for seed in range(int(values.get("seeds", 5)))
        ]
        seconds = time.perf_counter() - begin
        print(f"\n{source}: {name}, {len(codes)} seeds, {seconds:.1f} s")
        found = [level_agreement(of_seed, topics) for of_seed in codes]
        for key in found[0]:
            figures = np.array([of_seed[key] for of_seed in found])
            print(f"  {key:36} {figures.mean():8.4f}  ± {figures.std():.4f}")
        print(f"  the {PAIRS} closest pairs:")
        for pair in closest_pairs(codes[0], vectors, PAIRS):
            for row in pair:
                topic, image, text = (table.columns[c][row] for c in ("topic", "image", "text"))
                print(f"    {codes[0][row]} {image} [{topic}] {text[:SHOWN]}")
            print()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
