"""How good a table of SIDs looks before any generator has been trained on it."""

from __future__ import annotations

import numpy as np

from recbole_sid.sid.table import SemanticIDs


def quality(sids: SemanticIDs) -> dict[str, float]:
    """Statistics of the base codes; levels count from 1.

    Base codes are those without the dedup digit: under "dedup" and "none", the tokenizer's. Under
    the rules that move items they are the codes after it; ``provenance["collision"]`` then holds
    the ``collision_rate_before``.

    - ``collision_rate``: share of items whose SID another item has too.
    - ``distinct_ratio``: distinct SIDs / items.
    - ``largest_group``: items that share the most crowded SID.
    - ``entropy``: -Σ p(s) ln p(s) over SIDs, in nats; at most ln n, when all differ
      (QuaSID, arXiv 2603.00632).
    - ``gini``: inequality of the number of items per SID in use; 0 when all hold equally many
      (FORGE, arXiv 2509.20904).
    - ``coverage_l``: share of the codes of level l that are in use.
    - ``perplexity_l``: exp of the entropy of the codes of level l; at most the size of the level.
    - ``prefix_distinct_l``: distinct prefixes of l levels.
    - ``prefix_collision_rate_l``: share of items whose prefix of l levels another item has too.

    Whole numbers are int, the rest float. A high entropy or a low collision rate does not by
    itself mean a better recommender.
    """
    full = sids.groups.collisions(sids.n_base_levels)
    sizes = sids.groups.sizes(sids.n_base_levels)
    values: dict[str, float] = {
        "collision_rate": full.collision_rate,
        "distinct_ratio": full.distinct / sids.n_items,
        "largest_group": full.largest,
        "entropy": entropy(sizes),
        "gini": gini(sizes),
    }
    for level in range(1, sids.n_base_levels + 1):
        # Counting only the codes in use: a level may have room for far more codes than items.
        counts = np.unique(sids.codes[:, level - 1], return_counts=True)[1]
        prefix = sids.groups.collisions(level)
        values[f"coverage_{level}"] = len(counts) / sids.sizes[level - 1]
        values[f"perplexity_{level}"] = float(np.exp(entropy(counts)))
        values[f"prefix_distinct_{level}"] = prefix.distinct
        values[f"prefix_collision_rate_{level}"] = prefix.collision_rate
    return values


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that positive ``counts`` (k,) describe."""
    shares = counts / counts.sum()
    # max: a single count gives -0.0
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of positive whole ``counts`` (k,), from 0 (equal) to (k - 1) / k.

    (k + 1) / k - 2 Σ_j (k + 1 - j) n_j / (k Σ n_j) with n_1 <= … <= n_k, in whole numbers up to
    the last division.
    """
    ordered = np.sort(counts).astype(np.int64)
    k, total = len(ordered), int(ordered.sum())
    weighted = int((np.arange(k, 0, -1) * ordered).sum())
    return ((k + 1) * total - 2 * weighted) / (k * total)
