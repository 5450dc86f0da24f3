"""How well the codes of a table are used: what tokenizers log while they learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sid.sid.groups import group
from recbole_sid.sid.quality import entropy
from recbole_sid.tokenizer.base import logger


def code_use(codes: np.ndarray, sizes: Sequence[int]) -> dict[str, Any]:
    """Use of the codes of a table before any collision rule.

    Args:
        codes: integers (n_items, L).
        sizes: codes available per level, (L,).

    Returns:
        ``collision_rate``, the share of items whose code tuple another item has too; and lists
        with a number per level: ``coverage``, the share of codes that some item has, and
        ``perplexity``, exp of the entropy of the codes: as many codes used equally often have the
        same entropy.
    """
    counts = [np.unique(level, return_counts=True)[1] for level in codes.T]
    return {
        "collision_rate": group(codes).collisions(codes.shape[1]).collision_rate,
        "coverage": [len(count) / size for count, size in zip(counts, sizes, strict=True)],
        "perplexity": [float(np.exp(entropy(count))) for count in counts],
    }


def describe(use: dict[str, Any]) -> str:
    """A line for the log: ``collisions 3.2 %, codes used 100/98/97 %, perplexity 241/250/249``."""
    coverage = "/".join(f"{100 * share:.0f}" for share in use["coverage"])
    perplexity = "/".join(f"{value:.0f}" for value in use["perplexity"])
    return (
        f"collisions {100 * use['collision_rate']:.1f} %, codes used {coverage} %, "
        f"perplexity {perplexity}"
    )


def warn_if_collapsed(
    use: dict[str, Any], sizes: Sequence[int], n_items: int, collapse_below: float, remedy: str
) -> None:
    """Warn of each level that :func:`collapsed` finds."""
    for told in collapsed(use, sizes, n_items, collapse_below):
        logger.warning("%s. Remedy: %s", told, remedy)


def collapsed(
    use: dict[str, Any], sizes: Sequence[int], n_items: int, collapse_below: float
) -> list[str]:
    """A sentence on each level with a perplexity below ``collapse_below`` of the best it could be.

    The best is min(size of the level, n_items): every code used equally often.
    """
    bounds = [collapse_below * min(size, n_items) for size in sizes]
    return [
        f"LEVEL {level} HAS COLLAPSED: its perplexity is {perplexity:.1f} of {size} codes, below "
        f"the bound {bound:.1f} (tokenizer_collapse_below = {collapse_below:g}). Many items share "
        "a code"
        for level, (perplexity, size, bound) in enumerate(
            zip(use["perplexity"], sizes, bounds, strict=True), start=1
        )
        if perplexity < bound
    ]
