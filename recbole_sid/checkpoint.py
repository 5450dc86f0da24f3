"""What long work of stage 1 keeps in the cache folder, to go on from after it was killed."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from recbole_sid.errors import InputError
from recbole_sid.files import remove_leftovers, written_whole

# A state is written at most every 10 seconds, and takes at most 2 % of the time.
PAUSE = 10.0
PAUSE_PER_SECOND_OF_WRITING = 49
# No write takes this long: a half written file of this age has lost its process.
LEFTOVER_SECONDS = 3600.0


class Checkpoint:
    """A file of tensors and plain data beside the one that the work will end in.

    Its name holds the same hash of all that the work depends on as the name of the result does, so
    whoever finds it may go on from it; no setting asks for that.

    Args:
        path: the file of the finished work; this one has ``.training.pt`` for its suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".training.pt")
        self._due = time.monotonic() + PAUSE

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """The state that was written last, read without running code from it; None without a file.

        Raises:
            InputError: the file is damaged, or holds more than tensors and plain data.
        """
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # torch takes a file that is not its own for a pickle, and fails anywhere in it.
        except (
            pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError
        ) as error:  # fmt: skip
            raise InputError(
                f"cache file '{self.path}', the state of a killed run, is damaged, or holds more "
                "than tensors and plain data. Delete it"
            ) from error
        return state

    def save_when_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write what ``state`` gives (tensors and plain data), unless it is too soon for it.

        Raises:
            InputError: the file cannot be written.
        """
        start = time.monotonic()
        if start < self._due:
            return
        values = state()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.path) as temporary:
                torch.save(values, temporary)
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"the cache file '{self.path}' cannot be written ({error}): name another "
                "--cache_dir"
            ) from error
        end = time.monotonic()
        self._due = end + max(PAUSE, PAUSE_PER_SECOND_OF_WRITING * (end - start))

    def finish(self) -> None:
        """The work is saved: remove the state, and what killed processes left half written."""
        # A cache may be read-only; what stays there takes room and does no harm.
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            remove_leftovers(self.path.parent, seconds=LEFTOVER_SECONDS)
