"""What RecBole 1.2.1 needs to be right on today's packages; each fix says why it is here.

RecBole is subclassed, not patched. Two things cannot be reached that way and are switched for the
length of one call: the folder of TensorBoard events and, on request, torch's reading of pickles.
How its files are read is a third, see :mod:`recbole_sid.datasets`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import recbole.data.dataset.dataset
import recbole.data.utils
import recbole.trainer.trainer
import recbole.utils
import torch
from recbole.evaluator import Collector
from recbole.trainer import Trainer
from torch.utils.tensorboard import SummaryWriter

from recbole_sid import registry, seals
from recbole_sid.checkpoint import load_state, save_state
from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.versions import check_versions

__all__ = [
    "FixedCollector",
    "adapt_trainer",
    "check_versions",
    "get_model",
    "import_sequential_models",
    "numpy_aliases",
    "pretrained_loading",
    "tensorboard_in",
]

_logger = logging.getLogger("recbole_sid")
_TRAIN_AGAIN = "train the model again here"

_ALIASES = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
}


def numpy_aliases() -> None:
    """Give numpy back the names that RecBole's metrics use (recbole/evaluator/metrics.py:90, 190).

    RecBole does this when a Config is built, so a metric that runs in a process without one, for
    instance after loading a saved model, fails with "numpy has no attribute 'float'".
    """
    for name, dtype in _ALIASES.items():
        setattr(np, name, dtype)


def get_model(name: str) -> Any:
    """The class of the model ``name``, ours or RecBole's.

    RecBole looks for an unknown name among its lightgbm models last, so a typo is reported as
    "No module named 'lightgbm'" (recbole/utils/utils.py:64-78).

    Raises:
        InputError: no such model (the nearest names are given), or it needs lightgbm and xgboost
            and they are not installed.
    """
    ours = registry.model(name)
    if ours is not None:
        return ours.recommender
    stock = registry.recbole_models()
    if name not in stock:
        known = [*registry.model_names(), *stock]
        raise InputError(
            f"unknown model '{name}'.{did_you_mean(name, known)} Models of recbole_sid: "
            f"{', '.join(registry.model_names())}; the others are RecBole's."
        )
    if stock[name] == "exlib_recommender":
        needed = ("lightgbm", "xgboost")
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            raise InputError(
                f"model '{name}' needs packages that are not installed: "
                f"pip install {' '.join(missing)}"
            )
    import_sequential_models()
    return recbole.utils.get_model(name)


def import_sequential_models() -> None:
    """Import RecBole's sequential models and leave torch as it was.

    One of them, SINE, switches anomaly detection on for the whole process when it is imported
    (recbole/model/sequential_recommender/sine.py:25), which slows every backward pass.
    """
    before = torch.is_anomaly_enabled()
    try:
        importlib.import_module("recbole.model.sequential_recommender")
    finally:
        torch.autograd.set_detect_anomaly(before)


@contextmanager
def pretrained_loading() -> Iterator[None]:
    """Let ``torch.load`` read whole pickles while the block runs: use it only for your own files.

    S3Rec, NeuMF, RaCT, ConvNCF, NAIS and KD_DAGFM read a pretrained file in their constructors
    (recbole/model/sequential_recommender/s3rec.py:120), which torch >= 2.6 refuses, since RecBole's
    files hold a live Config. A pickle can run code when it is read.
    """
    key = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


@contextmanager
def tensorboard_in(folder: str | Path | None) -> Iterator[None]:
    """TensorBoard events of trainers that are built in the block go into ``folder``, or nowhere.

    RecBole's trainers write into ``./log_tensorboard`` of the working directory, from inside their
    constructor (recbole/trainer/trainer.py:115, recbole/utils/utils.py:220), and offer no setting.
    """
    module = recbole.trainer.trainer
    before = module.get_tensorboard
    module.get_tensorboard = lambda logger: (
        _NoEvents() if folder is None else SummaryWriter(str(folder))
    )
    try:
        yield
    finally:
        module.get_tensorboard = before


class _NoEvents:
    """What a trainer asks of a SummaryWriter, and nothing is written."""

    def add_scalar(self, *args: Any) -> None: ...

    def add_hparams(self, *args: Any) -> None: ...

    def close(self) -> None: ...


class FixedCollector(Collector):
    """RecBole's collector, for metrics that count items too.

    The stock one calls ``.cpu()`` on everything it holds, ints and Counters among it, so
    ItemCoverage, GiniIndex, AveragePopularity and TailPercentage fail
    (recbole/evaluator/collector.py:226-227).
    """

    def get_data_struct(self) -> Any:
        held = self.data_struct
        counts = {k: v for k, v in held._data_dict.items() if not isinstance(v, torch.Tensor)}
        for key in counts:
            del held[key]
        collected = super().get_data_struct()
        for key, value in counts.items():
            held.set(key, value)
            collected.set(key, value)
        return collected


@cache
def adapt_trainer(trainer_cls: type) -> type:
    """A subclass of a RecBole trainer, with the same metrics, that works on today's torch.

    Counting metrics work, TensorBoard events go into the checkpoint folder, and trained weights
    can be loaded again (see :class:`FixedCollector`, :func:`tensorboard_in` and
    :class:`_Checkpoints`).
    """
    mixins = (_Checkpoints, _Surroundings) if issubclass(trainer_cls, Trainer) else (_Surroundings,)
    return type(trainer_cls.__name__, (*mixins, trainer_cls), {"__module__": __name__})


class _Surroundings:
    """Mixin for all trainers: where events go, and what collects for the metrics."""

    def __init__(self, config: Any, model: Any) -> None:
        with tensorboard_in(config["checkpoint_dir"]):
            super().__init__(config, model)  # type: ignore[call-arg]
        self.eval_collector = FixedCollector(config)


class _Checkpoints:
    """Mixin: checkpoints that torch >= 2.6 opens.

    Stock files hold a live Config in a pickle protocol that ``weights_only=True``, torch's default,
    refuses, so a whole run is lost when its test set is scored (recbole/trainer/trainer.py:308,
    323, 583). Here the Config's place is taken by plain data. Some models (FDSA, EASE …) also keep
    modules or sparse matrices in the file: those are read back only by the trainer that wrote them.
    """

    config: Any
    model: Any
    optimizer: Any
    logger: Any
    device: torch.device
    saved_model_file: str
    cur_step: int
    best_valid_score: Any

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self._written: dict[str, str] = {}

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        state = {
            "config": {"model": self.config["model"], "dataset": self.config["dataset"]},
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(Path(path), state)
        self._written[os.path.realpath(path)] = _checksum(path)
        if verbose:
            self.logger.info(f"Saved checkpoint: {path}")

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        path = str(resume_file)
        mine = self._is_mine(path)
        if not mine:
            load_state(Path(path), self.device, _TRAIN_AGAIN)  # refuses all but plain data
        with pretrained_loading() if mine else nullcontext():
            super().resume_checkpoint(path)  # type: ignore[misc]

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        if eval_data and load_best_model:
            path = model_file or self.saved_model_file
            if self._is_mine(path):
                checkpoint = torch.load(path, map_location=self.device, weights_only=False)
            else:
                checkpoint = load_state(Path(path), self.device, _TRAIN_AGAIN)
            self.model.load_state_dict(checkpoint["state_dict"])
            self.model.load_other_parameter(checkpoint["other_parameter"])
            self.logger.info(f"Loaded checkpoint: {path}")
        return super().evaluate(  # type: ignore[misc]
            eval_data, load_best_model=False, show_progress=show_progress
        )

    def _is_mine(self, path: str) -> bool:
        """Whether this very object wrote the file, as it is now.

        Raises:
            InputError: it is missing, damaged or no checkpoint of ours.
        """
        return self._written.get(os.path.realpath(path)) == _checksum(path)


def _checksum(path: str) -> str:
    seal = seals.check(Path(path), _TRAIN_AGAIN)
    assert seal is not None, "a seal is required"
    return seal.sha256
