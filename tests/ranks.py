"""Work in several processes at once, started as torchrun does it.

``python -m tests.ranks`` reads lines, ``{"work": NAME, "arguments": …, "size": 2}``. For each it
forks as many processes, which all call the function NAME (``module:function``), and answers with
what became of them: what the function gave (plain data), the error that it raised, and what it
printed on standard error. With size 0 it calls the function itself: what that imports and caches
need not be made anew in every process from then on.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.errors import InputError

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """How a process ended: ``error`` is empty where all went well."""

    value: Any
    error: str
    printed: str


class Ranks:
    """The process that forks the others; ``log`` gets what it prints itself."""

    def __init__(self, log: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ranks"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def call(self, work: Any, arguments: dict[str, Any], size: int = 2) -> list[Ended]:
        """How each of ``size`` processes ended that called ``work``, a function of a module."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        name = f"{work.__module__}:{work.__name__}"
        job = {"work": name, "arguments": arguments, "size": size}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return [Ended(*one) for one in json.loads(self.process.stdout.readline())]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def main() -> None:
    import sentence_transformers  # noqa: F401 (else every process imports it)
    import torch._dynamo  # the optimizer's first step does

    torch.set_num_threads(1)
    os.fsync = lambda fd: None
    for line in sys.stdin:
        job = json.loads(line)
        if job["size"] == 0:
            _called(job)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_run(job, Path(folder))), flush=True)
    os._exit(0)  # at once


def _run(job: dict[str, Any], folder: Path) -> list[list[Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = job["size"]
    processes = []
    for rank in range(size):
        process = os.fork()
        if process == 0:
            if size > 1:
                named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
                named |= {"LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in named.items()})
                os.environ["MASTER_ADDR"] = "127.0.0.1"
            _work(job, folder / str(rank))
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)
    return [_ended(folder / str(rank)) for rank in range(size)]


def _work(job: dict[str, Any], path: Path) -> None:
    """Call the function, keep what it gives, and end."""
    with path.with_suffix(".err").open("w") as printed:
        os.dup2(printed.fileno(), 2)
        value, error = None, ""
        try:
            value = _called(job)
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
            if not isinstance(raised, InputError):
                traceback.print_exc()
        path.with_suffix(".json").write_text(json.dumps([value, error]))
        sys.stderr.flush()
        os._exit(0)


def _called(job: dict[str, Any]) -> Any:
    module, _, name = job["work"].partition(":")
    return getattr(importlib.import_module(module), name)(**job["arguments"])


def _ended(path: Path) -> list[Any]:
    result = path.with_suffix(".json")
    value, error = json.loads(result.read_text()) if result.is_file() else (None, "killed")
    return [value, error, path.with_suffix(".err").read_text()]


if __name__ == "__main__":
    main()
