"""Files that appear whole or not at all, even if the process is killed while it writes them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; at the end of the block, the file moves to ``path``.

    The name, ``.<name>.<process id>.tmp``, keeps processes that write the same file apart. Only a
    process that is killed leaves it behind, for :func:`remove_leftovers`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
