"""Where log lines go: the terminal, and the log of the run folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from recbole_sid.errors import InputError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MANY = 1_000_000
_ours = logging.getLogger("recbole_sid")


class _PlainFormatter(logging.Formatter):
    """Without the terminal colours that RecBole writes into its messages."""

    def format(self, record: logging.LogRecord) -> str:
        return _COLOUR.sub("", super().format(record))


class _Held(MemoryHandler):
    """Holds lines back until they have a target; from then on they pass at once."""

    def __init__(self) -> None:
        super().__init__(_MANY, flushLevel=logging.CRITICAL + 1)

    def pass_to(self, target: logging.Handler) -> None:
        self.setTarget(target)
        self.flush()
        self.capacity = 1

    def close(self) -> None:
        target = self.target
        super().close()
        if target is not None:
            target.close()


class _Terminal(_Held):
    """Lets our own lines through, such as the progress of stage 1; RecBole's wait."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = logging.StreamHandler()
        self.lines.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        if self.target is None and record.name.startswith("recbole_sid"):
            self.lines.handle(record)
        else:
            super().emit(record)


class RunLog:
    """The lines of a run; until it is known that the run has a folder, RecBole's are held back.

    Input that is refused before then leaves the terminal to the line of the error.
    """

    def __init__(self) -> None:
        self.file = _Held()
        self.terminal = _Terminal()

    def write_to(self, path: Path) -> None:
        """Append to ``path``, and print, what was held back, and every line from now on at once."""
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.file.pass_to(file)
        self.show()

    def show(self) -> None:
        """Print what was held back, and every line from now on at once."""
        if self.terminal.target is None:
            self.terminal.pass_to(self.terminal.lines)


@contextmanager
def logging_run() -> Iterator[RunLog]:
    """Log to the terminal and to the file that :class:`RunLog` is given, while the block runs.

    RecBole logs through the root logger, so the handlers are put there; they and the root's level
    are taken back afterwards. An error that is not about the input prints what was held back.
    """
    root = logging.getLogger()
    level = root.level
    run_log = RunLog()
    handlers = (run_log.terminal, run_log.file)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield run_log
    except InputError:
        raise
    except BaseException:
        run_log.show()
        raise
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Our lines go to ``path`` too, behind what it holds."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _ours.addHandler(handler)
    try:
        yield
    finally:
        _ours.removeHandler(handler)
        handler.close()
