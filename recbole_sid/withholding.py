"""Items that no model is trained on: what can recommend an item that nobody has had yet?

Only content tells such an item from another, so a model that knows items by their numbers alone
cannot find it but by chance. Which items these are depends on their raw ids alone: it is the same
for every model, seed and subset of the catalogue's order.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sid.errors import InputError

logger = logging.getLogger("recbole_sid")

# Leave-one-out needs so many: one to know the user by, one to train, to validate and to test on.
LEAST_LEFT = 4
LEAVE_ONE_OUT = {"LS": "valid_and_test"}


def withheld(tokens: Sequence[str], share: float) -> np.ndarray:
    """Which items are withheld: the share of them whose ids have the smallest hash, bool (n,).

    Args:
        tokens: raw item ids (n,).
        share: 0 to below 1; of a share above 0 at least one item.
    """
    chosen = np.zeros(len(tokens), bool)
    if share > 0 and len(tokens):
        digests = [hashlib.sha256(f"withheld {token}".encode()).hexdigest() for token in tokens]
        chosen[np.argsort(digests)[: max(1, round(share * len(tokens)))]] = True
    return chosen


def withhold(dataset: Any, share: float, times: tuple[float, float] | None) -> None:
    """Drop the interactions with withheld items, but for those that are tested or validated on.

    Under leave-one-out these are each user's last two; users who are left with fewer than four
    interactions are dropped. Under ``split_times`` they are those from the first time on. So a
    withheld item is in no history either, but for the test's, where it was validated on.

    Args:
        dataset: RecBole's, of any class, not built yet; changed in place.
        share: of the catalogue, above 0.
        times: of ``split_times``.

    Raises:
        InputError: another split; nothing is left.
    """
    config = dataset.config
    if config["benchmark_filename"] is not None:
        raise InputError(
            "setting 'withheld_items' needs interactions that are not split yet, but "
            "'benchmark_filename' names files that are: leave one of them out"
        )
    if times is None and (config["eval_args"] or {}).get("split") != LEAVE_ONE_OUT:
        raise InputError(
            "setting 'withheld_items' needs eval_args with split: {LS: valid_and_test}, or "
            f"split_times, but the split is {config['eval_args'].get('split')}"
        )
    frame = dataset.inter_feat
    users, items = (frame[field].to_numpy() for field in (dataset.uid_field, dataset.iid_field))
    seconds = frame[dataset.time_field].to_numpy()
    if seconds.dtype.kind == "f":
        seconds = seconds.astype(np.float32)  # as RecBole sorts and splits them
    tokens = dataset.field2id_token[dataset.iid_field]
    chosen = np.insert(withheld(tokens[1:].tolist(), share), 0, False)
    if times is None:
        kept = ~chosen[items] | _last_two(users, seconds)
        counts = np.bincount(users[kept], minlength=dataset.user_num)
        kept &= counts[users] >= LEAST_LEFT
    else:
        kept = ~chosen[items] | (seconds >= np.asarray(times[0], seconds.dtype))
    if not kept.any():
        raise InputError(
            f"setting 'withheld_items' is {share}, which leaves no user {LEAST_LEFT} interactions: "
            "lower it"
        )
    logger.info(
        "%s of %s items are withheld from training, with %s of %s interactions; %s users have too "
        "few left and are dropped",
        f"{chosen.sum():,}",
        f"{len(chosen) - 1:,}",
        f"{(~kept).sum():,}",
        f"{len(kept):,}",
        f"{len(np.unique(users)) - len(np.unique(users[kept])):,}",
    )
    dataset.inter_feat = frame[kept].reset_index(drop=True)


def _last_two(users: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Each user's last two interactions in time; at one time, the later rows, as RecBole sorts."""
    order = np.lexsort((seconds, users))
    owners = users[order]
    from_the_end = np.zeros(len(users), np.int64)
    ends = np.flatnonzero(np.diff(owners, append=-1))  # the last place of each user
    which = np.searchsorted(ends, np.arange(len(owners)))
    from_the_end[order] = ends[which] - np.arange(len(owners))
    return from_the_end < 2
