"""Engine ``recbole``: RecBole's ``HyperTuning``, one trial after the other."""

from __future__ import annotations

import contextlib
from typing import Any

import hyperopt
import numpy as np
from recbole.trainer import HyperTuning

from recbole_sid.tuning.journal import Journal
from recbole_sid.tuning.plan import Plan
from recbole_sid.tuning.proposals import algorithm, nodes
from recbole_sid.tuning.running import Prepared, clear, execute, prepare


class Search(HyperTuning):
    """``HyperTuning`` with a space that is built already, fixed draws and trials that may fail.

    RecBole's own draws without a seed, ends the search with the first error, takes a score of 0 for
    none (recbole/trainer/hyper_tuning.py:358) and stops after ten trials without a better one.
    """

    def __init__(self, plan: Plan, journal: Journal) -> None:
        own = plan.settings
        super().__init__(
            None,  # `trial` needs no objective
            space=nodes(plan.space),
            algo=algorithm(own.algo, plan.space, plan.seed, own.bayes_random_trials),
            max_evals=plan.total,
        )
        self.plan = plan
        self.journal = journal

    def trial(self, params: dict[str, float]) -> dict[str, Any]:
        number = len(self.journal.records) + 1
        settings = self.plan.space.settings(params)
        record = self.journal.known(number, settings)
        if record is None:
            self.journal.start(number, settings)
            ready = prepare(self.plan, number, settings)
            record = execute(ready, self.journal.hear) if isinstance(ready, Prepared) else ready
        self.journal.end(record)
        clear(self.plan, number)
        loss = self.journal.loss(record)
        if loss is None:
            return {"status": hyperopt.STATUS_FAIL}
        return {"loss": loss, "status": hyperopt.STATUS_OK}

    def run(self) -> None:
        # Whether all trials failed is for the caller to say.
        with contextlib.suppress(hyperopt.exceptions.AllTrialsFailed):
            hyperopt.fmin(
                self.trial,
                self.space,
                algo=self.algo,
                max_evals=self.max_evals,
                rstate=np.random.RandomState(self.plan.seed),
                return_argmin=False,
                show_progressbar=False,
            )
