"""Test users, what they had, what each model recommended to them, and what came next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from recbole.utils import ModelType

from recbole_sid import run_folder
from recbole_sid.comparison.outcomes import Outcomes, load_outcomes
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.model.dataset import split_rows
from recbole_sid.page.sources import Run
from recbole_sid.reading import read_data

N_DRAWN = 8  # users of each kind
HISTORY = 20  # items of a history that are shown, the last ones
LIST = 10
_SEED = 20261122  # the same folders give the same users


@dataclass(frozen=True)
class Example:
    """One test user by raw ids; ``history`` oldest first, its last items.

    ``lists``: by the label of the run, the items recommended, best first, and the rank of the
    target (0: not in the list).
    """

    user: str
    history: tuple[str, ...]
    target: str
    lists: dict[str, tuple[tuple[str, ...], int]]


@dataclass(frozen=True)
class Examples:
    """``any_users``: drawn from all test users; ``found``: from those whose target some run has."""

    any_users: tuple[Example, ...]
    found: tuple[Example, ...]


def draw_examples(runs: Sequence[Run]) -> Examples:
    """Draw test users that all ``runs`` ranked items for; all are on one data set, with outcomes.

    Raises:
        InputError: the runs share no test users, have different targets for them, or the data set
            is not the one that they were made on.
    """
    outcomes = {run.label: load_outcomes(run.folder / run_folder.OUTCOMES) for run in runs}
    rows = {
        label: {user: row for row, user in enumerate(one.users)} for label, one in outcomes.items()
    }
    users = sorted(set.intersection(*(set(one) for one in rows.values())))
    if not users:
        raise InputError("these runs have no test users in common")
    targets = _targets(outcomes, rows, users)
    ranks = {
        label: one.ranks[[rows[label][user] for user in users]] for label, one in outcomes.items()
    }
    # A rank counts here as far as the lists are shown.
    hit = np.stack([(r > 0) & (r <= LIST) for r in ranks.values()]).any(axis=0)  # (n,)
    rng = np.random.default_rng(_SEED)
    first = _drawn(rng, np.arange(len(users)))
    second = _drawn(rng, np.setdiff1d(np.flatnonzero(hit), first))
    histories = _histories(runs[0], {users[row]: targets[row] for row in (*first, *second)})

    def example(row: int) -> Example:
        user, history = users[row], histories[users[row]]
        lists = {}
        for label, one in outcomes.items():
            items = one.lists[rows[label][user]][:LIST].tolist()
            shown = tuple(one.items[item] for item in items if item)
            rank = int(ranks[label][row])
            lists[label] = (shown, rank if rank <= LIST else 0)
        return Example(user, history[-HISTORY:], targets[row], lists)

    return Examples(tuple(map(example, first)), tuple(map(example, second)))


def _drawn(rng: np.random.Generator, rows: np.ndarray) -> list[int]:
    return sorted(rng.choice(rows, min(N_DRAWN, len(rows)), replace=False).tolist())


def _targets(
    outcomes: dict[str, Outcomes], rows: dict[str, dict[str, int]], users: Sequence[str]
) -> list[str]:
    found: list[str] | None = None
    for label, one in outcomes.items():
        targets = [one.items[item] for item in one.targets[[rows[label][u] for u in users]]]
        if found is not None and targets != found:
            raise InputError(
                f"the run '{label}' was tested on other targets than the others: give runs of one "
                "split"
            )
        found = targets
    assert found is not None
    return found


def _histories(run: Run, targets: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Of each user in ``targets``, all that the run's split has before the target."""
    config = Config(
        config_file_list=[str(run.folder / run_folder.CONFIG)],
        config_dict={"output": str(run.folder)},
        stage_1=False,
    )
    run_folder.check_data(config)
    data, loaders = read_data(config)
    user_field, item_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    user_ids, item_ids = data.field2id_token[user_field], data.field2id_token[item_field]
    number = {user_ids[n]: n for n in range(1, len(user_ids))}
    found = {}
    if config["MODEL_TYPE"] is ModelType.SEQUENTIAL:
        users, histories, lengths, items = split_rows(loaders[2].dataset, config)
        row_of = {int(user): row for row, user in enumerate(users)}
        for user in targets:
            row = row_of[number[user]]
            found[user] = (histories[row, : lengths[row]], items[row])
    else:
        parts = [loader.dataset.inter_feat for loader in loaders]
        users = np.concatenate([part[user_field].numpy() for part in parts])
        items = np.concatenate([part[item_field].numpy() for part in parts])
        for user in targets:
            mine = items[users == number[user]]
            found[user] = (mine[:-1], mine[-1])
    for user, (_, target) in found.items():
        if item_ids[target] != targets[user]:
            raise InputError(
                f"the split of '{run.label}' gives another target than its outcomes: run it again"
            )
    return {user: tuple(item_ids[history].tolist()) for user, (history, _) in found.items()}
