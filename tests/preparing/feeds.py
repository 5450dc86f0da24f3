"""A small feed and log, and what prepare makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from recbole_sid.preparing import prepare

ITEMS = [
    {"ad": "a1", "title": "Tea cups", "path": "household > tableware", "price": "12.50"},
    {"ad": "a2", "title": "Trail shoes", "path": "sports > shoes", "price": ""},
    {"ad": "a3", "title": "Espresso machine", "path": "household > kitchen", "price": "99"},
]
# In the order of the log, which is not that of time.
EVENTS = [
    {"user": "u2", "ad": "a1", "type": "click", "time": "1700000050"},
    {"user": "u1", "ad": "a1", "type": "click", "time": "1700000000"},
    {"user": "u1", "ad": "a2", "type": "conversion", "time": "1700000100"},
    {"user": "u2", "ad": "a3", "type": "impression", "time": "1700000060"},
    {"user": "u2", "ad": "a2", "type": "click", "time": "1700000050"},
]
INTER = [
    "user_id:token\titem_id:token\ttimestamp:float",
    "u1\ta1\t1700000000",
    "u2\ta1\t1700000050",
    "u2\ta2\t1700000050",
    "u1\ta2\t1700000100",
]
ITEM = [
    "item_id:token\ttitle:token\tcategory:token\tprice:float",
    "a1\tTea cups\thousehold > tableware\t12.50",
    "a2\tTrail shoes\tsports > shoes\t",
]


def csv_text(rows: list[dict[str, str]], separator: str = ",") -> str:
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


def jsonl_text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_feed(folder: Path) -> dict[str, Any]:
    """items.csv and events.csv; returns the mapping that reads them."""
    (folder / "items.csv").write_text(csv_text(ITEMS))
    (folder / "events.csv").write_text(csv_text(EVENTS))
    return {
        "items": {
            "files": "items.csv",
            "columns": {"item_id": "ad", "title": "title", "category": "path", "price": "price"},
        },
        "events": {
            "files": "events.csv",
            "columns": {"user_id": "user", "item_id": "ad", "event": "type", "time": "time"},
            "keep": ["click", "conversion"],
            "ignore": ["impression"],
        },
        "minimum": {"user": 1, "item": 1},
    }


def make(folder: Path, mapping: dict[str, Any], name: str = "ads", **given: Any) -> dict[str, Any]:
    """Prepare ``mapping`` into ``folder/out/ads``; returns the report."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(mapping, sort_keys=False))
    return prepare(folder / "out", path, **given)


def lines_of(folder: Path, ending: str, name: str = "ads") -> list[str]:
    text = (folder / "out" / name / (name + ending)).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")
