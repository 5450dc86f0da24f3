"""A loss or weights that are not finite end the training of a tokenizer, with the batch named."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError


class FiniteWatch:
    """Looks at every loss of a training, epoch by epoch; both count from 1.

    On a CPU a bad loss stops at once, before the weights follow it. On another device the first bad
    batch is noted there and told at the end of the epoch, so that no step waits for the device.

    Args:
        name: of the tokenizer.
        remedy: what to change, with the present values.
        checkpoint: where good states are kept, if they are.
    """

    def __init__(
        self, name: str, remedy: str, checkpoint: Checkpoint | None, device: torch.device
    ) -> None:
        self.name, self.remedy, self.checkpoint = name, remedy, checkpoint
        self.at_once = device.type == "cpu"
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = self.batch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Count the batches of ``epoch`` anew."""
        self.epoch, self.batch = epoch, 0
        self.first_bad.zero_()

    def see(self, loss: Tensor) -> None:
        """Look at the loss () of the next batch, before its backward pass."""
        self.batch += 1
        finite = torch.isfinite(loss.detach())
        if not self.at_once:
            unseen = ~finite & (self.first_bad == 0)
            self.first_bad.masked_fill_(unseen, self.batch)
        elif not finite:
            found = loss.item()
            raise self._error(f"the loss is {found} in epoch {self.epoch}, batch {self.batch}")

    def end_epoch(self, model: nn.Module) -> None:
        """Look at what the epoch left: its losses elsewhere than on a CPU, and the weights.

        A last step can spoil weights whose loss was still good; such a state is never saved.

        Raises:
            InputError: one is not finite.
        """
        if batch := int(self.first_bad):
            raise self._error(f"the loss is not finite in epoch {self.epoch}, batch {batch}")
        if not weights_are_finite(model):
            raise self._error(
                f"weights are NaN or infinite after epoch {self.epoch}, batch {self.batch}"
            )

    def _error(self, found: str) -> InputError:
        state = "No state was saved yet"
        if self.checkpoint is not None and self.checkpoint.path.is_file():
            state = (
                f"The last good state is '{self.checkpoint.path}': the same command goes on from "
                "it, one with other settings starts anew"
            )
        return InputError(f"stage 1, tokenizer {self.name}: {found}. {self.remedy}. {state}")


@torch.no_grad()
def weights_are_finite(model: nn.Module) -> bool:
    """Whether all weights are finite numbers; one look at the device."""
    checks = [p.isfinite().all() for p in model.parameters()]
    return not checks or bool(torch.stack(checks).all())
