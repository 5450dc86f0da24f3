"""From all events to the interactions that stay: known items, repeats, least numbers."""

from __future__ import annotations

import logging
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.limits import LONGEST_SHOWN
from recbole_sid.preparing.mapping import EventSource, Minimum
from recbole_sid.preparing.store import SHOWN, Store

logger = logging.getLogger("recbole_sid")


# Ids beyond ASCII whose text is there twice: composed (NFC) and decomposed, or as a look-alike
# that Unicode calls the same, such as the Kelvin sign.
_TWINS = """
    SELECT min(name), max(name), form FROM (SELECT DISTINCT name, nfc_normalize(name) AS form
                                            FROM ({names}) WHERE strlen(name) > length(name))
    GROUP BY form HAVING count(*) > 1 OR strlen(form) = length(form) ORDER BY form"""
_NAMES = {
    "item": "SELECT item AS name FROM items UNION ALL SELECT item FROM events",
    "user": "SELECT user AS name FROM events",
}


def refuse_twins(store: Store) -> None:
    """InputError if two ids of the tables ``items`` and ``events`` are one text in two forms."""
    for what, names in _NAMES.items():
        twins = store.run(_TWINS.format(names=names)).fetchmany(SHOWN)
        if twins:
            first, second, form = twins[0]
            second = form if second == first else second
            raise InputError(
                f"{what} ids are written in more than one Unicode form, and look the same: "
                f"{ascii(first)[:LONGEST_SHOWN]} and {ascii(second)[:LONGEST_SHOWN]}"
                f"{' and others' if len(twins) > 1 else ''}. Write all ids in one form (NFC)"
            )


def filter_events(store: Store, source: EventSource, minimum: Minimum) -> dict[str, Any]:
    """From events to ``kept`` (u, i, us, place, positive) and ``users``, ``tokens`` (number, name).

    In this order: events of unknown items, repeats of a user and an item, least numbers. What stays
    of repeats is positive if any of them is.

    Raises:
        InputError: no event is left.
    """
    n_events = store.one("SELECT count(*) FROM events")
    dropped: dict[str, Any] = {"unknown_items": 0}
    if source.only_known_items:
        store.run(
            "CREATE TABLE known AS SELECT * FROM events SEMI JOIN items ON events.item = items.item"
        )
        store.run("DROP TABLE events")
        store.run("ALTER TABLE known RENAME TO events")
        dropped["unknown_items"] = n_events - store.one("SELECT count(*) FROM events")
        if dropped["unknown_items"] == n_events:
            item = store.one("SELECT item FROM items ORDER BY place LIMIT 1")
            raise InputError(
                f"none of the {n_events:,} events is of an item in the table, whose first id is "
                f"{item!r}: check the columns item_id, or set events.only_known_items to false"
            )
    _number(store)
    before = _count(store)
    if source.repeated != "all":
        pick = "min" if source.repeated == "first" else "max"
        _replace(
            store,
            f"SELECT u, i, pick.us AS us, pick.place AS place, positive FROM (SELECT u, i, "
            f"{pick}({{'us': us, 'place': place}}) AS pick, bool_or(positive) AS positive "
            "FROM kept GROUP BY u, i)",
        )
    dropped["repeated"] = before - _count(store)
    before = _count(store)
    dropped["rounds"] = _apply_minimum(store, minimum)
    dropped["minimum"] = before - _count(store)
    if not _count(store):
        raise InputError(
            f"no interaction is left of {before:,}, since no user has minimum.user = "
            f"{minimum.user} of them with items that have minimum.item = {minimum.item}"
            f"{' in the end (minimum.core)' if minimum.core else ''}. Lower these bounds"
        )
    return dropped


def _number(store: Store) -> None:
    """Numbers in place of ids: the rounds below group and join by them."""
    for table, column in (("users", "user"), ("tokens", "item")):
        store.run(
            f"CREATE TABLE {table} AS SELECT row_number() OVER () AS number, name FROM "
            f"(SELECT DISTINCT {column} AS name FROM events)"
        )
    store.run(
        "CREATE TABLE kept AS SELECT users.number::INTEGER AS u, tokens.number::INTEGER AS i, "
        "us, place, positive FROM events JOIN users ON users.name = events.user "
        "JOIN tokens ON tokens.name = events.item"
    )
    store.run("DROP TABLE events")


def _apply_minimum(store: Store, minimum: Minimum) -> int:
    """Drop users and items of too few interactions; how many rounds dropped something.

    A k-core does not depend on the order in which users and items are dropped: it is the largest
    set in which both bounds hold.
    """
    rounds = 0
    while True:
        before = _count(store)
        _replace(
            store,
            f"""SELECT * FROM kept
            SEMI JOIN (SELECT u FROM kept GROUP BY u HAVING count(*) >= {minimum.user}) USING (u)
            SEMI JOIN (SELECT i FROM kept GROUP BY i HAVING count(*) >= {minimum.item}) USING (i)
            """,
        )
        left = _count(store)
        rounds += left < before
        if not minimum.core or left == before or not left:
            return rounds
        logger.info("Minimum counts, round %d: %s interactions left", rounds, f"{left:,}")


def _replace(store: Store, query: str) -> None:
    store.run(f"CREATE TABLE narrowed AS {query}")
    store.run("DROP TABLE kept")
    store.run("ALTER TABLE narrowed RENAME TO kept")


def _count(store: Store) -> int:
    return int(store.one("SELECT count(*) FROM kept"))
