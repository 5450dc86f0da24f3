"""Which settings are tried next: hyperopt's draws, fixed by the seed and the scores so far.

An algorithm is a function of hyperopt's kind, (ids, domain, trials, seed) -> trial documents. With
the same seed and the same scores it proposes the same, so that a search that was interrupted goes
on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hyperopt import hp, rand, tpe
from hyperopt.base import miscs_update_idxs_vals

from recbole_sid.tuning.space import Dimension, Space

Algorithm = Callable[[Any, Any, Any, int], list[Any]]


def nodes(space: Space) -> dict[str, Any]:
    """The space as hyperopt's. A choice is drawn by its place: hyperopt would make lists tuples."""
    return {one.key: _node(one) for one in space.dimensions}


def _node(one: Dimension) -> Any:
    if one.kind == "choice":
        return hp.choice(one.key, list(range(len(one.values))))
    if one.kind == "loguniform":
        return hp.loguniform(one.key, *np.log(one.numbers).tolist())
    return getattr(hp, one.kind)(one.key, *one.numbers)


def algorithm(name: str, space: Space, seed: int, random_trials: int) -> Algorithm:
    """``random``, ``bayes`` or ``exhaustive``.

    Args:
        seed: of the order in which an exhaustive search goes through all combinations.
        random_trials: how many bayes draws at random first.
    """
    if name == "bayes":
        return partial(tpe.suggest, n_startup_jobs=random_trials, verbose=False)
    if name == "random":
        return rand.suggest
    return _exhaustive(space, seed)


def _exhaustive(space: Space, seed: int) -> Algorithm:
    """Every combination once.

    RecBole's own (recbole/trainer/hyper_tuning.py:83) draws until it meets a new one and gives up
    after a thousand draws: of some hundred combinations it misses a few.
    """
    grid = space.grid()
    order = np.random.default_rng(seed).permutation(len(grid))

    def suggest(new_ids: Any, domain: Any, trials: Any, _: int) -> list[Any]:
        documents = []
        for new_id in new_ids:
            if new_id >= len(grid):
                break
            drawn = grid[order[new_id]]
            values = {k: int(v) if k in places else v for k, v in drawn.items()}
            misc = {"tid": new_id, "cmd": domain.cmd, "workdir": domain.workdir}
            miscs_update_idxs_vals(
                [misc], {k: [new_id] for k in values}, {k: [v] for k, v in values.items()}
            )
            documents += trials.new_trial_docs([new_id], [None], [domain.new_result()], [misc])
        return documents

    places = {one.key for one in space.dimensions if one.kind == "choice"}
    return suggest
