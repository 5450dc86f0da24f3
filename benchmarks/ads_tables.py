"""SIDs, vectors and recommendations on synthetic ads, in the form of UniSID's tables.

Usage: python benchmarks/ads_tables.py --world=FOLDER [--queries=2000] [--negatives=999]
       LABEL=FOLDER …

``--world`` is what ``make-ads`` wrote; each LABEL=FOLDER a folder of ``run`` or ``tokenize`` on the
data set ``synthetic-ads``. Prints, as markdown:

- V-measure of each level's code against the true kind of good, over all ads, before the collision
  rule;
- retrieval of near-duplicates: an ad is to find one other ad of the same product among
  ``--negatives`` ads of other products (0: among all of them). By SID, near is a long common
  prefix, then many equal codes; by vectors, a high cosine: those of the tokenizer, and those that
  the run stands on. Ads that are equally near come in random order. Queries and negatives are the
  same for all;
- next-ad prediction of the test split, where the folder holds a run. Above all of them is the
  oracle of the world, which is measured on other clicks: those of the last tenth of the days.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid import run_folder
from recbole_sid.ads.documents import TRUTH, WORLD
from recbole_sid.ads.texts import SEPARATOR
from recbole_sid.errors import InputError
from recbole_sid.items.vectors import load_item_vectors
from recbole_sid.measures.v_measure import finest_categories, level_agreement
from recbole_sid.parsing import parse_command_line
from recbole_sid.sid.table import SemanticIDs

TOP = (1, 5, 10, 20)
SEED = 0  # of queries and negatives
BLOCK = 1 << 24  # numbers at once
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def near_duplicates(
    products: np.ndarray, n_queries: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ads with another ad of their product, and one such: int64 (q,) each, by rising query.

    Raises:
        InputError: no product has two ads.
    """
    order = np.lexsort((rng.random(len(products)), products))
    in_order = products[order]
    # The next ad of the product in random order, and the first one after the last.
    first = np.searchsorted(in_order, in_order, side="left")
    last = np.searchsorted(in_order, in_order, side="right")
    place = np.arange(len(order))
    after = np.where(place + 1 < last, place + 1, first)
    able = np.flatnonzero(last - first > 1)
    if not len(able):
        raise InputError("no product of these ads has two of them: there is nothing to retrieve")
    chosen = able[rng.permutation(len(able))[:n_queries]]
    chosen = chosen[np.argsort(order[chosen])]
    return order[chosen], order[after[chosen]]


def by_codes(codes: np.ndarray) -> Score:
    """Nearness by the common prefix, then by equal codes; ``codes`` (n, L)."""

    def score(queries: np.ndarray, others: np.ndarray) -> np.ndarray:
        equal = codes[queries][:, None, :] == codes[others]  # (b, m, L)
        prefix = np.logical_and.accumulate(equal, axis=2).sum(axis=2)
        return prefix * (codes.shape[1] + 1) + equal.sum(axis=2)

    return score


def by_vectors(vectors: np.ndarray) -> Score:
    """Cosines, in float32; ``vectors`` (n, d)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths > 0, lengths, 1)

    def score(queries: np.ndarray, others: np.ndarray) -> np.ndarray:
        return (directions[others] @ directions[queries][:, :, None])[:, :, 0]  # (b, m)

    return score


def recall(
    score: Score,
    products: np.ndarray,
    queries: np.ndarray,
    positives: np.ndarray,
    n_negatives: int,
    width: int,
) -> dict[int, float]:
    """The chance that the positive is among the first k, the mean over queries, by k.

    Args:
        n_negatives: ads of other products, none twice; 0 for all of them.
        width: numbers an ad takes, for the size of blocks.
    """
    rng = np.random.default_rng(SEED)
    n_ads = len(products)
    found = {k: 0.0 for k in TOP}
    step = max(1, BLOCK // ((n_negatives or n_ads) * width))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        if n_negatives:
            others = _drawn(products, queries[block], n_negatives, rng)
            other = np.ones(others.shape, bool)
        else:
            others = np.broadcast_to(np.arange(n_ads), (len(queries[block]), n_ads))
            other = products[others] != products[queries[block], None]
        near = score(queries[block], others)
        own = score(queries[block], positives[block, None])
        above = ((near > own) & other).sum(axis=1)
        ties = ((near == own) & other).sum(axis=1)
        for k in TOP:
            found[k] += np.clip((k - above) / (ties + 1), 0, 1).sum()
    return {k: total / len(queries) for k, total in found.items()}


def _drawn(
    products: np.ndarray, queries: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """``count`` different ads of other products than that of each query: (b, count)."""
    rows = []
    for query in queries.tolist():
        others = np.flatnonzero(products != products[query])
        if len(others) < count:
            raise InputError(
                f"--negatives is {count}, but only {len(others)} ads are of other products: lower "
                "it, or 0 for all"
            )
        rows.append(others[rng.choice(len(others), count, replace=False)])
    return np.stack(rows)


def markdown(heading: str, names: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> None:
    """Print a table of figures."""
    print(f"\n{heading}\n\n| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for label, values in rows:
        cells = ["-" if value is None else f"{value:.4f}" for value in values]
        print(f"| {label} | {' | '.join(cells)} |")


def main(arguments: list[str]) -> None:
    given = [a for a in arguments if not a.startswith("--") and "=" in a]
    values, _ = parse_command_line([a for a in arguments if a not in given])
    unknown = {*values} - {"world", "queries", "negatives"}
    if unknown or "world" not in values or not given:
        raise InputError("usage: ads_tables.py --world=FOLDER [--queries=N] LABEL=FOLDER …")
    folders = {label: Path(folder) for label, folder in (a.split("=", 1) for a in given)}
    truth = pd.read_csv(Path(values["world"]) / TRUTH, dtype=str).set_index("ad_id")
    n_queries, n_negatives = int(values.get("queries", 2000)), int(values.get("negatives", 999))
    sets = {label: SemanticIDs.load(folder / run_folder.SIDS) for label, folder in folders.items()}
    in_all = set.intersection(*(set(sids.tokens) for sids in sets.values()))
    tokens = tuple(token for token in truth.index if token in in_all)
    truth = truth.loc[list(tokens)]
    categories = finest_categories([tuple(p.split(SEPARATOR)) for p in truth["category"]])
    products = np.unique(truth["product"], return_inverse=True)[1]
    print(f"SYNTHETIC ads, {len(tokens):,} of {values['world']}")

    codes = {k: s.aligned(tokens, unknown="ignore").base_codes for k, s in sets.items()}
    agreement = {label: level_agreement(found, categories) for label, found in codes.items()}
    levels = range(1, max(found.shape[1] for found in codes.values()) + 1)
    markdown(
        "V-measure against the kind of good",
        [f"L{level}" for level in levels],
        ((k, [found.get(f"v_measure_{n}") for n in levels]) for k, found in agreement.items()),
    )

    queries, positives = near_duplicates(products, n_queries, np.random.default_rng(SEED))
    among = f"{n_negatives} negatives" if n_negatives else "all ads"
    markdown(
        f"Near-duplicate retrieval, {len(queries):,} queries, {among}",
        [f"R@{k}" for k in TOP],
        (
            (name, list(recall(score, products, queries, positives, n_negatives, width).values()))
            for name, score, width in _scores(folders, codes, tokens)
        ),
    )

    oracle = json.loads((Path(values["world"]) / WORLD).read_text(encoding="utf-8"))["oracle"]
    results = {
        label: json.loads((folder / run_folder.RESULT).read_text(encoding="utf-8"))
        for label, folder in folders.items()
    }
    tests = {label: found.get("test_result", {}) for label, found in results.items()}
    keys = [f"{name}@{k}" for name in ("hit", "ndcg") for k in TOP]
    rows = [("oracle of the world", [oracle.get(key.replace("hit", "hr")) for key in keys])]
    rows += [(label, [found.get(key) for key in keys]) for label, found in tests.items() if found]
    markdown("Next-ad prediction", [key.replace("hit", "HR").upper() for key in keys], rows)


def _scores(
    folders: dict[str, Path], codes: dict[str, np.ndarray], tokens: tuple[str, ...]
) -> Iterator[tuple[str, Score, int]]:
    """Each way to retrieve by its name, and how many numbers an ad takes."""
    for label, folder in folders.items():
        yield f"{label}, SID", by_codes(codes[label]), codes[label].shape[1]
        for what, file in (
            ("embeddings", run_folder.EMBEDDINGS),
            ("item vectors", run_folder.VECTORS),
        ):
            if (folder / file).is_file():
                vectors = load_item_vectors(folder / file, None, tokens)
                yield f"{label}, {what}", by_vectors(vectors), vectors.shape[1]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
