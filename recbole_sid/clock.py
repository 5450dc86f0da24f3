"""How long things took and will take, and how much memory they had."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recbole_sid.memory import peak_memory_mb


class Clock:
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)

    def add(self, stage: str, seconds: float) -> None:
        """Count time that a stage took before, in a process that was killed."""
        self.seconds[stage] = round(self.seconds[stage] + seconds, 3)

    def report(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds | {"total": round(sum(self.seconds.values()), 3)},
            "peak_memory_mb": peak_memory_mb(),
            "threads": torch.get_num_threads(),
        }


class EpochClock:
    """How long a training has taken, over all processes that worked on it, and how long it needs.

    Attributes:
        before: seconds that were spent on it before this process.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self._start = time.perf_counter()

    def start(self) -> None:
        """From here on this process trains."""
        self._start = time.perf_counter()

    @property
    def here(self) -> float:
        """Seconds in this process."""
        return time.perf_counter() - self._start

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.before + self.here

    def left(self, done: int, ahead: int) -> str:
        """What to say after ``done`` epochs of this process with ``ahead`` more to come."""
        if not ahead:
            return "the last one"
        return f"at most about {spelled(self.here / done * ahead)} left"


def spelled(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
