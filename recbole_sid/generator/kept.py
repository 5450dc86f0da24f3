"""What evaluation makes of all items once, and keeps until a weight changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Kept(Generic[T]):
    """A value made of weights that costs more than a single request.

    It is kept only where nothing is trained. What tells one state of the weights from another is
    where each lies, and how often it was written to (which torch does not count in inference
    tensors: nothing trains them).
    """

    def __init__(self) -> None:
        self._found: tuple[tuple[tuple[int, int], ...], T] | None = None

    def get(self, module: nn.Module, weights: Iterable[Tensor | None], make: Callable[[], T]) -> T:
        """The value, made anew if ``module`` is trained or ``weights``, all that it is made of,
        have changed."""
        there = [weight for weight in weights if weight is not None]
        device = there[0].device.type
        if module.training or torch.is_grad_enabled() or torch.is_autocast_enabled(device):
            return make()
        state = tuple(
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in there
        )
        if self._found is None or self._found[0] != state:
            self._found = state, make()
        return self._found[1]

    def forget(self) -> None:
        self._found = None

    @property
    def empty(self) -> bool:
        return self._found is None
