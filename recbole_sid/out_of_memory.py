"""Out of memory: one line that says what to lower. Nothing is ever lowered by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from recbole_sid.errors import InputError

# What torch says on a processor, on Windows, and of other devices; it has no class for all of them.
_SIGNS = ("DefaultCPUAllocator", "not enough memory", "out of memory")
_MOST_SAID = 200
# Settings that memory grows with, by stage, the strongest first.
ENCODING = ("text_encoder_batch_size", "item_image_batch_size")
TOKENIZING = ("tokenizer_batch_size", "tokenizer_codebook_size", "pair_neighbours")
ITEMS = (*ENCODING, "behaviour_batch_size", *TOKENIZING)
TRAINING = ("train_batch_size", "MAX_ITEM_LIST_LENGTH", "window_targets", "hidden_size")
RANKING = ("eval_batch_size", "beam_size", "MAX_ITEM_LIST_LENGTH")


class OutOfMemory(InputError):
    """There is too little memory for the settings."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch ran out of memory."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def memory_for(stage: str, keys: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[None]:
    """Turn the end of memory inside into an error that names the settings to lower.

    Args:
        stage: what is done inside, such as ``stage 2, training``.
        keys: settings that memory grows with; those that ``values`` lacks are left out.
        values: the settings of the run.

    Raises:
        OutOfMemory: in the place of what Python, NumPy or torch raise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        known = [f"{key} ({values[key]})" for key in keys if values.get(key) is not None]
        raise OutOfMemory(told(stage, known, error)) from error


def told(stage: str, settings: Sequence[str], error: BaseException) -> str:
    """The line of the error; without ``settings`` it speaks of batch sizes."""
    first = next(iter(str(error).splitlines()), "")[:_MOST_SAID]
    said = f" ({first})" if first else ""
    lower = " or ".join(settings) or "the batch sizes"
    return f"{stage}: out of memory{said}. Lower {lower}; nothing was lowered by itself"
