"""What long work keeps on disk, to go on from after it was killed: tensors and plain data."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from recbole_sid import seals
from recbole_sid.errors import InputError
from recbole_sid.files import REMEDY, CannotWrite, remove_leftovers
from recbole_sid.locks import clear, locked

# A state is written at most every 10 seconds, and takes at most 2 % of the time.
PAUSE = 10.0
PAUSE_PER_SECOND_OF_WRITING = 49
# No write takes this long: a half written file of this age has lost its process.
LEFTOVER_SECONDS = 3600.0

CACHE_REMEDY = "make room or name another --cache_dir"
DELETE = "delete it, then it is made again"


class Checkpoint:
    """A file of tensors and plain data beside the one that the work of stage 1 will end in.

    Its name holds the same hash of all that the work depends on as the name of the result does, so
    whoever finds it may go on from it; no setting asks for that.

    Args:
        path: the file of the finished work; this one has ``.training.pt`` for its suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".training.pt")
        self._lock = _lock_of(path)
        self._due = time.monotonic() + PAUSE

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """The state that was written last, read without running code from it; None without a file.

        Raises:
            InputError: the file is damaged, of other work, or holds more than tensors and plain
                data.
        """
        if not self.path.is_file():
            return None
        stored = load_state(self.path, device, DELETE)
        state = stored.get("state")
        if stored.get("of") != self.path.name or not isinstance(state, dict):
            raise InputError(f"'{self.path}' is the state of other work. Remedy: {DELETE}")
        return _State(state, self.path, DELETE)

    def save_when_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write what ``state`` gives (tensors and plain data), unless it is too soon for it.

        Raises:
            InputError: the file cannot be written.
        """
        start = time.monotonic()
        if start < self._due:
            return
        values = state()
        make_folder(self.path.parent)
        save_state(self.path, {"of": self.path.name, "state": values}, CACHE_REMEDY)
        end = time.monotonic()
        self._due = end + max(PAUSE, PAUSE_PER_SECOND_OF_WRITING * (end - start))

    def finish(self) -> None:
        """The work is saved: remove the state, and what killed processes left half written."""
        # A cache may be read-only; what stays there takes room and does no harm.
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            remove_leftovers(self.path.parent, seconds=LEFTOVER_SECONDS)
            clear(self._lock)


def make_folder(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        CannotWrite: the file system refuses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"the cache folder '{folder}' cannot be made ({error.strerror}): name another "
            "--cache_dir"
        ) from error


@contextmanager
def building(path: Path) -> Iterator[None]:
    """One process at a time makes the cache file ``path``; the others wait, and find it made."""
    make_folder(path.parent)
    with locked(_lock_of(path), f"the cache file '{path}'"):
        yield


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def save_state(path: Path, state: Mapping[str, Any], remedy: str = REMEDY) -> None:
    """Write tensors and plain data as torch's zip archive, sealed, whole or not at all.

    Raises:
        CannotWrite: the file system refuses it.
    """
    with seals.written_sealed(path, remedy) as temporary:
        seal = seals.blank().encode()
        # Into a path torch would write the path's name as well.
        with temporary.open("w+b") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # as torch reports a full disk
                raise OSError(str(error)) from error
            # An archive ends with its comment, and before it the comment's length in two bytes.
            file.seek(-2, 2)
            file.write(len(seal).to_bytes(2, "little") + seal)


def load_state(path: Path, device: torch.device | str, remedy: str) -> dict[str, Any]:
    """What :func:`save_state` wrote, read without running code from it.

    Args:
        remedy: what the user can do if it cannot be read.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain data.
    """
    seals.check(path, remedy)
    try:
        _check_archive(path)
        state = torch.load(path, map_location=device, weights_only=True)
    # In a file that is made to harm, torch's unpickler fails anywhere and with anything.
    except Exception as error:
        raise InputError(
            f"'{path}' is damaged, or holds more than tensors and plain data, which could run "
            f"code. Remedy: {remedy}"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"'{path}' holds no state of ours. Remedy: {remedy}")
    return _State(state, path, remedy)


class _State(dict[str, Any]):
    """What a file holds; what it lacks is an error that names the file."""

    def __init__(self, state: dict[str, Any], path: Path, remedy: str):
        super().__init__(state)
        self._path, self._remedy = path, remedy

    def __missing__(self, key: str) -> Any:
        raise InputError(
            f"'{self._path}' lacks {key!r}: it is the state of other work. Remedy: {self._remedy}"
        )


def _check_archive(path: Path) -> None:
    """It is a zip archive as torch writes it: unpacked, it is no larger than it is.

    Raises:
        ValueError: it is packed, or its members are longer than the file: a bomb; or the name of
            one leads out of the archive.
        zipfile.BadZipFile: it is another file. Of these, torch would take some for bare pickles.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("the archive is packed")
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"a member is called {member.filename!r}")
