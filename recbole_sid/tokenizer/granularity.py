"""Which items belong together at every level: broad categories first, near-identical items last.

UniSID (arXiv 2602.10445) takes the items of a high-level category as positives at level 1, those of
a narrower category at level 2, and only the closest items at the last level. How they are found
outside its advertisements is open in the paper; this is our way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from recbole_sid.errors import InputError
from recbole_sid.items.neighbours import text_neighbours
from recbole_sid.settings import require
from recbole_sid.tokenizer.base import LevelSettings
from recbole_sid.tokenizer.kmeans import kmeans

# How thoroughly k-means looks for clusters that stand in for categories.
RESTARTS = 1
ITERATIONS = 100
MINIBATCH_ABOVE = 100_000


@dataclass(frozen=True)
class GranularitySettings(LevelSettings):
    """Settings of :func:`granularity`, which says what they mean."""

    granularity_source: Literal["category", "clusters", "none"]
    granularity_drop_above: float
    granularity_min_categories: int
    granularity_clusters: list[int]
    granularity_near_neighbours: int
    granularity_near_cosine: float

    def __post_init__(self) -> None:
        super().__post_init__()
        drop, clusters = self.granularity_drop_above, self.granularity_clusters
        neighbours, cosine = self.granularity_near_neighbours, self.granularity_near_cosine
        require(0 < drop <= 1, "tokenizer_granularity_drop_above", drop, "above 0, at most 1")
        least = self.granularity_min_categories
        require(least >= 1, "tokenizer_granularity_min_categories", least, "at least 1")
        require(
            len(clusters) == 2 and 2 <= clusters[0] <= clusters[1],
            "tokenizer_granularity_clusters",
            clusters,
            "two numbers, at least 2 and not falling: of the broadest and of the narrowest level",
        )
        require(neighbours >= 1, "tokenizer_granularity_near_neighbours", neighbours, "at least 1")
        require(0 < cosine <= 1, "tokenizer_granularity_near_cosine", cosine, "above 0, at most 1")


class Granularity(NamedTuple):
    """Result of :func:`granularity`.

    Attributes:
        labels: int64 (n, L). Two items are positives of one another at a level if they have the
            same label of 0 or more there; -1 is an item without a positive.
        description: a line per level, for the log.
    """

    labels: np.ndarray
    description: list[str]


class _Level(NamedTuple):
    """Groups of one level as first found: integers (n,), -1 for none, and how they came about."""

    groups: np.ndarray
    origin: str


def granularity(
    categories: Sequence[tuple[str, ...]] | None,
    vectors: np.ndarray,
    settings: GranularitySettings,
    *,
    seed: int,
    progress: bool,
) -> Granularity:
    """Who is a positive of whom, at each of ``settings.levels`` levels.

    The last level holds near-identical items: mutual nearest neighbours (each among the
    ``granularity_near_neighbours`` nearest of the other; 1 is the strict reading) with a cosine of
    at least ``granularity_near_cosine``. Copies of one vector are the nearest to each other,
    however many they are. With more than one neighbour, positives of a positive are positives too.

    The levels before it are categories, from the broadest to the narrowest.
    ``granularity_source`` says where these come from:

    - ``category``: prefixes of the category paths. Names on the paths of more than a share
      ``granularity_drop_above`` of the items that have a path say nothing and are dropped first.
      Level 1 takes the first name that remains (or, where that makes fewer than
      ``granularity_min_categories``, as many names as make so many), the last level of categories
      the whole path, and the levels between them the depths at which the number of categories comes
      nearest to growing by one factor from level to level. A path that ends before that depth
      stands for itself. Items without a path have no positive there.
    - ``clusters``: k-means of the directions of the vectors, for data without categories. The two
      numbers ``granularity_clusters`` are those of clusters at level 1 and at the last level of
      categories, with equal factors between. Clusters are nested: those of a level are found among
      the centroids of the next.
    - ``none``: nobody is a positive of anybody, at the last level neither: plain InfoNCE, the
      control, whose positives are second views and pairs alone.

    Args:
        categories: the path of every item, root first, (n,); empty where there is none. None if the
            data has no categories.
        vectors: float (n, d), finite: frozen vectors of the items' texts. A vector of zeros is near
            to nothing.
        settings: number of levels, and all of the above.
        seed: of k-means; ``category`` draws nothing.
        progress: whether to show a bar.

    Raises:
        InputError: the source is ``category`` and there are no paths, or nothing is left of them;
            another number of paths than of vectors; vectors that are not finite or not a matrix.
    """
    if categories is not None and len(categories) != len(vectors):
        raise InputError(
            f"category paths stand for {len(categories)} items, but vectors for {len(vectors)}"
        )
    if settings.granularity_source == "none":
        line = "all levels: no positives but second views and pairs (plain InfoNCE)"
        return Granularity(np.full((len(vectors), settings.levels), -1, np.int64), [line])
    n_categories = settings.levels - 1
    near = _near_identical(vectors, settings, progress)
    levels: list[_Level] = []
    if n_categories and settings.granularity_source == "category":
        levels = _by_category(categories, n_categories, settings)
    elif n_categories:
        levels = _by_clusters(vectors, n_categories, settings.granularity_clusters, seed)
    levels.append(near)
    labels = np.stack([_without_singles(level.groups) for level in levels], axis=1)  # (n, L)
    lines = [
        _describe(number, level.origin, labels[:, number - 1])
        for number, level in enumerate(levels, start=1)
    ]
    return Granularity(labels, lines)


def _by_category(
    categories: Sequence[tuple[str, ...]] | None, levels: int, settings: GranularitySettings
) -> list[_Level]:
    if categories is None:
        raise InputError(
            "setting 'tokenizer_granularity_source' is 'category', but the items have no category "
            "paths. Name their column (item_category_field), or set tokenizer_granularity_source "
            "to clusters"
        )
    drop_above = settings.granularity_drop_above
    paths, dropped = _without_common_names(categories, drop_above)
    depth = max(map(len, paths), default=0)
    if depth == 0:
        raise InputError(
            f"no category path is left of {len(categories)} items without the names that more than "
            f"{100 * drop_above:g} % share ({', '.join(dropped) or 'none'}). Raise "
            "tokenizer_granularity_drop_above, or set tokenizer_granularity_source to clusters"
        )
    by_depth = [_numbered(path[:end] for path in paths) for end in range(1, depth + 1)]
    counts = np.array([groups.max() + 1 for groups in by_depth])  # (depth,)
    enough = np.flatnonzero(counts >= settings.granularity_min_categories)
    broadest = counts[enough[0] if len(enough) else -1]
    found = []
    for wanted in np.geomspace(broadest, counts[-1], levels):
        place = int(np.abs(np.log(counts) - np.log(wanted)).argmin())
        origin = f"category path to depth {place + 1} of {depth}"
        if dropped:
            origin += f" (without {', '.join(dropped)})"
        found.append(_Level(by_depth[place], origin))
    return found


def _without_common_names(
    categories: Sequence[tuple[str, ...]], drop_above: float
) -> tuple[list[tuple[str, ...]], list[str]]:
    """The paths without the names on most of them, and these names."""
    n_paths = sum(map(bool, categories))
    counts = Counter(chain.from_iterable(map(set, categories)))
    dropped = sorted(name for name, count in counts.items() if count > drop_above * n_paths)
    return [tuple(name for name in path if name not in dropped) for path in categories], dropped


def _by_clusters(vectors: np.ndarray, levels: int, sizes: list[int], seed: int) -> list[_Level]:
    """From the narrowest level up: a broader one clusters the centroids of the one before."""
    rng = np.random.RandomState(seed)
    points = _directions(vectors)  # (n, d), then the centroids
    groups = np.arange(len(points))
    found = []
    for size in np.geomspace(sizes[0], sizes[1], levels).round().astype(int)[::-1]:
        clusters = kmeans(
            points,
            int(size),
            restarts=RESTARTS,
            iterations=ITERATIONS,
            minibatch_above=MINIBATCH_ABOVE,
            rng=rng,
        )
        groups = clusters.codes[groups]
        points = clusters.centroids
        found.append(_Level(groups, "k-means of the vectors, in place of category paths"))
    return found[::-1]


def _directions(vectors: np.ndarray) -> np.ndarray:
    """The vectors at length 1, float32; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _near_identical(vectors: np.ndarray, settings: GranularitySettings, progress: bool) -> _Level:
    """Groups of items that mutual near neighbours join.

    Copies of a vector are put together first: a table of nearest neighbours keeps a few of them
    only, and each copy takes one of the places among the nearest.
    """
    neighbours, min_cosine = settings.granularity_near_neighbours, settings.granularity_near_cosine
    distinct, group, copies = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    pairs = text_neighbours(distinct, neighbours, min_cosine, progress=progress)
    rows = np.repeat(np.arange(len(distinct)), pairs.counts)  # (m,), one entry a neighbour
    nearer = np.cumsum(copies[pairs.items]) - copies[pairs.items]  # running over all rows
    nearer -= nearer[pairs.offsets[rows]]
    kept = copies[rows] - 1 + nearer < neighbours
    shape = (len(distinct), len(distinct))
    near = sparse.csr_matrix(
        (np.ones(kept.sum(), bool), (rows[kept], pairs.items[kept])), shape=shape
    )
    _, joined = connected_components(near.multiply(near.T), directed=False)
    groups = np.where(vectors.any(axis=1), joined[group.reshape(-1)], -1)
    few = "neighbours" if neighbours == 1 else f"{neighbours} neighbours"
    return _Level(groups, f"mutual nearest {few} with a cosine of {min_cosine:g} or more")


def _numbered(names: Iterable[Hashable]) -> np.ndarray:
    """A number for each distinct name, counted from 0; -1 for empty ones: int64."""
    numbers: dict[Hashable, int] = {}
    return np.fromiter(
        (numbers.setdefault(name, len(numbers)) if name else -1 for name in names), np.int64
    )


def _without_singles(groups: np.ndarray) -> np.ndarray:
    """Groups of at least two items numbered from 0, all other items -1: int64 (n,)."""
    numbers, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    kept = (numbers >= 0) & (counts > 1)
    return np.where(kept, np.cumsum(kept) - 1, -1)[places.reshape(-1)]


def _describe(number: int, origin: str, labels: np.ndarray) -> str:
    counts = np.bincount(labels[labels >= 0])
    largest = f", the largest of {counts.max()}" if len(counts) else ""
    return (
        f"level {number}: {origin}: {len(counts)} groups{largest}; {counts.sum()} of {len(labels)} "
        "items have a positive"
    )
