"""Files that appear whole or not at all, even if the process is killed while it writes them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recbole_sid.errors import InputError

REMEDY = "make room, allow writing or name another place, and do it again"


class CannotWrite(InputError, OSError):
    """A file could not be written: a full disk, a lost permission. What was there before stays."""


@contextmanager
def written_whole(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """A name beside ``path`` to write to; at the end of the block, the file moves to ``path``.

    It is on the disk before it has its name, so that a loss of power leaves the old file or the
    new one. The name, ``.<name>.<process id>.tmp``, keeps processes that write the same file
    apart. Only a process that is killed leaves it behind, for :func:`remove_leftovers`.

    Args:
        remedy: what the user can do where it cannot be written.

    Raises:
        CannotWrite: the file system refuses it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except CannotWrite:
        raise
    except OSError as error:
        about = (None, str(temporary), str(path), str(path.parent))
        if error.filename is not None and str(error.filename) not in about:
            raise  # of another file, such as one that is read
        reason = error.strerror or str(error)
        raise CannotWrite(f"'{path}' cannot be written ({reason}): {remedy}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, names: Iterable[str] = ("*",), seconds: float = 0) -> None:
    """Remove what killed processes had half written.

    Args:
        folder: where they wrote.
        names: patterns of the names of the files that they wrote.
        seconds: how long nobody must have written, in folders where another process may be at work.
    """
    before = time.time() - seconds
    for name in names:
        for file in folder.glob(f".{name}.*.tmp"):
            if file.stat().st_mtime <= before:
                file.unlink(missing_ok=True)
