"""Stage 2: RecBole's trainer, fed with whole sequences, evaluated on ranked ids, resumable.

RecBole's loop of epochs, validation and early stopping stays as it is. What differs: an epoch runs
over packed windows (or single prefixes) with a learning-rate schedule and mixed precision;
evaluation takes ranked ids; the checkpoint is safetensors and plain data.

In several processes (:mod:`recbole_sid.distributed`) each takes its share of the rows of every
batch, and a step is that of one process up to rounding and the masks of dropout, which each draws
for itself. A part of a loss that compares the rows of a batch with each other (H2Rec's alignments)
sees the share alone, and one that is a mean over something else than targets (IntRR's
reconstruction) is weighted by targets all the same. Lists are made of whole evaluation batches, in
shares too, and measured together.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import set_color
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from recbole_sid import distributed, run_folder
from recbole_sid.checkpoint import save_state
from recbole_sid.clock import EpochClock
from recbole_sid.compat import tensorboard_in
from recbole_sid.errors import InputError
from recbole_sid.evaluation import HistoryExclusion, TopKCollector, WeightedEvaluator
from recbole_sid.model.filters import UnavailableItems
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.out_of_memory import RANKING, TRAINING, memory_for
from recbole_sid.precision import resolve_precision
from recbole_sid.seeds import random_state, set_random_state, stage_seed
from recbole_sid.settings import build
from recbole_sid.tokenizer.finite import weights_are_finite
from recbole_sid.training_data import TrainingData
from recbole_sid.training_settings import TrainingSettings, lr_factor
from recbole_sid.training_state import (
    STATE_FORMAT,
    agree_on_sampling,
    check_sequences,
    read_state,
    sampling_state,
    set_sampling_state,
)
from recbole_sid.weights import load_weights, save_weights


class SIDTrainer(Trainer):
    """Trains and evaluates a :class:`SIDRecommender`.

    Its folder is the config's ``checkpoint_dir``. ``model.safetensors`` there holds the weights of
    the best epoch. ``training.pt``, everything needed to go on from the last epoch (tensors and
    plain data), is written only when ``resumable`` is set, as :func:`recbole_sid.run` does.

    A trainer that ``run`` did not start, such as one of stock ``run_recbole`` or ``HyperTuning``,
    works in ``<run folder>-stock``: what it writes neither replaces the weights of a finished run
    nor stands in the way of one.
    """

    model: SIDRecommender
    resumable: bool = False
    # The training and the validation split, in this order: what users had before a later one is
    # read from them (exclude_history). ``fit`` sets them.
    splits: tuple[Any, ...] = ()

    def __init__(self, config, model: SIDRecommender):
        self.world = distributed.current()
        folder = Path(config["checkpoint_dir"])
        with tensorboard_in(folder if self.world.leads else None):
            super().__init__(config, model)
        self.settings = build(TrainingSettings, config.final_config_dict)
        self.dtype = resolve_precision(self.settings.precision, self.device)
        self.eval_collector = TopKCollector(config, model.generator.catalogue)
        self.evaluator = WeightedEvaluator(config)
        self.exclusion = HistoryExclusion(config)
        catalogue = model.generator.catalogue
        self.unavailable = UnavailableItems(config, catalogue, model.sids.tokens)
        self.saved_model_file = str(folder / run_folder.WEIGHTS)
        self.state_file: Path = folder / run_folder.STATE
        self.data: TrainingData | None = None
        self.scheduler: LambdaLR | None = None
        self._to_restore: dict[str, Any] | None = None
        self.clock = EpochClock()
        # Of each batch that is evaluated, whether this process makes its lists.
        self._turns: Iterator[bool] = itertools.repeat(True)

    def _build_optimizer(self, **kwargs):
        """RecBole's optimizer with its step in one kernel: else it took a third of a batch."""
        optimizer = super()._build_optimizer(**kwargs)
        for group in optimizer.param_groups:
            if "fused" in group:
                group["fused"] = True
        return optimizer

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        self.data = TrainingData(train_data.dataset, self.config, self.model)
        self.splits = tuple(loader.dataset for loader in (train_data, valid_data) if loader)
        total = self.data.steps_per_epoch * self.epochs
        self.scheduler = LambdaLR(
            self.optimizer,
            lambda step: lr_factor(
                step, self.settings.lr_schedule, self.settings.warmup_steps, total
            ),
        )
        torch.manual_seed(stage_seed(self.config["seed"], "generator training") + self.world.rank)
        if self._to_restore is not None:
            self._restore(self._to_restore)
        self.world.agree(list(self.model.parameters()))
        self.save_state = saved and self.resumable
        self.clock.start()
        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False) -> float:
        """One pass over the training split; returns the mean loss of a batch.

        Raises:
            InputError: a loss or a weight is not finite, or the memory does not suffice.
        """
        with memory_for("stage 2, training", TRAINING, self.config.final_config_dict):
            return self._pass_over(epoch_idx, show_progress)

    def _pass_over(self, epoch_idx: int, show_progress: bool) -> float:
        assert self.data is not None, "fit() prepares the data"
        assert self.scheduler is not None, "fit() prepares the schedule"
        if self.save_state and epoch_idx > self.start_epoch:
            self._save_state(epoch_idx)
        self.model.train()
        total = torch.zeros((), device=self.device)
        batches = tqdm(
            self.data.epoch(epoch_idx),
            total=self.data.steps_per_epoch,
            ncols=100,
            desc=set_color(f"Train {epoch_idx:>5}", "pink"),
            disable=not show_progress,
        )
        for step, batch in enumerate(batches):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._gradients(batch, epoch_idx, step)
            if self.clip_grad_norm:
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            self.optimizer.step()
            self.scheduler.step()
            total += loss
            if show_progress and step % 20 == 0:
                batches.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
        # A last step can spoil weights whose loss was still good: such a state is never saved.
        if not weights_are_finite(self.model):
            raise self._not_finite("weights are NaN or infinite after", epoch_idx, step)
        # Different processors round differently.
        self.world.agree(list(self.model.parameters()))
        return (total / self.data.steps_per_epoch).item()

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses) -> str:
        """RecBole's line of an epoch, and how many there are and how long they will take."""
        line = super()._generate_train_loss_output(epoch_idx, s_time, e_time, losses)
        done, ahead = epoch_idx + 1 - self.start_epoch, self.epochs - epoch_idx - 1
        return f"{line}, {epoch_idx + 1} of {self.epochs}, {self.clock.left(done, ahead)}"

    def _gradients(self, batch: list[Tensor], epoch: int, step: int) -> Tensor:
        """Leave the gradients of a batch's mean loss at the weights; gives the loss.

        Raises:
            InputError: the loss is not finite; then it is so in all processes.
        """
        if self.world.alone:
            loss = self._loss(batch)
            self._check_finite(loss, epoch, step)
            loss.backward()
            return loss.detach()
        own = [self.world.strided(rows) for rows in batch]
        share = int((own[-1] > 0).sum()) / int((batch[-1] > 0).sum())  # of the targets
        value = torch.zeros((), device=self.device)
        if share > 0:  # a batch may have fewer rows than there are processes
            loss = share * self._loss(own)
            loss.backward()
            value = loss.detach()
        value = self.world.sum_gradients(self.model.parameters(), value)
        self._check_finite(value, epoch, step)
        return value

    def _loss(self, batch: list[Tensor]) -> Tensor:
        """The mean loss over the targets of ``batch``."""
        on_device = [tensor.to(self.device) for tensor in batch]
        with torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        ):
            if self.model.generator.packs:
                return self.model.generator.packed_loss(*on_device)
            return self.model.generator.prefix_loss(*on_device)

    def _check_finite(self, loss: Tensor, epoch: int, step: int) -> None:
        if not torch.isfinite(loss):
            raise self._not_finite(f"the loss is {loss.item()} in", epoch, step)

    def _not_finite(self, found: str, epoch: int, step: int) -> InputError:
        kept = "No state was saved yet"
        if self.save_state and self.state_file.is_file():
            kept = (
                f"The last good state, of the start of epoch {epoch}, is '{self.state_file}': "
                "--resume goes on from it with these settings, others start anew with --overwrite"
            )
        best = Path(self.saved_model_file)
        if best.is_file():
            kept += f". Weights of an earlier epoch are in '{best}'"
        return InputError(
            f"stage 2, training of {self.config['model']}: {found} epoch {epoch}, batch {step}. "
            f"Lower learning_rate ({self.config['learning_rate']}), raise warmup_steps "
            f"({self.settings.warmup_steps}), set clip_grad_norm: {{max_norm: 1.0}}, or use "
            f"precision: float32. {kept}"
        )

    def _full_sort_batch_eval(self, batched_data):
        interaction, _, positive_u, targets = batched_data
        excluded, targets = self.exclusion.next_rows(targets, self.device)
        on_device = interaction.to(self.device)
        available, targets = self.unavailable.next_rows(on_device, targets)
        ranked = None
        if next(self._turns):
            ranked = self.model.rank(on_device, max(self.config["topk"]), excluded, available)
        return interaction, ranked, positive_u, targets

    def _neg_sample_batch_eval(self, batched_data):
        if next(self._turns):
            return super()._neg_sample_batch_eval(batched_data)
        interaction, _, positive_u, positive_i = batched_data
        return interaction, None, positive_u, positive_i

    def evaluate(
        self, eval_data, load_best_model=True, model_file=None, show_progress=False
    ) -> OrderedDict | None:
        """RecBole's metrics, and the SID-level figures of the same lists behind them.

        Of several processes each goes through all batches, so that all draw the same candidates
        (``uni100``), but makes the lists of its own ones; the first measures them together, and
        tells the others.
        """
        if not eval_data:
            return None
        if load_best_model:
            self.world.meet()  # the first process may be writing them
            load_weights(self.model, model_file or self.saved_model_file)
        agree_on_sampling(self.world)
        own = self.world.block(len(eval_data))
        self._turns = iter([batch in own for batch in range(len(eval_data))])
        self.exclusion.start(eval_data.dataset, self.splits)
        self.unavailable.start(eval_data.dataset)
        with memory_for("stage 2, evaluation", RANKING, self.config.final_config_dict):
            result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        result.update(self.eval_collector.sid_metrics())
        self.exclusion.report()
        self.unavailable.report()
        if self.world.alone:
            return result
        return OrderedDict(self.world.told(_plain(result)))

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        if not self.world.leads:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save_weights(self.model, path, epoch)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _save_state(self, next_epoch: int) -> None:
        """Write what the next epoch starts from."""
        assert self.data is not None, "fit() prepares the data"
        assert self.scheduler is not None, "fit() prepares the schedule"
        random = random_state(self.device)
        of_all = [self.world.collected(part[None]) for part in random]  # (processes, bytes) each
        if not self.world.leads:
            return
        state = {
            "format": STATE_FORMAT,
            "data": self.data.fingerprint,
            "sids": self.model.sids.fingerprint(),
            "settings": self.config.settings_hash(),
            "next_epoch": next_epoch,
            "seconds": self.clock.seconds,
            "cur_step": int(self.cur_step),
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": _plain(self.best_valid_result),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "random": random,
            "sampling": sampling_state(),
        }
        if not self.world.alone:
            state["random_of_all"] = of_all
        save_state(self.state_file, state)

    def resume_checkpoint(self, resume_file) -> None:
        """Go on from a ``training.pt`` of the same settings and SIDs when ``fit`` is called.

        Raises:
            InputError: as :func:`read_state`.
        """
        self._to_restore = read_state(resume_file, self.config, self.model)

    def _restore(self, state: dict[str, Any]) -> None:
        assert self.data is not None, "fit() prepares the data"
        assert self.scheduler is not None, "fit() prepares the schedule"
        check_sequences(state, self.data, self.state_file)
        self.start_epoch = state["next_epoch"]
        self.clock.before = state["seconds"]
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        of_all = state.get("random_of_all", [part[None] for part in state["random"]])
        # With more processes than there were, the further ones begin anew.
        if self.world.rank < len(of_all[0]):
            # Copies: torch crashes on a state that does not start its storage.
            own = [part[self.world.rank].clone() for part in of_all]
            set_random_state(own, self.device)
        set_sampling_state(state["sampling"])
        self.logger.info(f"Resuming from epoch {self.start_epoch}")


def _plain(result: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if result is None else {key: float(value) for key, value in result.items()}
