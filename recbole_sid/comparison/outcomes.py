"""What a run recommended to every user of the test split, and what came next.

A run writes it beside its metrics, which follow from it. The file is safetensors; users and items
are raw ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from recbole_sid import seals
from recbole_sid.errors import InputError

FORMAT = "recbole-sid-outcomes"
METRICS = ("recall", "ndcg", "mrr", "hit")


@dataclass(frozen=True)
class Outcomes:
    """One row a target of the split; n rows, lists of K = max(topk) items.

    Under ``split_times`` a user has several rows.

    ``users``: raw ids, (n,).
    ``items``: raw ids of the catalogue by number, from 1; number 0 is an empty place.
    ``targets``: int32 (n,), the number of the item that came next.
    ``ranks``: int32 (n,), the place of the target in the list from 1; 0, it is not in it.
    ``ties``: int32 (n,), c where the target shares its SID with c - 1 other items: it stands with
    equal chance at each of the c places from ``ranks`` on, some of them beyond the list.
    ``lists``: int32 (n, K), the numbers of the recommended items.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    targets: np.ndarray
    ranks: np.ndarray
    ties: np.ndarray
    lists: np.ndarray

    def per_user(self, metric: str, k: int) -> np.ndarray:
        """``recall``, ``ndcg``, ``mrr`` or ``hit`` at ``k`` of every row, float64 (n,).

        With one target a row, recall and hit are 1 if it stands among the first k, ndcg is
        1 / log2(rank + 1) and mrr 1 / rank; over tied places, their mean.
        """
        if metric not in METRICS or not 1 <= k <= self.lists.shape[1]:
            raise InputError(
                f"'{metric}@{k}' cannot be told from lists of {self.lists.shape[1]} items: "
                f"choose {', '.join(METRICS)} and a k up to that length"
            )
        gains = np.zeros(k + 2)
        places = np.arange(1, k + 1)
        gains[1 : k + 1] = {"ndcg": 1 / np.log2(places + 1), "mrr": 1 / places}.get(metric, 1.0)
        below = np.concatenate([[0.0], np.cumsum(gains)])  # below[r] = gains of places before r
        first = np.minimum(self.ranks, k + 1)
        behind = np.minimum(first + self.ties, k + 1)
        values = np.where(self.ties == 1, gains[first], (below[behind] - below[first]) / self.ties)
        return np.where(self.ranks > 0, values, 0.0)

    def mean(self, metric: str, k: int) -> float:
        """The metric of the whole split, as RecBole averages it."""
        return float(self.per_user(metric, k).mean())


def save_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write whole or not at all.

    Raises:
        CannotWrite: the file system refuses it.
    """
    arrays = {
        "users": _packed(outcomes.users),
        "items": _packed(outcomes.items),
        "targets": outcomes.targets,
        "ranks": outcomes.ranks,
        "ties": outcomes.ties,
        "lists": outcomes.lists,
    }
    seals.save_tensors(path, arrays, {"format": FORMAT})


def load_outcomes(path: Path) -> Outcomes:
    """What :func:`save_outcomes` wrote.

    Raises:
        InputError: no such file, a damaged one, or not one of ours.
    """
    seals.check(path, "run it again, with --overwrite")
    try:
        with safe_open(path, framework="np") as file:
            found = (file.metadata() or {}).get("format")
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' cannot be read: {error}. Run it again") from error
    if found != FORMAT:
        raise InputError(f"'{path}' does not hold the outcomes of a run of recbole_sid")
    users, items = (tuple(json.loads(arrays.pop(name).tobytes())) for name in ("users", "items"))
    return Outcomes(users, items, **arrays)


def _packed(ids: Sequence[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(list(ids), ensure_ascii=False).encode(), np.uint8).copy()
