"""Run and load: the functions that the command line and notebooks call."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import recbole.utils
import torch
from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.utils import EvaluatorType, init_seed

from recbole_sid import compat, distributed, run_folder
from recbole_sid.comparison.outcomes import save_outcomes
from recbole_sid.config import Config
from recbole_sid.distributed import World
from recbole_sid.errors import InputError
from recbole_sid.evaluation import RecordingCollector
from recbole_sid.items.vectors import load_item_vectors, save_item_vectors
from recbole_sid.logs import RunLog, logging_run
from recbole_sid.memory import keep_freed_memory, peak_memory_mb
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.out_of_memory import ITEMS, RANKING, TRAINING, memory_for
from recbole_sid.ranking.base import ClickModel
from recbole_sid.settings import build
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.pipeline import item_vectors
from recbole_sid.tokenizer.stored_weights import save_tokenizer_weights
from recbole_sid.trainer import (
    SIDTrainer,
    TrainingData,
    TrainingSettings,
    check_sequences,
    read_state,
)
from recbole_sid.version import __version__
from recbole_sid.weights import load_weights

logger = logging.getLogger("recbole_sid")


class LoadedRun(NamedTuple):
    """A trained run, as :func:`load` gives it back."""

    config: Config
    dataset: Dataset
    model: Any


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
        _save_stage_1(folder, recommender)
    world.meet()
    if not world.leads:
        recommender = _stored_recommender(config, train_data.dataset)
    n_parameters = sum(p.numel() for p in recommender.parameters() if p.requires_grad)
    logger.info("Stage 2: %s, %s parameters", config["model"], f"{n_parameters:,}")
    trainer = trainer_class(config)(config, recommender)
    if isinstance(trainer, SIDTrainer):
        trainer.resumable = True
    else:
        trainer.eval_collector = RecordingCollector(config)
    if resuming:
        trainer.resume_checkpoint(state_file)
    show = bool(config["show_progress"])
    stage_2 = memory_for("stage 2, training", (*TRAINING, *RANKING), values)
    with clock("train"), stage_2, _nan_told(config, trainer):
        best_score, best_result = trainer.fit(
            train_data, valid_data, saved=saved, show_progress=show
        )
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
    if config.tokenizer_spec.cls.needs_vectors or _needs_vectors(config):
        item_vectors(config, _item_tokens(config, data), world)


def _item_tokens(config: Config, data: Dataset) -> tuple[str, ...]:
    return tuple(data.field2id_token[config["ITEM_ID_FIELD"]][1:].tolist())


def _save_stage_1(folder: Path, recommender: Any) -> None:
    """What stage 1 has made, in the files that :func:`_stored_recommender` reads."""
    if isinstance(recommender, SIDRecommender) and (vectors := recommender.vectors) is not None:
        save_item_vectors(folder / run_folder.VECTORS, vectors, recommender.sids.tokens)
    if isinstance(recommender, (SIDRecommender, ClickModel)):
        recommender.sids.save(folder / run_folder.SIDS)
        if (made := recommender.embeddings) is not None:
            save_item_vectors(folder / run_folder.EMBEDDINGS, made, recommender.sids.tokens)
        if (weights := recommender.tokenizer_weights) is not None:
            save_tokenizer_weights(folder / run_folder.TOKENIZER, weights)


def _stored_recommender(config: Config, training: Dataset) -> Any:
    """The model with the SIDs of its folder, and the vectors where it needs some; not trained."""
    assert config.model_spec is not None
    folder = config.run_folder
    given: dict[str, Any] = {"sids": SemanticIDs.load(folder / run_folder.SIDS)}
    if _needs_vectors(config):
        tokens = _item_tokens(config, training)
        given["vectors"] = load_item_vectors(folder / run_folder.VECTORS, None, tokens)
    model = config.model_spec.recommender(config, training, **given)
    return model.to(config["device"])


def _needs_vectors(config: Config) -> bool:
    """Whether the generator of one of our models reads the items' vectors."""
    assert config.model_spec is not None
    if config.model_spec.generator is None:
        return False
    return bool(config.generator_spec.cls.needs_vectors(config.generator_settings))


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


def read_data(config: Config) -> tuple[Dataset, tuple[Any, Any, Any]]:
    """RecBole's dataset, and its loaders of the training, validation and test split.

    Raises:
        InputError: RecBole cannot read or split the files, nothing is left to train on, or the
            lists that are scored are longer than the catalogue.
    """
    try:
        data = compat.create_dataset(config)
        loaders = compat.data_preparation(config, data)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"RecBole cannot read or split the data in '{config['data_path']}': "
            f"{type(error).__name__}: {str(error).rstrip('.')}. Look at the columns and their "
            "types, and at the settings that filter and split (val_interval, "
            "user_inter_num_interval, item_inter_num_interval, eval_args)"
        ) from error
    if len(loaders[0].dataset) == 0:
        raise InputError(
            f"the training split of '{config['dataset']}' is empty: no user has enough "
            "interactions after filtering. Relax user_inter_num_interval, item_inter_num_interval "
            "or val_interval"
        )
    n_items = data.item_num - 1
    if config["eval_type"] is EvaluatorType.RANKING and max(config["topk"]) > n_items:
        raise InputError(
            f"setting 'topk' is {config['topk']}, but must be at most {n_items}, the number of "
            f"items in '{config['dataset']}'"
        )
    for name, loader in zip(("validation", "test"), loaders[1:], strict=True):
        if len(loader.dataset) == 0:
            logger.warning("The %s split is empty: it is not measured", name)
    return data, loaders


def load(folder: str | Path) -> LoadedRun:
    """A finished run of ours again: config, dataset, and model with its best weights.

    The SIDs are those in the folder, so the files that stage 1 read need not exist any more. The
    dataset must lie where it lay, unchanged.

    Args:
        folder: the folder that :func:`run` wrote.

    Raises:
        InputError: not a run folder, a built-in RecBole model's, or its dataset has changed.
    """
    config, model, dataset, *_ = load_data_and_model(Path(folder) / run_folder.WEIGHTS)
    return LoadedRun(config, dataset, model)


def load_data_and_model(model_file: str | Path) -> tuple[Any, ...]:
    """RecBole's function of this name, for our checkpoints.

    Args:
        model_file: ``model.safetensors`` in a run folder.

    Returns:
        (config, model, dataset, train_data, valid_data, test_data).

    Raises:
        InputError: as :func:`load`.
    """
    return open_run(model_file, {})


def open_run(model_file: str | Path, changes: Mapping[str, Any]) -> tuple[Any, ...]:
    """``load_data_and_model`` with other settings than the run had; none may need training."""
    folder = require_finished(Path(model_file).parent, Path(model_file).name)
    config = Config(
        config_file_list=[str(folder / run_folder.CONFIG)],
        config_dict={"output": str(folder), **changes},
        stage_1=False,
    )
    if config.model_spec is None:
        raise InputError(f"'{folder}' holds a run of '{config['model']}', which is RecBole's model")
    run_folder.check_data(config)
    compat.numpy_aliases()
    init_seed(config["seed"], config["reproducibility"])
    dataset, loaders = read_data(config)
    if _needs_vectors(config):
        require_finished(folder, run_folder.VECTORS)
    model = _stored_recommender(config, loaders[0].dataset)
    load_weights(model, model_file)
    model.eval()
    return config, model, dataset, *loaders


def require_finished(folder: Path, weights: str = run_folder.WEIGHTS) -> Path:
    """``folder``; InputError when it is not that of a finished run of ours, or is damaged."""
    for name in (run_folder.CONFIG, run_folder.SIDS, run_folder.RESULT, weights):
        if not (folder / name).is_file():
            raise InputError(
                f"'{folder}' has no {name}: it is not the folder of a finished run of a "
                "recbole_sid model"
            )
    run_folder.check_finished(folder)
    return folder


def trainer_class(config: Config) -> Any:
    """Ours for our models; RecBole's, adapted to today's torch, for its own."""
    if config.model_spec is not None:
        return config.model_spec.trainer
    stock_class = recbole.utils.get_trainer(config["MODEL_TYPE"], config["model"])
    return compat.adapt_trainer(stock_class)


class Clock:
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)

    def report(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds | {"total": round(sum(self.seconds.values()), 3)},
            "peak_memory_mb": peak_memory_mb(),
            "threads": torch.get_num_threads(),
        }


def _plain(result: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if result is None else {key: float(value) for key, value in result.items()}
