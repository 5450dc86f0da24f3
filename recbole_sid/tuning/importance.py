"""How much each setting mattered, as far as the trials of one search can tell.

A random forest is fitted to the finished trials, from the settings to the validation score. The
importance of a setting is how much worse the forest tells these scores when that setting's column
is shuffled among the trials, the mean of fifty shuffles; below 0 counts as 0, and all add up to 1.
Choices stand for their place in the list, a loguniform number for its logarithm. The forest is
asked about the trials that it was fitted to, and a search by bayes looks longest where scores are
good, so these are hints for the next space and no test of significance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from recbole_sid.tuning.journal import Record
from recbole_sid.tuning.space import Space

LEAST_TRIALS = 8  # finished ones of different settings; below, nothing is said
_TREES = 200
_SHUFFLES = 50


def importance(space: Space, records: Sequence[Record], seed: int) -> dict[str, float] | None:
    """The share of each setting; None with fewer than ``LEAST_TRIALS`` trials or equal scores."""
    used = [one for one in records if one.state == "finished" and one.same_as is None]
    used.sort(key=lambda one: one.trial)
    scores = np.array([one.score for one in used], dtype=np.float64)
    if len(used) < LEAST_TRIALS or np.ptp(scores) == 0:
        return None
    columns = [[d.position(one.params[d.key]) for d in space.dimensions] for one in used]
    values = np.array(columns)  # (n trials, settings)
    forest = RandomForestRegressor(_TREES, random_state=seed, n_jobs=1).fit(values, scores)
    found = permutation_importance(
        forest, values, scores, n_repeats=_SHUFFLES, random_state=seed, n_jobs=1
    )
    shares = np.maximum(found.importances_mean, 0.0)
    if shares.sum() == 0:
        return None
    shares /= shares.sum()
    return dict(zip(space.keys, np.round(shares, 6).tolist(), strict=True))
