"""How well the codes of a SID agree with the categories of the items (UniSID, arXiv 2602.10445).

The paper trains the tokenizer on some ads and measures the V-measure of every level's code on
others, against the finest category. That an item without a category is left out, and that prefixes
are measured too, is of this package; the paper says nothing on either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure

from recbole_sid.errors import InputError
from recbole_sid.measures import NothingToMeasure
from recbole_sid.sid.groups import group

NO_CATEGORY = -1


def finest_categories(paths: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Number the categories that items are in, by their whole paths: int64 (n,).

    Two paths are two categories even if their last names are equal ("Men > Sets", "Women > Sets").
    Categories count from 0 in the order of their paths; an empty path is ``NO_CATEGORY``.
    """
    number = {path: i for i, path in enumerate(sorted(set(paths) - {()}))}
    return np.fromiter((number.get(path, NO_CATEGORY) for path in paths), np.int64, len(paths))


def level_agreement(codes: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """How well each level's code, and each prefix of two levels and more, tells the categories.

    With categories C and codes K, and entropies H:

    - ``homogeneity_l`` = 1 - H(C | K) / H(C): 1 when a code holds one category only.
    - ``completeness_l`` = 1 - H(K | C) / H(K): 1 when a category has one code only.
    - ``v_measure_l``: their harmonic mean.
    - ``adjusted_mutual_information_l``: the mutual information less what random codes of the same
      sizes have, over the mean of H(C) and H(K) less the same: 0 by chance, 1 at best. Homogeneity
      and V-measure rise with the number of codes even where these say nothing; this one does not.
    - ``…_prefix_d``: the same of the first d codes together.
    - ``items``, ``items_without_category`` (left out) and ``categories``: what was counted.

    Levels count from 1. The adjusted one costs time and memory in proportion to codes in use times
    categories: at 10,000 codes and 500 categories about a second.

    Args:
        codes: integers (n, L), without a dedup digit.
        categories: integers (n,), the finest category of each item; below 0: it has none.

    Raises:
        InputError: shapes that do not fit.
        NothingToMeasure: fewer than two categories among the items.
    """
    if codes.ndim != 2 or codes.shape[1] == 0 or categories.shape != codes.shape[:1]:
        raise InputError(
            f"codes of shape {codes.shape} and categories of shape {categories.shape} are given, "
            "but must be (items, levels) and (items,)"
        )
    known = categories >= 0
    codes, categories = codes[known], categories[known]
    n_categories = len(np.unique(categories))
    if n_categories < 2:
        raise NothingToMeasure(
            f"the {len(known)} items are in {n_categories} categories, but at least 2 are needed "
            "to measure codes against them. Set item_category_field to a column that tells items "
            "apart, or measure more items"
        )
    groups = group(codes)
    values: dict[str, float] = {
        "items": len(codes),
        "items_without_category": int((~known).sum()),
        "categories": n_categories,
    }
    n_levels = codes.shape[1]
    levels = {f"{level}": codes[:, level - 1] for level in range(1, n_levels + 1)}
    prefixes = {f"prefix_{length}": groups.of_item(length) for length in range(2, n_levels + 1)}
    for name, found in (levels | prefixes).items():
        homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(categories, found)
        adjusted = adjusted_mutual_info_score(categories, found)
        values[f"homogeneity_{name}"] = float(homogeneity)
        values[f"completeness_{name}"] = float(completeness)
        values[f"v_measure_{name}"] = float(v_measure)
        values[f"adjusted_mutual_information_{name}"] = float(adjusted)
    return values


def split_items(
    tokens: Sequence[str], held_out_share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split items into those that a tokenizer is trained on, and those that it is measured on.

    The same raw ids and seed give the same split, whatever the order of the rows.

    Args:
        tokens: raw item ids, unique, (n,).
        held_out_share: of the items, above 0 and below 1; each side gets one item at least. The
            paper holds 100,000 of 600,000 out.
        seed: 0 or more.

    Returns:
        Rows to train on, and rows held out, both int64 and rising.

    Raises:
        InputError: a share out of bounds, fewer than two items, or an id twice.
    """
    n = len(tokens)
    if not 0 < held_out_share < 1:
        raise InputError(
            f"the share of items held out is {held_out_share}, but must be above 0 and below 1"
        )
    if n < 2 or len(set(tokens)) < n:
        raise InputError(
            f"{n} item ids, {len(set(tokens))} of them distinct, are to be split, but there must "
            "be at least 2, each once"
        )
    by_token = np.fromiter(sorted(range(n), key=tokens.__getitem__), np.int64, n)
    shuffled = by_token[np.random.default_rng(seed).permutation(n)]
    n_held_out = min(max(round(n * held_out_share), 1), n - 1)
    return np.sort(shuffled[n_held_out:]), np.sort(shuffled[:n_held_out])
