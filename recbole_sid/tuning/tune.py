"""``tune``: search for the settings of a model that validate best."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid import run_folder
from recbole_sid.errors import InputError
from recbole_sid.logs import logging_run, logging_to
from recbole_sid.reading import read_data
from recbole_sid.tuning import hyper_tuning, ray_tune
from recbole_sid.tuning.journal import Journal
from recbole_sid.tuning.plan import Plan, make_plan, open_folder
from recbole_sid.tuning.running import Interrupted
from recbole_sid.tuning.writing import write_results

logger = logging.getLogger("recbole_sid")

LOG = "tuning.log"


def tune(
    model: str | None = None,
    dataset: str | None = None,
    *,
    space: str | Path | None = None,
    config_file_list: Sequence[str | Path] = (),
    config_dict: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Search for the settings of one model, ours or RecBole's, that validate best.

    Every trial is a process of its own that trains as :func:`recbole_sid.run` does and never reads
    the test split. A trial's result is written as soon as it ends; the same call goes on with a
    search that was interrupted and ends with the same table.

    Args:
        model: as for :func:`recbole_sid.run`, as ``dataset``.
        space: a file of settings and their values, see :mod:`.tuning.space`; None takes
            ``properties/hyper/MODEL.yaml``.
        config_file_list: yaml files with settings for all trials.
        config_dict: settings for all trials, above the files; ``output`` (default
            ``tunings/DATASET-MODEL-HASH``), ``overwrite``, ``show_progress`` and what
            ``properties/tune.yaml`` lists (``engine``, ``algo``, ``max_trials`` …) are among them.

    Returns:
        What ``result.json`` holds, and ``folder``. ``best.yaml`` there is a settings file for
        :func:`recbole_sid.run`, which reaches the best score again.

    Raises:
        InputError: bad settings, space or data, before the first trial; all trials failed; or the
            search was interrupted.
    """
    given = dict(config_dict or {})
    plan = make_plan(model, dataset, space, config_file_list, given)
    if plan.settings.engine == "ray":
        ray_tune.require_ray()
    with logging_run():
        read_data(plan.base)  # bad data would fail every trial
        with run_folder.claimed(plan.folder):
            open_folder(plan, overwrite=bool(given.get("overwrite", False)))
            with logging_to(plan.folder / LOG):
                return _tune(plan)


def _tune(plan: Plan) -> dict[str, Any]:
    journal = Journal(plan)
    logger.info(
        "Tuning %s on %s by %s: %d trials, engine %s, %d ended before; searched: %s; folder %s",
        plan.base["model"],
        plan.base["dataset"],
        plan.settings.algo,
        plan.total,
        plan.settings.engine,
        sum(trial <= plan.total for trial in journal.stored),
        ", ".join(plan.space.keys),
        plan.folder,
    )
    try:
        if plan.settings.engine == "ray":
            ray_tune.search(plan, journal)
        else:
            hyper_tuning.Search(plan, journal).run()
    except Interrupted as error:
        raise InputError(
            f"the search was interrupted: {error}. The same command goes on"
        ) from error
    finally:
        journal.bar.close()
    if journal.best() is None:
        first = next((one for one in journal.ranked() if one.reason), None)
        said = f"the first because of: {first.reason}" if first else "all were stopped"
        raise InputError(
            f"none of {plan.total} trials came to its end, {said}. Logs: {plan.folder / 'logs'}"
        )
    result = write_results(plan, journal)
    return result | {"folder": str(plan.folder)}
