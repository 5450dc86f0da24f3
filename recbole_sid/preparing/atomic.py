"""The files that come out: NAME.inter, NAME.item, NAME.yaml, and what was left out."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from recbole_sid.files import written_whole
from recbole_sid.preparing.mapping import DataMapping, ItemColumns
from recbole_sid.preparing.store import Store
from recbole_sid.preparing.values import CATEGORY_SEPARATOR

LABEL = "label"  # the column of labels, as RecBole calls it
_LABELS = {"title": "", "text": ""}  # parts of a prompt that need no name before them


def write_inter(store: Store, path: Path, labelled: bool) -> None:
    """The interactions, by time and then by their place in the log.

    Times are whole seconds where they are; RecBole keeps 32-bit floats of them, so that nearby
    events come in the order of the file.

    Args:
        labelled: write a column of labels too, 1 for what is positive and 0 for all else.
    """
    seconds = "CASE WHEN us % 1000000 = 0 THEN (us // 1000000)::VARCHAR ELSE rtrim(printf("
    seconds += "'%d.%06d', us // 1000000, us % 1000000), '0') END"
    label = ", positive::INTEGER" if labelled else ""
    rows = store.rows(
        f"SELECT concat_ws(chr(9), users.name, tokens.name, {seconds}{label}) FROM kept "
        "JOIN users ON users.number = u JOIN tokens ON tokens.number = i ORDER BY us, place"
    )
    header = "user_id:token\titem_id:token\ttimestamp:float"
    header += f"\t{LABEL}:float" if labelled else ""
    _write(path, header, (row[0] for row in rows))


def write_items(store: Store, path: Path, columns: ItemColumns, keep_all: bool) -> dict[str, int]:
    """The items of the interactions in the order of the feed, then those that it does not have.

    Args:
        columns: those behind the id are written.
        keep_all: write the items without interactions too.
    """
    store.run("CREATE TABLE used AS SELECT name FROM tokens WHERE number IN (SELECT i FROM kept)")
    written = columns.written
    cells = [f"c{number}" for number in range(len(written))]
    wanted = "" if keep_all else "WHERE item IN (SELECT name FROM used)"
    store.run(f"CREATE VIEW shown AS SELECT * FROM items {wanted}")
    n_without_row = store.one(
        "SELECT count(*) FROM used WHERE name NOT IN (SELECT item FROM items)"
    )
    empty = "\t" * len(written)
    header = ["item_id:token"]
    # Texts are tokens too: RecBole's sequences of tokens are split at spaces.
    types = ["float" if columns.type_of(name) == "float" else "token" for name in written]
    header += [f"{name}:{kind}" for name, kind in zip(written, types, strict=True)]

    def lines() -> Iterable[str]:
        yield from (
            row[0]
            for row in store.rows(
                f"SELECT concat_ws(chr(9), item, {', '.join(cells)}) FROM shown ORDER BY place"
            )
        )
        yield from (
            row[0] + empty
            for row in store.rows(
                "SELECT name FROM used WHERE name NOT IN (SELECT item FROM items) ORDER BY name"
            )
        )

    _write(path, "\t".join(header), lines())
    filled = {
        name: store.one(f"SELECT count(*) FROM shown WHERE {cell} <> ''")
        for name, cell in zip(written, cells, strict=True)
    }
    n_shown = store.one("SELECT count(*) FROM shown")
    with_cell = {f"with_{name}": count for name, count in filled.items()}
    return {"items": n_shown + n_without_row, "without_row": n_without_row, **with_cell}


def write_rejected(store: Store, path: Path) -> None:
    """Every row that was left out: part, file, line, reason and the beginning of its text."""
    rows = store.rows(
        "SELECT concat_ws(chr(9), part, file, line, reason, "
        "regexp_replace(text, '[\\x00-\\x1f\\x7f]', ' ', 'g')) FROM rejected "
        "ORDER BY part DESC, file, line, reason, text"
    )
    _write(path, "part\tfile\tline\treason\ttext", (row[0] for row in rows))


def describe(store: Store, labelled: bool) -> dict[str, Any]:
    """Users, items, interactions, how many are positive if ``labelled``, first and last time."""
    users, items, count, positive, first, last = store.run(
        "SELECT count(DISTINCT u), count(DISTINCT i), count(*), count(*) FILTER (positive), "
        "min(us), max(us) FROM kept"
    ).fetchall()[0]
    return {
        "users": users,
        "items_with_interactions": items,
        "interactions": count,
        **({"positive": positive} if labelled else {}),
        "interactions_a_user": round(count / users, 4),
        "first_time": _utc(first),
        "last_time": _utc(last),
    }


def _utc(microseconds: int) -> str:
    start = datetime.datetime(1970, 1, 1)
    return (start + datetime.timedelta(microseconds=microseconds)).isoformat() + "Z"


def dataset_config(mapping: DataMapping, name: str) -> str:
    """The text of the yaml file that ``--config_files`` reads."""
    columns = mapping.item_columns
    others = [name for name in columns.others or {} if columns.type_of(name) == "text"]
    plain: list[str] = ["title", "text", "industry", "advertiser"]
    written = columns.written
    texts = [role for role in plain if role in written] + others
    # At least one column has to be a text.
    texts = texts or [name for name in written if name in ("category", "brand")][:1]
    texts = texts or [name for name in written if columns.type_of(name) == "token"][:1]
    labelled = bool(mapping.events.positive)
    interactions = ["user_id", "item_id", "timestamp", *([LABEL] if labelled else [])]
    lines = [
        f"# {name}, written by prepare. Change what you like: no run changes this file.",
        "USER_ID_FIELD: user_id",
        "ITEM_ID_FIELD: item_id",
        "TIME_FIELD: timestamp",
        *([f"LABEL_FIELD: {LABEL}"] if labelled else []),
        "load_col:                         # RecBole reads ids alone, the SIDs the texts too",
        f"  inter: [{', '.join(interactions)}]",
        "  item: [item_id]",
        "item_text_fields: " + yaml.safe_dump(texts, default_flow_style=True, width=1000).strip(),
    ]
    if "category" in written:
        lines += [
            "item_category_field: category",
            "item_category_format: separator",
            f'item_category_separator: "{CATEGORY_SEPARATOR}"',
        ]
    for role in ("industry", "brand", "price", "image"):
        if role in written:
            lines.append(f"item_{role}_field: {role}")
    lines.append(f'prompt_template: "{_template(texts, written)}"')
    return "\n".join(lines) + "\n"


def _template(texts: list[str], written: list[str]) -> str:
    """Texts first, then named attributes; what an item does not have is left out."""
    parts = []
    for role in dict.fromkeys([*texts, "brand", "category", "price"]):
        if role in written:
            label = _LABELS.get(role, f"{role.capitalize().replace('_', ' ')}: ")
            parts.append(f"[{label}{{{role}}}. ]")
    return "".join(parts)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _write(path: Path, header: str, lines: Iterable[str]) -> None:
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.write(header + "\n")
        file.writelines(line + "\n" for line in lines)
