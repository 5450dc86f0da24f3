"""RecBole's own trainer for our click models, with weights as our other runs keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_sid import run_folder
from recbole_sid.compat import adapt_trainer
from recbole_sid.errors import InputError
from recbole_sid.weights import load_weights, save_weights

_Adapted: Any = adapt_trainer(Trainer)


class ClickTrainer(_Adapted):
    """Trains a :class:`.ClickModel`; ``model.safetensors`` in its folder holds the best epoch."""

    def __init__(self, config: Any, model: Any):
        super().__init__(config, model)
        self.saved_model_file = str(Path(config["checkpoint_dir"]) / run_folder.WEIGHTS)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save_weights(self.model, path, epoch)
        if verbose:
            self.logger.info(f"Saved checkpoint: {path}")

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        if eval_data and load_best_model:
            load_weights(self.model, model_file or self.saved_model_file)
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def _check_nan(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise InputError(
                f"stage 2: the loss is {loss.item()}. Lower learning_rate, or set clip_grad_norm: "
                f"{{max_norm: 1.0}}. Weights of an earlier epoch, if there was one, are in "
                f"{self.saved_model_file}"
            )
