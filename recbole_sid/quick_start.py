"""Run, load, register: the functions that the command line and notebooks call."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import recbole.quick_start.quick_start as stock
import recbole.trainer
import recbole.utils
import torch
import yaml
from recbole.data.dataset import Dataset
from recbole.utils import init_seed

from recbole_sid import compat, registry
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.logs import log_to
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.trainer import SIDTrainer, load_weights
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")


class LoadedRun(NamedTuple):
    """A trained run, as :func:`load` gives it back."""

    config: Config
    dataset: Dataset
    model: Any
    train_data: Any
    valid_data: Any
    test_data: Any


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    command_line: Sequence[str] | None = (),
) -> dict[str, Any]:
    """Train and test one model, ours or RecBole's; everything it makes is in one folder.

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
        SIDs), ``run_folder`` and ``timing``.

    Raises:
        InputError: bad input, before anything is trained or overwritten.
    """
    config = Config(model, dataset, config_file_list, config_dict, command_line)
    folder = config.run_folder
    finished = _refuse_or_reuse(config, folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    with log_to(folder / "run.log"):
        return _run(config, folder, saved)


def _run(config: Config, folder: Path, saved: bool) -> dict[str, Any]:
    clock = Clock()
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_plain(), sort_keys=True))
    logger.info("%s on %s, run folder %s", config["model"], config["dataset"], folder)
    with clock("data"):
        init_seed(config["seed"], config["reproducibility"])
        data = compat.create_dataset(config)
        logger.info(data)
        train_data, valid_data, test_data = compat.data_preparation(config, data)
    with clock("tokenize"):
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        recommender = compat.get_model(config["model"])(config, train_data.dataset)
        recommender = recommender.to(config["device"])
        if isinstance(recommender, SIDRecommender):
            recommender.sids.save(folder / "sids.json")
    logger.info(recommender)
    trainer = trainer_class(config)(config, recommender)
    if isinstance(trainer, SIDTrainer) and config.run.resume and trainer.state_file.is_file():
        trainer.resume_checkpoint(trainer.state_file)
    with clock("train"):
        best_score, best_result = trainer.fit(
            train_data, valid_data, saved=saved, show_progress=bool(config["show_progress"])
        )
    with clock("test"):
        test_result = trainer.evaluate(
            test_data, load_best_model=saved, show_progress=bool(config["show_progress"])
        )
    result = {
        "best_valid_score": float(best_score),
        "valid_score_bigger": bool(config["valid_metric_bigger"]),
        "best_valid_result": _plain(best_result),
        "test_result": _plain(test_result),
    }
    if isinstance(recommender, SIDRecommender):
        result["sid"] = {f"sid/{key}": v for key, v in quality(recommender.sids).items()}
    timing = clock.report()
    identity = {
        "model": config["model"],
        "dataset": config["dataset"],
        "settings_hash": config.settings_hash(),
        "recbole_sid": __version__,
    }
    _write_json(folder / "timing.json", timing)
    _write_json(folder / "result.json", identity | result)
    (folder / "training.pt").unlink(missing_ok=True)
    logger.info("best valid: %s", best_result)
    logger.info("test: %s", test_result)
    logger.info("seconds: %s, results in %s", timing["seconds"], folder)
    return result | {"run_folder": str(folder), "timing": timing}


def load(run_folder: str | Path) -> LoadedRun:
    """A finished run of ours again: config, data and model with its best weights.

    Args:
        run_folder: the folder that :func:`run` wrote.

    Raises:
        InputError: not a run folder, a built-in RecBole model's, or its dataset has changed.
    """
    folder = Path(run_folder)
    for name in ("config.yaml", "sids.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(
                f"'{folder}' has no {name}: it is not the folder of a finished run of a recbole_sid "
                "model"
            )
    config = Config(
        config_file_list=[str(folder / "config.yaml")], config_dict={"output": str(folder)}
    )
    compat.numpy_aliases()
    init_seed(config["seed"], config["reproducibility"])
    dataset = compat.create_dataset(config)
    loaders = compat.data_preparation(config, dataset)
    sids = SemanticIDs.load(folder / "sids.json")
    model = SIDRecommender(config, loaders[0].dataset, sids).to(config["device"])
    load_weights(model, folder / "model.safetensors")
    model.eval()
    return LoadedRun(config, dataset, model, *loaders)


def load_data_and_model(model_file: str | Path) -> tuple[Any, ...]:
    """RecBole's function of this name, for our checkpoints.

    Args:
        model_file: ``model.safetensors`` in a run folder.

    Returns:
        (config, model, dataset, train_data, valid_data, test_data).
    """
    loaded = load(Path(model_file).parent)
    loaders = (loaded.train_data, loaded.valid_data, loaded.test_data)
    return loaded.config, loaded.model, loaded.dataset, *loaders


def trainer_class(config: Config) -> Any:
    """Ours for our models; RecBole's, adapted to today's torch, for its own."""
    if config.model_spec is not None:
        return config.model_spec.trainer
    stock_class = recbole.utils.get_trainer(config["MODEL_TYPE"], config["model"])
    return compat.adapt_trainer(stock_class)


_STOCK = {"Config": stock.Config, "get_model": stock.get_model, "get_trainer": stock.get_trainer}


def register() -> None:
    """Let RecBole's own ``run_recbole``, ``objective_function`` and ``HyperTuning`` find our models.

    It replaces three names in ``recbole.quick_start.quick_start``: ``Config``, ``get_model`` and
    ``get_trainer``. This is the one place where RecBole is patched; :func:`unregister` undoes it.
    ``Config`` then also reads ``sys.argv``, as RecBole's does.
    """
    stock.Config = partial(Config, command_line=None)
    stock.get_model = compat.get_model
    stock.get_trainer = _get_trainer


def unregister() -> None:
    """Undo :func:`register`."""
    for name, original in _STOCK.items():
        setattr(stock, name, original)


def _get_trainer(model_type: Any, model_name: str) -> Any:
    spec = registry.model(model_name)
    if spec is not None:
        return spec.trainer
    return compat.adapt_trainer(recbole.utils.get_trainer(model_type, model_name))


class Clock:
    """Seconds of every stage, and the peak memory of the process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)

    def report(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobyte = 1 if sys.platform == "darwin" else 1024
        return {
            "seconds": self.seconds | {"total": round(sum(self.seconds.values()), 3)},
            "peak_memory_mb": round(peak * kilobyte / 2**20, 1),
            "threads": torch.get_num_threads(),
        }


def _refuse_or_reuse(config: Config, folder: Path) -> dict[str, Any] | None:
    """The stored result of a finished run of the same settings; an error where work would be lost."""
    if config.run.overwrite:
        return None
    done = folder / "result.json"
    if done.is_file():
        result = json.loads(done.read_text())
        if result.get("settings_hash") != config.settings_hash():
            raise InputError(
                f"'{folder}' holds a run of other settings. Choose another --output, or "
                "--overwrite to replace it"
            )
        logger.warning(
            "This run is finished already, its stored result follows; --overwrite runs it again. %s",
            folder,
        )
        timing = json.loads((folder / "timing.json").read_text())
        return result | {"run_folder": str(folder), "timing": timing}
    if (folder / "training.pt").is_file() and not config.run.resume:
        raise InputError(
            f"'{folder}' holds an unfinished run. Go on with --resume, or start anew with --overwrite"
        )
    return None


def _plain(result: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if result is None else {key: float(value) for key, value in result.items()}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)
