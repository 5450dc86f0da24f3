"""Where log lines go: the terminal, and the log of the run folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MANY = 1_000_000


class _PlainFormatter(logging.Formatter):
    """Without the terminal colours that RecBole writes into its messages."""

    def format(self, record: logging.LogRecord) -> str:
        return _COLOUR.sub("", super().format(record))


class RunLog(MemoryHandler):
    """Holds the lines of a run back until it is known that the run has a folder."""

    def __init__(self) -> None:
        super().__init__(_MANY, flushLevel=logging.CRITICAL + 1)

    def write_to(self, path: Path) -> None:
        """Append what was held back to ``path``, and every line from now on at once."""
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.setTarget(file)
        self.flush()
        self.capacity = 1

    def close(self) -> None:
        target = self.target
        super().close()
        if target is not None:
            target.close()


@contextmanager
def logging_run() -> Iterator[RunLog]:
    """Log to the terminal while the block runs, and to the file that :class:`RunLog` is given.

    RecBole logs through the root logger, so the handlers are put there; they and the root's level
    are taken back afterwards.
    """
    root = logging.getLogger()
    level = root.level
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    run_log = RunLog()
    handlers: list[logging.Handler] = [terminal, run_log]
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield run_log
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
