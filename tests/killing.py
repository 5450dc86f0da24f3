"""Runs in processes of their own that are killed at a chosen point.

``python -m tests.killing`` imports all that runs need and forks a process for every line it reads,
``{"settings": …, "kill": [where, call, when]}``. It answers with the exit code: -9 for a kill.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Runs:
    """The process that forks the runs; ``log`` gets what they print."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.killing"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def run(self, settings: dict[str, Any], kill: tuple[str, int, str] | None = None) -> int:
        """The exit code of a run.

        Args:
            settings: as for ``recbole_sid.run``.
            kill: where (``module:function``, or ``write NAME`` for the moment when the file is
                moved to its name), at which call there, and whether ``before`` or ``after`` it.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"settings": settings, "kill": kill}), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)


def main() -> None:
    import sentence_transformers  # noqa: F401 (else every fork imports it)
    import torch

    from recbole_sid import checkpoint, quick_start

    torch.set_num_threads(1)
    # A state after every epoch and every few texts, though these take milliseconds.
    checkpoint.PAUSE = checkpoint.PAUSE_PER_SECOND_OF_WRITING = 0
    checkpoint.LEFTOVER_SECONDS = 0
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            os.dup2(2, 1)
            code = 1
            try:
                if job["kill"] is not None:
                    arm(*job["kill"])
                quick_start.run(config_dict=job["settings"])
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def arm(where: str, call: int, when: str) -> None:
    """Kill this process at the given call."""
    if where.startswith("write "):
        pattern = where.removeprefix("write ")
        os.replace = killing(
            os.replace, call, when, lambda _, path: fnmatch(Path(path).name, pattern)
        )
        return
    module, _, path = where.partition(":")
    *outer, name = path.split(".")
    owner = importlib.import_module(module)
    for attribute in outer:
        owner = getattr(owner, attribute)
    setattr(owner, name, killing(getattr(owner, name), call, when, lambda *_: True))


def killing(
    function: Callable[..., Any], call: int, when: str, counts: Callable[..., bool]
) -> Callable[..., Any]:
    """``function``, killing the process at the given one of its calls that count."""
    seen = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += counts(*args)
        due = seen == call and counts(*args)
        if due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if __name__ == "__main__":
    main()
