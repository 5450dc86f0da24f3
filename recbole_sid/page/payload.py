"""The data that the page's script browses: items and codes, as compact as JSON allows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_sid.page.catalogue import Catalogue
from recbole_sid.page.sources import spelled
from recbole_sid.page.thumbnails import Thumbnails
from recbole_sid.sid.table import SemanticIDs

# What could end a script element, or a line of a script.
_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class ItemSet:
    """The items of a data set, the sets of SIDs that they have, by label, and their images."""

    dataset: str
    catalogue: Catalogue
    sids: Mapping[str, SemanticIDs]
    thumbnails: Thumbnails


def payload(item_sets: Sequence[ItemSet]) -> dict[str, Any]:
    """Plain data for the script.

    ``items``: for each data set its ``name``, raw ids (``tokens``), ``titles`` or null, names of
    ``categories`` and of each item the number of its own (``category``), or null; ``images``,
    JPEG in base64, and of each item the number of its own or -1 (``image``), or null. ``sids``: for
    each set its ``label``, the number of its data set (``items``), ``base`` (levels without a dedup
    digit), ``levels``, ``rows`` (of each row the number of its item; null: all items in their
    order), and ``codes``, row by row.
    """
    items, tables = [], []
    for number, one in enumerate(item_sets):
        tokens = list(dict.fromkeys(token for sids in one.sids.values() for token in sids.tokens))
        items.append({"name": one.dataset, **_items(tokens, one.catalogue), **_images(tokens, one)})
        place = {token: row for row, token in enumerate(tokens)}
        for label, sids in one.sids.items():
            if len(sids.tokens) == len(tokens):
                sids = sids.aligned(tokens)
                rows = None
            else:
                rows = [place[token] for token in sids.tokens]
            tables.append(
                {
                    "label": label,
                    "items": number,
                    "base": sids.n_base_levels,
                    "levels": sids.n_levels,
                    "rows": rows,
                    "codes": sids.codes.ravel().tolist(),
                }
            )
    return {"items": items, "sids": tables}


def as_json(values: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element, whatever texts it holds."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_UNSAFE)


def _images(tokens: Sequence[str], items: ItemSet) -> dict[str, Any]:
    found = items.thumbnails
    if not found.images:
        return {"images": None, "image": None}
    return {"images": found.images, "image": [found.image_of.get(token, -1) for token in tokens]}


def _items(tokens: Sequence[str], catalogue: Catalogue) -> dict[str, Any]:
    shown = [spelled(token) for token in tokens]
    if catalogue.missing is not None:
        return {"tokens": shown, "titles": None, "categories": None, "category": None}
    paths = [catalogue.categories.get(token, "") for token in tokens]
    names = list(dict.fromkeys(paths))
    number = {name: n for n, name in enumerate(names)}
    return {
        "tokens": shown,
        "titles": [catalogue.titles.get(token, "") for token in tokens],
        "categories": names,
        "category": [number[path] for path in paths],
    }
