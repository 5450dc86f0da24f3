"""Whether models are compared on the same thing: every user, history and target of each split.

RecBole keeps a split as rows of (user, last MAX_ITEM_LIST_LENGTH items, target) for its sequential
models and ours, and as single interactions for its general ones. Both are brought back to what they
were cut from, each user's items in the order of time, so that one hash covers all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import recbole.data.dataset
from recbole.utils import ModelType, dataset_arguments

from recbole_sid import datasets
from recbole_sid.errors import InputError, preview
from recbole_sid.generator.sequences import Sequences, chain
from recbole_sid.model.dataset import split_rows
from recbole_sid.reading import read_data

SPLITS = ("train", "valid", "test")
# Besides the settings of the data, what a split depends on.
_SPLITTING = (
    *("eval_args", "split_times", "withheld_items", "repeatable"),
    *("data_path", "dataset", "MODEL_TYPE"),
)


@dataclass(frozen=True)
class Split:
    """What one model trains on and is tested on, by raw ids.

    ``hashes``: sha256 hex of the catalogue (``items``) and of each split, see :func:`read_split`.
    ``counts``: ``users``, ``items``, ``interactions``, and rows ``valid`` and ``test``.
    ``item_counts``: training interactions of every item of the catalogue.
    ``test``: the targets of every test user, in the order of time; one in leave-one-out.
    """

    hashes: dict[str, str]
    counts: dict[str, int]
    item_counts: dict[str, int]
    test: dict[str, list[str]]


def data_key(config: Any) -> str:
    """Equal for runs that read the same splits."""
    keys = (*dataset_arguments, *_SPLITTING)
    values = {key: config[key] for key in keys if key in config.final_config_dict}
    if config["MODEL_TYPE"] is not ModelType.SEQUENTIAL:
        values.pop("MAX_ITEM_LIST_LENGTH", None)
    # Some of RecBole's models have a class of data set of their own (recbole/data/utils.py:38).
    own = f"{config['model']}Dataset"
    values["class"] = own if hasattr(recbole.data.dataset, own) else None
    values["expanded"] = not datasets.reads_sequences(config)
    return repr(sorted(values.items()))


def check_protocol(label: str, config: Any) -> None:
    """Refuse what no two kinds of models can share.

    Raises:
        InputError: the split is neither leave-one-out in time nor at given times, the ranking is
            not of all items, RecBole does not split the data itself, or a general model would
            rank all later items of a user at once, where the others rank them one by one.
    """
    arguments = config["eval_args"]
    timed = config["split_times"] is not None
    if timed and config["MODEL_TYPE"] is not ModelType.SEQUENTIAL:
        raise InputError(
            f"model {label}: under split_times a user may have several items to find. "
            f"'{config['model']}', a general model of RecBole, ranks once for all of them, "
            "sequential models rank anew for each: their metrics mean different things. Leave it "
            "out, or leave split_times out"
        )
    wanted: tuple[tuple[str, Any, Any], ...] = (
        ("split", arguments.get("split"), None if timed else {"LS": "valid_and_test"}),
        ("group_by", arguments.get("group_by"), "user"),
        ("order", arguments.get("order"), "TO"),
        ("mode", arguments.get("mode"), {"valid": "full", "test": "full"}),
    )
    for key, found, needed in wanted:
        if found != needed:
            raise InputError(
                f"model {label}: setting 'eval_args: {key}' is {found!r}, but a comparison needs "
                f"{needed!r}: leave eval_args to properties/compare.yaml"
            )
    if config["benchmark_filename"] is not None:
        raise InputError(
            f"model {label}: 'benchmark_filename' is set, but a comparison splits the data itself: "
            "give one .inter file"
        )


def read_split(config: Any) -> Split:
    """Build the splits of ``config`` as a run does, and hash what they are.

    A hash covers, user by user in the order of raw ids: for ``train`` the items in their order;
    for ``valid`` and ``test`` all items before the targets, and the targets. Under ``split_times``
    the first item of a user whose first target is not in the training split stands before all
    three. Of a sequential model every row that the loaders hold, of training too, is seen to be a
    cut of these: its history is the last items before its target. So the hashes cover each (user,
    history, target).

    Raises:
        InputError: as :func:`.read_data`; or a history is not what came before its target.
    """
    data, loaders = read_data(config)
    read = _rows if config["MODEL_TYPE"] is ModelType.SEQUENTIAL else _interactions
    fields = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    user_ids, item_ids = (data.field2id_token[field] for field in fields)
    train, valid, test = (
        read(loader.dataset, config, training=loader is loaders[0]) for loader in loaders
    )
    began: list[dict[str, list[str]]] = []
    if train.histories is not None:
        sequences = _chained((train, valid, test), config)
        if config["split_times"] is not None:
            began = [_by_user(_later_starts(sequences, train), user_ids, item_ids)]
    by_user = [_by_user(split, user_ids, item_ids) for split in (train, valid, test)]
    hashes = {"items": _digest(sorted(item_ids[1:].tolist()))}
    for n, name in enumerate(SPLITS):
        hashes[name] = _digest(
            [user, *(part.get(user, []) for part in [*began, *by_user[: n + 1]])]
            for user in sorted(by_user[n])
        )
    numbers, times = np.unique(train.items, return_counts=True)
    item_counts = dict.fromkeys(item_ids[1:].tolist(), 0)
    item_counts.update(zip(item_ids[numbers].tolist(), times.tolist(), strict=True))
    counts = {
        "users": len(set().union(*by_user, *began)),
        "items": data.item_num - 1,
        "interactions": sum(len(split.items) for split in (train, valid, test))
        + sum(map(len, began)),
        "valid": len(valid.items),
        "test": len(test.items),
    }
    return Split(hashes, counts, item_counts, by_user[2])


def check_same(splits: Mapping[str, Split]) -> None:
    """Refuse a comparison of models that do not see the same data.

    Args:
        splits: by the model's label.

    Raises:
        InputError: names the models on each side, what differs, and counts.
    """
    for what in ("items", *SPLITS):
        groups: dict[str, list[str]] = {}
        for label, split in splits.items():
            groups.setdefault(split.hashes[what], []).append(label)
        if len(groups) == 1:
            continue
        sides = "; ".join(
            f"{', '.join(labels)} ({_spelled(splits[labels[0]].counts)}, sha256 {digest[:12]})"
            for digest, labels in groups.items()
        )
        named = "the catalogue" if what == "items" else f"the {what} split"
        raise InputError(
            f"the models cannot be compared: {named} differs between {sides}. Give all the same "
            "data settings (load_col, *_inter_num_interval, val_interval). RecBole's general "
            "models split users of fewer than 4 interactions in another way than sequential ones: "
            "set user_inter_num_interval: '[4,inf)' or higher for all"
        )


def check_outcomes(
    label: str, test: Mapping[str, Sequence[str]], users: Sequence[str], targets: Sequence[str]
) -> None:
    """Refuse outcomes on other users or targets than the test split's."""
    found: dict[str, list[str]] = {}
    for user, target in zip(users, targets, strict=True):
        found.setdefault(user, []).append(target)
    if found != test:
        wrong = sorted(
            (user, target)
            for side, other in ((found, test), (test, found))
            for user, items in side.items()
            if list(other.get(user, ())) != list(items)
            for target in items
        )
        raise InputError(
            f"the outcomes of {label} are not on the test split: {len(users):,} rows for "
            f"{sum(map(len, test.values())):,} targets of {len(test):,} users, first difference "
            f"{preview(wrong, 1)}. Run that model again with --overwrite_models"
        )


# -- from RecBole's rows to items in order --------------------------------------------------------


@dataclass(frozen=True)
class _Items:
    """Interactions of a split by internal ids, in each user's order of time.

    ``histories``, ``lengths``: what the model is given before each item, if it is given that.
    """

    users: np.ndarray
    items: np.ndarray
    histories: np.ndarray | None = None
    lengths: np.ndarray | None = None


def _interactions(dataset: Any, config: Any, training: bool) -> _Items:
    rows = dataset.inter_feat
    users, items = rows[config["USER_ID_FIELD"]].numpy(), rows[config["ITEM_ID_FIELD"]].numpy()
    order = np.argsort(users, kind="stable")
    return _Items(users[order], items[order])


def _rows(dataset: Any, config: Any, training: bool) -> _Items:
    """The targets; and of training rows, before a user's first target, the one item before it."""
    users, histories, lengths, targets = split_rows(dataset, config)
    order = np.argsort(users, kind="stable")
    users, histories, lengths, targets = (a[order] for a in (users, histories, lengths, targets))
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    if not training:
        starts = starts[:0]
    return _Items(
        np.insert(users, starts, users[starts]),
        np.insert(targets, starts, histories[starts, 0]),
        histories,
        lengths,
    )


def _chained(splits: Sequence[_Items], config: Any) -> Sequences:
    """The rows of all splits as a sequence a user: each row's history is the end of what comes
    before its target there.

    Raises:
        InputError: the rows of a user, of all splits, are not one sequence.
    """
    users, targets, histories, lengths = (
        np.concatenate(parts)
        for parts in zip(*(_targets_of(split) for split in splits), strict=True)
    )
    sequences = chain(users, histories, lengths, targets)
    if len(sequences.users) != len(np.unique(users)) or (sequences.first_target != 1).any():
        raise InputError(
            f"model '{config['model']}': a history is not what its user had before the target; "
            "this model cannot be compared"
        )
    return sequences


def _later_starts(sequences: Sequences, train: _Items) -> _Items:
    """The first items of users who have no training row."""
    later = ~np.isin(sequences.users, train.users)
    return _Items(sequences.users[later], sequences.items[sequences.offsets[:-1][later]])


def _targets_of(split: _Items) -> tuple[np.ndarray, ...]:
    """Users, targets, histories and lengths of a split's rows, without items before them."""
    assert split.histories is not None, "only rows of sequential models are chained"
    assert split.lengths is not None, "a history has a length"
    inserted = len(split.items) - len(split.lengths)
    if not inserted:
        return split.users, split.items, split.histories, split.lengths
    # Before the rows of each user one item was put in.
    first = np.diff(split.users, prepend=-1) != 0
    return split.users[~first], split.items[~first], split.histories, split.lengths


def _by_user(split: _Items, user_ids: np.ndarray, item_ids: np.ndarray) -> dict[str, list[str]]:
    starts = np.flatnonzero(np.diff(split.users, prepend=-1))
    parts = np.split(item_ids[split.items], starts[1:])
    names = user_ids[split.users[starts]].tolist()
    return {user: part.tolist() for user, part in zip(names, parts, strict=True)} if names else {}


def _digest(rows: Any) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode() + b"\n")
    return digest.hexdigest()


def _spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
