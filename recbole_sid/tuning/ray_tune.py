"""Engine ``ray``: Ray Tune on the processors of this machine, with ASHA.

Ray Tune decides which trials go on: after ``asha_grace`` validations, and again whenever there have
been ``asha_reduction`` times as many, a trial goes on if its best score so far is among the best
1 / ``asha_reduction`` of those that have come that far (ASHA, arXiv 1810.05934). What is proposed
comes from the same draws as with engine ``recbole``. A search that goes on tells Ray Tune the
validations of its ended trials again, in their order, without training them.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hyperopt
import numpy as np

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.run_folder import write_json
from recbole_sid.tuning.journal import Journal, Record, State, read_record
from recbole_sid.tuning.plan import Plan
from recbole_sid.tuning.proposals import algorithm, nodes
from recbole_sid.tuning.running import Interrupted, Prepared, clear, execute, prepare, trial_folder

PACKAGES = ("ray", "pyarrow", "tensorboardX")
RECORD = "record.json"
# The least that Ray takes; only names and numbers pass through it.
_OBJECT_STORE_BYTES = 80 * 2**20
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints although verbose is 0
}


def require_ray() -> None:
    """InputError when a package is missing; before anything is trained."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--engine ray needs packages that are not installed: {', '.join(missing)}. Remedy: "
            'pip install "recbole-sid[tune]", or --engine recbole'
        )


def search(plan: Plan, journal: Journal) -> None:
    """Run all trials.

    Raises:
        Interrupted: Ray Tune ended before its trials did.
    """
    require_ray()
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    own = plan.settings
    with _ray(own.parallel), tempfile.TemporaryDirectory() as results:
        tune.run(
            _train,
            metric="score",
            mode="max" if plan.bigger else "min",
            search_alg=_searcher(plan, journal),
            scheduler=ASHAScheduler(
                grace_period=own.asha_grace,
                reduction_factor=own.asha_reduction,
                max_t=2**31,  # a trial ends by itself
            ),
            num_samples=plan.total,
            resources_per_trial={"cpu": 1},
            storage_path=results,
            verbose=0,
            raise_on_failed_trial=False,
        )
    if len(journal.records) < plan.total:
        raise Interrupted(f"{len(journal.records)} of {plan.total} trials have ended")


def _searcher(plan: Plan, journal: Journal) -> Any:
    from ray.tune.search import Searcher

    class Proposing(Searcher):
        """Hands Ray Tune the next trial, and takes what became of it into the journal."""

        def __init__(self) -> None:
            super().__init__(metric="score", mode="max" if plan.bigger else "min")
            own = plan.settings
            self.algorithm = algorithm(own.algo, plan.space, plan.seed, own.bayes_random_trials)
            self.domain = hyperopt.base.Domain(lambda _: 0.0, nodes(plan.space))
            self.trials = hyperopt.Trials()
            self.random = np.random.RandomState(plan.seed)
            self.proposed = 0
            # By Ray's name: the trial, its settings, what was kept of it, and its validations.
            self.going: dict[str, tuple[int, dict[str, Any], Record | None, list[Any]]] = {}

        def suggest(self, trial_id: str) -> Any:
            while self.proposed < plan.total:
                if len(self.going) >= plan.settings.parallel:
                    return None
                trial, settings = self._propose()
                record = journal.known(trial, settings)
                job = None
                if record is None:
                    journal.start(trial, settings)
                    ready = prepare(plan, trial, settings)
                    record, job = (None, ready) if isinstance(ready, Prepared) else (ready, None)
                if record is not None and (record.same_as is not None or not record.evaluations):
                    self._end(record)  # nothing that ASHA would have heard of
                    continue
                self.going[trial_id] = (trial, settings, record, [])
                return {"job": job, "kept": record, "bigger": plan.bigger}
            return Searcher.FINISHED

        def _propose(self) -> tuple[int, dict[str, Any]]:
            ids = self.trials.new_trial_ids(1)
            self.trials.refresh()
            seed = self.random.randint(2**31 - 1)
            documents = self.algorithm(ids, self.domain, self.trials, seed)
            self.trials.insert_trial_docs(documents)
            self.trials.refresh()
            self.proposed += 1
            raw = {key: values[0] for key, values in documents[0]["misc"]["vals"].items()}
            return self.proposed, plan.space.settings(raw)

        def _end(self, record: Record) -> None:
            journal.end(record)
            clear(plan, record.trial)
            document = self.trials._dynamic_trials[record.trial - 1]
            loss = journal.loss(record)
            document["state"] = hyperopt.JOB_STATE_DONE
            document["result"] = (
                {"status": hyperopt.STATUS_FAIL}
                if loss is None
                else {"status": hyperopt.STATUS_OK, "loss": loss}
            )
            self.trials.refresh()

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            self._hear(trial_id, result)

        def _hear(self, trial_id: str, result: dict[str, Any] | None) -> None:
            kept, heard = self.going[trial_id][2:]
            if kept is not None or result is None or "epoch" not in result:
                return
            # At its end a trial gives the last one again.
            if all(result["epoch"] != one["epoch"] for one in heard):
                heard.append(result)
                journal.hear(result)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            self._hear(trial_id, result)  # the one at which a trial is stopped comes here first
            trial, settings, kept, heard = self.going.pop(trial_id)
            file = trial_folder(plan, trial) / RECORD
            if kept is not None:
                self._end(kept)
            elif file.is_file():
                self._end(read_record(file))
            elif not error and heard:
                last = heard[-1]
                curve = [[one["epoch"], one["current"]] for one in heard]
                # ASHA may stop a trial that has just come to its end.
                state: State = "finished" if last["last"] else "stopped"
                seconds = round(last["time_total_s"], 1)
                best = last["score"], json.loads(last["metrics"])
                self._end(Record(trial, settings, state, *best, curve, seconds=seconds))

        def save(self, checkpoint_path: str) -> None:
            """The journal is what a search goes on from."""

        def restore(self, checkpoint_path: str) -> None:
            """As :meth:`save`."""

    return Proposing()


def _train(config: dict[str, Any]) -> None:
    """A trial in a process of Ray's: it starts the one that trains, and passes on what it says."""
    from ray.air import session

    kept: Record | None = config["kept"]
    if kept is not None:
        better = max if config["bigger"] else min
        scores = [score for _, score in kept.evaluations]
        best = itertools.accumulate(scores, better)
        for (epoch, score), so_far in zip(kept.evaluations, best, strict=True):
            session.report({"score": so_far, "epoch": int(epoch), "current": score})
        if kept.state == "failed":
            raise RuntimeError(kept.reason)
        return

    job: Prepared = config["job"]

    def report(evaluation: dict[str, Any]) -> None:
        # ASHA goes by `score`, the best one so far: a run keeps its best epoch, so that what
        # overfits later is not worth less. Ray would flatten a mapping.
        session.report({**evaluation, "metrics": json.dumps(evaluation["metrics"])})

    record = execute(job, report)
    write_json(job.folder / RECORD, asdict(record))
    if record.state == "failed":
        raise RuntimeError(record.reason)


@contextmanager
def _ray(processes: int) -> Iterator[None]:
    """Ray on this machine alone, without its dashboard; one that runs already is used."""
    import ray

    if ray.is_initialized():
        yield
        return
    package = str(Path(recbole_sid.__file__).resolve().parent.parent)
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT, PYTHONPATH=paths)
    try:
        ray.init(
            num_cpus=processes,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        yield
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
