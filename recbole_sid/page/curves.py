"""Training curves, from the TensorBoard events that RecBole's trainers leave in a run's folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# RecBole's names for them (recbole/trainer/trainer.py); the second one is spelled so there.
LOSS = "Loss/Train"
SCORE = "Vaild_score"


@dataclass(frozen=True)
class Curves:
    """(epoch from 1, value) pairs; a resumed run counts its last value of an epoch.

    ``loss``: mean of the training loss. ``score``: the validation metric of the run.
    """

    loss: tuple[tuple[int, float], ...]
    score: tuple[tuple[int, float], ...]


def read_curves(folder: Path) -> Curves | None:
    """The curves of the run in ``folder``; None if it holds no events."""
    if not any(folder.glob("events.out.tfevents.*")):
        return None
    # It tells on the root logger how often a resumed run went back.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    loss, score = (
        tuple(sorted({event.step + 1: event.value for event in events.Scalars(tag)}.items()))
        if tag in tags
        else ()
        for tag in (LOSS, SCORE)
    )
    return Curves(loss, score) if loss or score else None
