"""One run: a model is trained and tested, and all that it makes is in one folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import recbole.utils
from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.utils import init_seed

from recbole_sid import compat, distributed, run_folder
from recbole_sid.clock import Clock
from recbole_sid.comparison.outcomes import save_outcomes
from recbole_sid.config import Config
from recbole_sid.distributed import World
from recbole_sid.errors import InputError
from recbole_sid.evaluation import RecordingCollector
from recbole_sid.logs import RunLog, logging_run
from recbole_sid.memory import keep_freed_memory
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.out_of_memory import ITEMS, RANKING, TRAINING, memory_for
from recbole_sid.ranking.base import ClickModel
from recbole_sid.reading import read_data
from recbole_sid.settings import build
from recbole_sid.sid.quality import quality
from recbole_sid.stored_run import item_tokens, needs_vectors, save_stage_1, stored_recommender
from recbole_sid.tokenizer.pipeline import item_vectors
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_data import TrainingData
from recbole_sid.training_settings import TrainingSettings
from recbole_sid.training_state import check_sequences, read_state
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    command_line: Sequence[str] | None = (),
) -> dict[str, Any]:
    """Train and test one model, ours or RecBole's; everything it makes is in one folder.

    Under ``torchrun`` all processes call it alike (:mod:`recbole_sid.distributed`); models that
    generate are trained and tested in several. The result is given to all.

    Args:
        model: ``TIGER``, ``SASRec`` …; None takes it from the other sources.
        dataset: a folder of atomic files in ``data_path``, or ``ml-100k``.
        config_file_list: yaml files, later ones win.
        config_dict: settings, above the files.
        saved: keep checkpoints, and test with the best one.
        command_line: ``--key=value`` arguments, above everything; None reads ``sys.argv``.

    Returns:
        What ``recbole.quick_start.run_recbole`` returns (``best_valid_score``,
        ``valid_score_bigger``, ``best_valid_result``, ``test_result``) and ``sid`` (quality of the
        SIDs), ``trained_in`` (float32 or bfloat16), ``parameters``, ``run_folder``, ``timing`` and
        what identifies the run (``model``, ``dataset``, ``settings_hash``, ``data_hash``,
        ``inputs_hash``, ``recbole_sid``; ``processes``, where they were several).
        ``best_valid_score`` is None when nothing was validated.

    Raises:
        InputError: bad input, before anything is trained or overwritten.
    """
    with distributed.joined() as world:
        config = checked_config(model, dataset, config_file_list, config_dict, command_line)
        config["checkpoint_dir"] = str(config.run_folder)
        _refuse_what_run_lacks(config, world)
        with run_folder.claimed(config.run_folder):
            finished = world.first(lambda: run_folder.stored_result(config))
            if finished is not None:
                return finished
            keep_freed_memory()
            with logging_run() as log:
                return _run(config, log, saved, world)


def _run(config: Config, log: RunLog, saved: bool, world: World) -> dict[str, Any]:
    clock = Clock()
    with clock("data"):
        # Before the files can change under a long run.
        hashes = world.first(
            lambda: {
                "data_hash": run_folder.data_hash(config),
                "inputs_hash": run_folder.inputs_hash(config),
            }
        )
        init_seed(config["seed"], config["reproducibility"])
        data, loaders = read_data(config)
        train_data, valid_data, test_data = loaders
    values = config.final_config_dict
    folder = config.run_folder
    state_file = folder / run_folder.STATE
    resuming = world.first(lambda: config.run.resume and state_file.is_file())
    with clock("tokenize"), memory_for("stage 1, items and their SIDs", ITEMS, values):
        _encode_together(config, data, world)
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        if world.leads:
            recommender = compat.get_model(config["model"])(config, train_data.dataset)
            recommender = recommender.to(config["device"])
    if world.leads:
        if resuming:
            state = read_state(state_file, config, recommender)
            sequences = TrainingData(train_data.dataset, config, recommender)
            check_sequences(state, sequences, state_file)
        # Bad input has been refused by now: only from here on is anything written.
        run_folder.start(config)
        log.write_to(folder / run_folder.LOG)
        logger.info("%s on %s, run folder %s", config["model"], config["dataset"], folder)
        logger.info(data)
        save_stage_1(folder, recommender)
    world.meet()
    if not world.leads:
        recommender = stored_recommender(config, train_data.dataset)
    n_parameters = sum(p.numel() for p in recommender.parameters() if p.requires_grad)
    logger.info("Stage 2: %s, %s parameters", config["model"], f"{n_parameters:,}")
    trainer = trainer_class(config)(config, recommender)
    if isinstance(trainer, SIDTrainer):
        trainer.resumable = True
    else:
        trainer.eval_collector = RecordingCollector(config)
    if resuming:
        trainer.resume_checkpoint(state_file)
    # Bars are for somebody who looks on: a log has a line an epoch.
    show = bool(config["show_progress"]) and sys.stderr.isatty()
    stage_2 = memory_for("stage 2, training", (*TRAINING, *RANKING), values)
    with clock("train"), stage_2, _nan_told(config, trainer):
        best_score, best_result = trainer.fit(
            train_data, valid_data, saved=saved, show_progress=show
        )
    if isinstance(trainer, SIDTrainer):
        clock.add("train", trainer.clock.before)
    recording = _has_one_target_a_row(test_data)
    with clock("test"), memory_for("the test", RANKING, values):
        if recording:
            trainer.eval_collector.start_recording()
        test_result = trainer.evaluate(test_data, load_best_model=saved, show_progress=show)
    if not world.leads:
        return world.told()
    result: dict[str, Any] = {
        # RecBole's score is infinite when nothing was validated (eval_step: 0).
        "best_valid_score": float(best_score) if np.isfinite(best_score) else None,
        "valid_score_bigger": bool(config["valid_metric_bigger"]),
        "best_valid_result": _plain(best_result),
        "test_result": _plain(test_result),
        "parameters": n_parameters,
    }
    if isinstance(recommender, (SIDRecommender, ClickModel)):
        result["sid"] = {f"sid/{key}": v for key, v in quality(recommender.sids).items()}
    if isinstance(trainer, SIDTrainer):
        # precision: auto means another type on another processor.
        result["trained_in"] = str(trainer.dtype).removeprefix("torch.")
    if not world.alone:
        result["processes"] = world.size
    identity = {
        "model": config["model"],
        "dataset": config["dataset"],
        "settings_hash": config.settings_hash(),
        **hashes,
        "recbole_sid": __version__,
    }
    result = identity | result
    timing = clock.report()
    if isinstance(recommender, (SIDRecommender, ClickModel)):
        # SIDs from the cache cost nothing now, but they did.
        timing["fit_seconds"] = recommender.fit_seconds
    if recording:
        outcomes = trainer.eval_collector.outcomes(data)
        save_outcomes(folder / run_folder.OUTCOMES, outcomes)
    run_folder.write_json(folder / run_folder.TIMING, timing)
    run_folder.write_json(folder / run_folder.RESULT, result)
    (folder / run_folder.STATE).unlink(missing_ok=True)
    logger.info("best valid: %s", result["best_valid_result"])
    logger.info("test: %s", result["test_result"])
    logger.info("seconds: %s, results in %s", timing["seconds"], folder)
    return world.told(result | {"run_folder": str(folder), "timing": timing})


def _encode_together(config: Config, data: Dataset, world: World) -> None:
    """Several processes encode the item texts that stage 1 needs, each its share of them.

    Stage 1 itself is then the first one's work, and finds them in the cache.
    """
    if world.alone or config["item_embedding_file"] is not None:
        return
    if config.tokenizer_spec.cls.needs_vectors or needs_vectors(config):
        item_vectors(config, item_tokens(config, data), world)


@contextmanager
def _nan_told(config: Config, trainer: Any) -> Iterator[None]:
    """What to do about a loss that is NaN, which RecBole only reports (trainer.py:346)."""
    try:
        yield
    except ValueError as error:
        if str(error) != "Training loss is nan":
            raise
        kept = "No weights were saved yet"
        if Path(trainer.saved_model_file).is_file():
            kept = f"Weights of an earlier epoch are in '{trainer.saved_model_file}'"
        raise InputError(
            f"stage 2, training of {config['model']}: the loss is nan. Lower learning_rate "
            f"({config['learning_rate']}), or set clip_grad_norm: {{max_norm: 1.0}}. {kept}"
        ) from error


def _has_one_target_a_row(loader: Any) -> bool:
    """Whether the split is ranked whole, with one target a row: then its outcomes are kept."""
    if not isinstance(loader, FullSortEvalDataLoader) or len(loader.dataset) == 0:
        return False
    return loader.is_sequential or int(loader.uid2items_num.max()) == 1


def checked_config(*args: Any, **kwargs: Any) -> Config:
    """``Config(…)``, with the settings of our trainer checked too."""
    config = Config(*args, **kwargs)
    if config.model_spec is not None and issubclass(config.model_spec.trainer, SIDTrainer):
        build(TrainingSettings, config.final_config_dict)
    return config


def _refuse_what_run_lacks(config: Config, world: World) -> None:
    for key in ("nproc", "world_size"):
        count = config[key]
        if isinstance(count, int) and count > 1:
            raise InputError(
                f"setting '{key}' is {count}, but several processes are started by torchrun, for "
                f"models that generate: leave it out, and run torchrun --nproc-per-node={count}"
            )
    generates = config.model_spec is not None and config.model_spec.generator is not None
    if not world.alone and not generates:
        raise InputError(
            f"model '{config['model']}' runs in one process, but torchrun has started "
            f"{world.size}: start it without torchrun. Models that generate run in several"
        )
    if config.run.resume and (config.model_spec is None or config.model_spec.generator is None):
        raise InputError(
            f"--resume goes on with models that generate, but '{config['model']}' is not one: "
            "leave it out"
        )


def trainer_class(config: Config) -> Any:
    """Ours for our models; RecBole's, adapted to today's torch, for its own."""
    if config.model_spec is not None:
        return config.model_spec.trainer
    stock_class = recbole.utils.get_trainer(config["MODEL_TYPE"], config["model"])
    return compat.adapt_trainer(stock_class)


def _plain(result: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if result is None else {key: float(value) for key, value in result.items()}
