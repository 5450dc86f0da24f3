"""Locks: one process at a time makes a file of the cache, or works in an output folder.

The operating system holds a lock for as long as its process lives, so none outlives a killed
process: only its file may, which tells who held it, and the next process takes it over. Plain
reading takes no lock.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from recbole_sid.errors import InputError
from recbole_sid.files import CannotWrite

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("recbole_sid")

# Seconds between two looks at a lock, and between two lines in the log that one is waited for.
PAUSE = 0.5
TELL_EVERY = 60.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock; ``since`` in seconds of the epoch."""

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        age = max(0, round(time.time() - self.since))
        return f"process {self.pid} on {self.host} since {start} ({age} s ago)"


@contextmanager
def locked(file: Path, what: str, remedy: str | None = None) -> Iterator[None]:
    """Hold the lock ``file`` for the block; it is gone afterwards, with folders made for it.

    Args:
        what: what is locked, for messages.
        remedy: refuse a lock that another process holds, and say this; None waits for it.

    Raises:
        InputError: another process holds it.
        CannotWrite: the lock file cannot be made.
    """
    if fcntl is None:
        logger.warning("This system has no file locks: let no other process write %s", what)
        yield
        return
    made = _missing_above(file)
    handle = _acquired(file, what, remedy)
    try:
        yield
    finally:
        # In this order: who opens the file from now on makes a new one.
        with suppress(OSError):
            file.unlink()
        os.close(handle)
        for folder in made:
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def clear(file: Path) -> None:
    """Remove the lock ``file`` of a killed process; one that a process holds stays."""
    if file.exists():
        with suppress(InputError), locked(file, f"'{file}'", remedy="wait for it"):
            pass


def _missing_above(file: Path) -> list[Path]:
    """The folders that must be made for ``file``, the innermost first."""
    return [folder for folder in file.absolute().parents if not folder.exists()]


def _acquired(file: Path, what: str, remedy: str | None) -> int:
    told = -TELL_EVERY
    while True:
        handle = _opened(file, what)
        try:
            if _taken(handle, file):
                _sign(handle, what)
                return handle
            owner = _owner(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if remedy is not None:
            raise InputError(f"{what} is in use by {owner or 'another process'}: {remedy}")
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            logger.warning("Waiting for %s, at work on %s", owner or "another process", what)
        time.sleep(PAUSE)


def _opened(file: Path, what: str) -> int:
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its last owner has just removed the folder
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CannotWrite(
            f"{what} cannot be written: the lock '{file}' cannot be made ({error.strerror}). Allow "
            "writing there, or name another folder"
        ) from error


def _taken(handle: int, file: Path) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Files still appear whole there; two processes may do the same work.
        logger.warning("The file system of '%s' has no locks (%s)", file, error.strerror)
        return True
    # Its last owner may have removed it between our opening and our locking it.
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), file.stat())
    return False


def _sign(handle: int, what: str) -> None:
    """Write who holds the lock; tell of an owner who could not remove it."""
    before = _owner(handle)
    if before is not None:
        logger.warning("%s was left locked by %s, which was killed: going on", what, before)
    owner = Owner(os.getpid(), socket.gethostname(), time.time())
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(owner)).encode(), 0)


def _owner(handle: int) -> Owner | None:
    """The process that wrote into the lock; None where it has not yet."""
    try:
        return Owner(**json.loads(os.pread(handle, 1000, 0)))
    except (ValueError, TypeError):
        return None
