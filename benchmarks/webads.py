"""500 real web ads with screenshots: how well SIDs of text, of images and of both tell the topics.

Usage: python benchmarks/webads.py --data_path=FOLDER [--image_vectors=FILE] [--image_ids=FILE]
       [--tokenizer=rqkmeans] [--seeds=5] [--cache_dir=FOLDER] [--tokenizer_…=value …]

FOLDER/webads/webads.item has the columns item_id, text (read off the screenshot), topic and image.
Image vectors come as ``item_embedding_file`` takes them, or with ``--image_vectors=plain`` from the
screenshots themselves (colours and edges); without them there is text alone. Both: the two vectors
of an ad, each scaled to length 1, side by side. All ads are tokenized and measured.

A tokenizer that reads the ads itself (unisid) is given the text, the image vectors (standardised)
or both in its schema, and never the topics: its levels learn from clusters of the vectors and from
ads with near vectors (``pair_source: text``). No summary is written: there is nothing to write it
from.

Prints, for each input and measure, the mean over the seeds and their standard deviation, then the
ten pairs of ads whose SIDs are closest under seed 0, to look at: those with the most levels in
common from the first one on, then with the most equal levels, then with the highest cosine. An ad
comes once, and copies (one text, or one image) are passed over.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recbole_sid import registry
from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.items.encoder import EncoderSettings, encode
from recbole_sid.items.images import ImageSettings, ItemImages, item_images
from recbole_sid.items.pairs import Interactions, PairSettings, item_pairs
from recbole_sid.items.schema import IMAGES, INSTRUCTION, SchemaSettings
from recbole_sid.items.source import ItemSource
from recbole_sid.items.summaries import SummarySettings
from recbole_sid.items.table import ItemFields, ItemTable
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
# The same for a tokenizer that reads the ads itself.
READING = {
    "tokenizer_granularity_source": "clusters",
    "tokenizer_granularity_clusters": [16, 64],
    "tokenizer_reconstruction_weight": 0.0,
    "tokenizer_epochs": 10,
    "tokenizer_batch_size": 64,
    "pair_source": "text",
}
NOBODY = Interactions(*(np.empty(0, np.int64) for _ in Interactions._fields))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scaled to length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1).astype(np.float32)


def standard(images: ItemImages) -> ItemImages:
    """Each number of the vectors with mean 0 and deviation 1 over the images that are there.

    Vectors of length 1 that are much alike would be too weak beside the states of the backbone.
    """
    there = images.vectors[images.mask]
    deviation = there.std(axis=0)
    vectors = (images.vectors - there.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return images._replace(vectors=vectors * images.mask[..., None])


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


def ad_images(table: ItemTable, values: dict, cache: Path, folder: Path) -> ItemImages | None:
    """The image vectors of the ads, (n, 1, d); None if none are asked for."""
    if "image_vectors" not in values:
        return None
    given = {"item_image_file": values["image_vectors"], "item_image_ids": values.get("image_ids")}
    if values["image_vectors"] == "plain":
        given = {"item_image_model": "plain", "item_image_field": "image"}
    settings = build(ImageSettings, defaults("schema") | given)
    return item_images(table, settings, folder, cache, "cpu", progress=True)


def inputs(table: ItemTable, values: dict, folder: Path, reads: bool) -> dict[str, Items]:
    """The ads by the name of what is given of them: text, image, both.

    Args:
        folder: of the data set.
        reads: whether the tokenizer reads the ads itself.
    """
    cache = Path(values.get("cache_dir", "cache"))
    encoder = build(EncoderSettings, defaults("items") | values)
    vectors = {"text": unit(encode(table.columns["text"], encoder, cache, "cpu", progress=True))}
    parts = {"text": ["text"], "image": [IMAGES], "both": [IMAGES, "text"]}
    images = ad_images(table, values, cache, folder)
    if images is not None:
        vectors["image"] = unit(images.vectors[:, 0])
        vectors["both"] = np.concatenate([vectors["text"], vectors["image"]], axis=1)
    pairs = build(PairSettings, defaults("pairs") | READING | values)
    found = {}
    for name, rows in vectors.items():
        items = Items(table.tokens, rows, titles=table.columns["text"])
        if reads:
            schema = defaults("schema") | {"schema_fields": [INSTRUCTION, *parts[name]]}
            source = ItemSource(
                table,
                standard(images) if images is not None and IMAGES in parts[name] else None,
                build(ItemFields, defaults("items") | {"item_text_fields": ["text"]}),
                build(SchemaSettings, schema),
                build(SummarySettings, schema),
            )
            near = item_pairs(pairs, NOBODY, len(table.tokens), rows, seed=0, progress=False)
            items = replace(items, source=source, pairs=near)
        found[name] = items
    return found


def defaults(name: str) -> dict:
    return read_yaml(resource_dir("properties") / f"{name}.yaml")


def main(arguments: list[str]) -> None:
    values, _ = parse_command_line(arguments)
    name = values.get("tokenizer", "rqkmeans")
    tokenizer = registry.tokenizer(name)
    reads = tokenizer.cls.needs_source
    known = [*OWN, *keys(EncoderSettings), *tokenizer.keys, *(keys(PairSettings) if reads else ())]
    for key in values:
        if key not in known:
            raise InputError(f"unknown setting '{key}'.{did_you_mean(key, known)}")
    if "data_path" not in values:
        raise InputError("no --data_path: name the folder that holds webads/webads.item")
    path = Path(values["data_path"]) / "webads" / "webads.item"
    table = ItemTable.read(path, "item_id", ["text", "topic", "image"])
    topics = finest_categories([(topic,) if topic else () for topic in table.columns["topic"]])
    ours = CODES | (READING if reads else {})
    settings = build(
        tokenizer.cls.Settings, {**tokenizer.defaults, **ours, **values}, tokenizer.prefix
    )
    for source, items in inputs(table, values, path.parent, reads).items():
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
        for pair in closest_pairs(codes[0], items.vectors, PAIRS):
            for row in pair:
                topic, image, text = (table.columns[c][row] for c in ("topic", "image", "text"))
                print(f"    {codes[0][row]} {image} [{topic}] {text[:SHOWN]}")
            print()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
