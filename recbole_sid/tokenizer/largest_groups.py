"""The most crowded SIDs by name, for a person to judge whether their items are real conflicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.errors import preview
from recbole_sid.sid.groups import group
from recbole_sid.tokenizer.base import Items, logger

GROUPS = 10
ITEMS_OF_A_GROUP = 5
SHOWN = 100  # characters of a title


def largest_groups(codes: np.ndarray, items: Items) -> list[dict[str, Any]]:
    """The ten largest groups of items with the same codes, the larger first; also logged.

    Args:
        codes: integers (n_items, L), before any collision rule.
        items: rows as in ``codes``; shown by title, or by raw id where there is none.

    Returns:
        Dictionaries of ``sid`` (L numbers), ``size`` (at least 2) and ``items`` (up to five, a
        title cut after 100 characters).
    """
    groups = group(codes)
    starts, sizes = groups.starts[-1], groups.sizes(codes.shape[1])
    largest = np.argsort(-sizes, kind="stable")[:GROUPS]
    found = []
    for number in largest[sizes[largest] > 1]:
        rows = groups.order[starts[number] : starts[number + 1]]
        names = [_name(items, row) for row in rows[:ITEMS_OF_A_GROUP]]
        found.append({"sid": codes[rows[0]].tolist(), "size": len(rows), "items": names})
        sid = "-".join(map(str, found[-1]["sid"]))
        logger.info("%d items share the SID %s: %s", len(rows), sid, preview(names))
    return found


def _name(items: Items, row: int) -> str:
    title = items.titles[row] if items.titles is not None else ""
    return f"{title[:SHOWN]}…" if len(title) > SHOWN else title or items.tokens[row]
