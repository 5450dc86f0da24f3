"""The figures of a SID report: every set of SIDs measured in every way."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recbole_sid.items.pairs import ItemPairs
from recbole_sid.measures import NothingToMeasure
from recbole_sid.measures.hit_rate import by_codes, by_vectors, hit_rate
from recbole_sid.measures.neighbourhood import neighbourhood
from recbole_sid.measures.v_measure import level_agreement
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.largest_groups import largest_groups

logger = logging.getLogger("recbole_sid")


@dataclass(frozen=True)
class AboutItems:
    """What is known of the items besides their SIDs, rows as in ``tokens``."""

    tokens: tuple[str, ...]
    titles: tuple[str, ...] | None
    categories: np.ndarray | None
    vectors: np.ndarray | None


def measured(
    about: AboutItems,
    tables: Mapping[str, SemanticIDs],
    pairs: ItemPairs,
    k: int,
    left_out: list[str],
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The figures of each set, in the order of ``tables``, and those of the item vectors.

    What cannot be measured is None, and ``left_out`` gets a line that says why.
    """
    vectors = about.vectors
    codes = [table.base_codes for table in tables.values()]
    near: list[Any] = [None] * len(codes)
    hits: list[Any] = [None] * len(codes)
    yardstick = None
    if vectors is None:
        left_out.append("Item vectors and neighbourhood preservation: report_vectors is false")
    else:
        near = neighbourhood(vectors, codes, k)
    try:
        hits = [hit_rate(by_codes(table), pairs, k) for table in codes]
        if vectors is not None:
            yardstick = {"hit_rate": hit_rate(by_vectors(vectors), pairs, k)}
    except NothingToMeasure as error:
        left_out.append(f"Hit rate: {error}")
    agreement = _agreement(about, codes, left_out)
    items = Items(about.tokens, None, titles=about.titles)
    entries = []
    for number, (label, table) in enumerate(tables.items()):
        logger.info("Largest groups of %s:", label)
        entries.append(
            {
                "sizes": list(table.sizes),
                "collision": table.collision,
                **_use_around_the_rule(table),
                "largest_groups": largest_groups(table.base_codes, items),
                "v_measure": agreement[number],
                "hit_rate": hits[number],
                "neighbourhood": near[number],
            }
        )
    return entries, yardstick


def _agreement(
    about: AboutItems, codes: Sequence[np.ndarray], left_out: list[str]
) -> list[dict[str, float] | None]:
    categories = about.categories
    if categories is not None:
        try:
            return [level_agreement(table, categories) for table in codes]
        except NothingToMeasure as error:
            left_out.append(f"Agreement with categories: {error}")
    return [None] * len(codes)


def _use_around_the_rule(sids: SemanticIDs) -> dict[str, Any]:
    """``codes``, those that all measurements look at; ``before`` and ``after`` the rule."""
    if sids.collision == "none":
        return {"codes": use(sids), "before": None, "after": None}
    if sids.collision == "dedup":
        base = replace(
            sids,
            codes=np.ascontiguousarray(sids.base_codes),
            sizes=sids.sizes[: sids.n_base_levels],
            collision="none",
        )
        after = use(replace(sids, collision="none"))
        return {"codes": use(base), "before": use(base), "after": after}
    report = sids.provenance.get("collision")
    rate = report.get("collision_rate_before") if isinstance(report, dict) else None
    before = None if rate is None else {"collision_rate": rate}
    return {"codes": use(sids), "before": before, "after": use(sids)}


def use(sids: SemanticIDs) -> dict[str, float]:
    """How the codes of a table without a dedup digit are used.

    What :func:`.quality` gives; ``unique_items``, those whose SID nobody else has;
    ``entropy_ceiling``, ln n; ``dead_codes_l``, the codes of level l that no item has.
    """
    alone = sids.groups.sizes(sids.n_levels) == 1
    dead = {
        f"dead_codes_{level + 1}": size - len(np.unique(sids.codes[:, level]))
        for level, size in enumerate(sids.sizes)
    }
    ceiling = {"unique_items": int(alone.sum()), "entropy_ceiling": float(np.log(sids.n_items))}
    return quality(sids) | ceiling | dead
