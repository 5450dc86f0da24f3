"""One trial: train with given settings, measure on the validation split, and never on the test.

A trial is a process of its own, so that it neither sees what earlier ones left behind nor takes the
search with it when it dies. It reads ``config.yaml`` in its folder, adds a line a validation to
``evaluations.jsonl`` and ends with ``validation.json``. One of our models that was killed goes on
from its last epoch.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import init_seed

from recbole_sid import compat, run_folder
from recbole_sid.errors import InputError
from recbole_sid.logs import logging_run
from recbole_sid.memory import keep_freed_memory
from recbole_sid.parent import end_with_parent
from recbole_sid.quick_start import checked_config, trainer_class
from recbole_sid.reading import read_data
from recbole_sid.trainer import SIDTrainer

EVALUATIONS = "evaluations.jsonl"
VALIDATION = "validation.json"

logger = logging.getLogger("recbole_sid")


def validate(
    config: Any, folder: Path, on_evaluation: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train as a run does, step by step the same, up to its test.

    Args:
        folder: gets what the trainer writes, and holds what an earlier start of it left.
        on_evaluation: is given ``epoch`` and ``current``, its score, with ``score`` and ``metrics``
            of the best one so far, whenever the validation split has been measured; ``last`` says
            that the epochs are over.

    Returns:
        ``score`` and ``metrics`` of the best epoch on the validation split.

    Raises:
        InputError: bad settings or data, or nothing was validated.
    """
    config["checkpoint_dir"] = str(folder)
    init_seed(config["seed"], config["reproducibility"])
    _, (train_data, valid_data, _) = read_data(config)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = compat.get_model(config["model"])(config, train_data.dataset)
    trainer = trainer_class(config)(config, model.to(config["device"]))
    ours = isinstance(trainer, SIDTrainer)
    if ours:
        trainer.resumable = True
        if (folder / run_folder.STATE).is_file():
            trainer.resume_checkpoint(folder / run_folder.STATE)

    def report(epoch: int, score: float) -> None:
        best = _plain(trainer.best_valid_score, trainer.best_valid_result)
        last = epoch + trainer.eval_step >= trainer.epochs
        on_evaluation({"epoch": epoch, "current": float(score), "last": last, **best})

    score, metrics = trainer.fit(train_data, valid_data, saved=ours, callback_fn=report)
    if not np.isfinite(score):
        raise InputError("nothing was validated: the validation split is empty")
    return _plain(score, metrics)


def _plain(score: Any, metrics: Any) -> dict[str, Any]:
    return {"score": float(score), "metrics": {key: float(v) for key, v in metrics.items()}}


def main() -> int:
    """The process of a trial; its one argument is the folder."""
    end_with_parent()
    folder = Path(sys.argv[1])
    keep_freed_memory()
    with logging_run() as log, (folder / EVALUATIONS).open("a", encoding="utf-8") as lines:
        log.show()
        lines.write("\n")  # a process that was killed may have left half a line

        def write(evaluation: dict[str, Any]) -> None:
            lines.write(json.dumps(evaluation) + "\n")
            lines.flush()

        try:
            config = checked_config(config_file_list=[str(folder / run_folder.CONFIG)])
            result = validate(config, folder, write)
        except InputError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
    run_folder.write_json(folder / VALIDATION, result)
    return 0
