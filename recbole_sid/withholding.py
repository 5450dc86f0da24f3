"""Items without interactions in training: what can recommend an item that nobody has had yet?

Their interactions are dropped. Tokenizers read their content, as that of all items, and a
softmax over all items has them as negatives. So only content can lead to such an item. Which ones
these are follows from the raw ids of the catalogue alone: the same for all models and seeds.
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
IN_TIME = {"split": {"LS": "valid_and_test"}, "order": "TO"}


def withheld(tokens: Sequence[str], share: float) -> np.ndarray:
    """Which items are withheld: the share of them whose ids have the smallest hash, bool (n,).

    Args:
        tokens: raw item ids (n,).
        share: 0 to below 1; of a share above 0 at least one item, and never all.
    """
    chosen = np.zeros(len(tokens), bool)
    if share > 0:
        digests = [hashlib.sha256(f"withheld {token}".encode()).hexdigest() for token in tokens]
        n_chosen = min(max(1, round(share * len(tokens))), len(tokens) - 1)
        chosen[np.argsort(digests)[:n_chosen]] = True
    return chosen


def withhold(dataset: Any, share: float, times: tuple[float, float] | None) -> None:
    """Drop the interactions with withheld items, but for those that are tested or validated on.

    Under leave-one-out these are each user's last two; users who are left with fewer than four
    interactions are dropped. Under ``split_times`` they are those from the first time on. So no
    history of a training row holds a withheld item; histories of later rows hold those that their
    users had from then on.

    Args:
        dataset: RecBole's, of any class, not built yet; changed in place.
        share: of the catalogue, above 0.
        times: of ``split_times``.

    Raises:
        InputError: another split or order, or nothing is left to train on.
    """
    config, frame = dataset.config, dataset.inter_feat
    for key in ("benchmark_filename", "dataloaders_save_path"):
        if config[key]:
            raise InputError(
                f"settings 'withheld_items' and '{key}' are both given, but what is split already "
                "cannot be dropped from: leave one of them out"
            )
    found = {key: config["eval_args"].get(key) for key in IN_TIME}
    if times is None and found != IN_TIME:
        raise InputError(
            f"setting 'withheld_items' needs eval_args with {IN_TIME}, or split_times, but "
            f"eval_args has {found}"
        )
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
        trains = kept
        needed = f"no user {LEAST_LEFT} interactions"
    else:
        later = seconds >= np.asarray(times[0], seconds.dtype)
        kept = ~chosen[items] | later
        trains = kept & ~later
        needed = "nothing to train on before the first of split_times"
    if not trains.any():
        raise InputError(f"setting 'withheld_items' is {share}, which leaves {needed}: lower it")
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
