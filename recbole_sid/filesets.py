"""Several files of one folder that are a result only together, such as a feed and its log.

While they are written, ``.NAME.unfinished`` lies beside them. A process that is killed, or fails,
leaves it there; it says that the files may be replaced by who does the same again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recbole_sid.errors import InputError
from recbole_sid.files import remove_leftovers, written_whole
from recbole_sid.locks import locked


def refuse_finished(folder: Path, name: str, files: Sequence[str], remedy: str) -> None:
    """Refuse to replace one of ``files``, unless they are of work that did not come to its end.

    Raises:
        InputError: names the file.
    """
    if _mark(folder, name).is_file():
        return
    for file in files:
        if (folder / file).exists():
            raise InputError(f"'{folder / file}' exists: --overwrite replaces it, or {remedy}")


@contextmanager
def written_together(
    folder: Path, name: str, files: Sequence[str], remedy: str, overwrite: bool = False
) -> Iterator[None]:
    """For a block that writes ``files`` to ``folder``, which is made; one process at a time.

    Args:
        remedy, overwrite: without ``overwrite``, :func:`refuse_finished` is asked first.

    Raises:
        InputError: files would be replaced, or another process writes them.
        CannotWrite: the file system refuses it.
    """
    what = f"'{name}' in the folder '{folder}'"
    with locked(folder / f".{name}.lock", what, "wait for it, or name another --output"):
        if not overwrite:
            refuse_finished(folder, name, files, remedy)
        mark = _mark(folder, name)
        remove_leftovers(folder, [*files, mark.name])
        with written_whole(mark) as temporary:
            temporary.write_bytes(b"")
        try:
            yield
        except BaseException:
            if not any((folder / file).exists() for file in files):
                mark.unlink()  # nothing was written: nothing is to be replaced
            raise
        mark.unlink()


def _mark(folder: Path, name: str) -> Path:
    return folder / f".{name}.unfinished"
