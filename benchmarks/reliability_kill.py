"""Kill every long command at points spread over its work, and do it again.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/reliability_kill.py > kill.jsonl

Every command is first done undisturbed, by a process of its own. Then forks of a process that has
imported all are killed: at calls of functions that work is spent in, spread over all calls, and at
moments when a file is moved to its name, spread over all files. The same command (with ``--resume``
where it has that) must then end with the same bytes in every file, but for logs and times, and with
no other files; one that refuses to replace a result must find it whole. A point is a line of JSON;
the last lines are a table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from reliability_points import PLACES, Point, spread

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "RELIABILITY_KILL"

HOOK = """import json, os
if "RELIABILITY_KILL" in os.environ:
    from reliability_kill import arm
    from reliability_points import Point
    arm(Point(*json.loads(os.environ["RELIABILITY_KILL"])))
"""


# -- in the processes that are killed -------------------------------------------------------------


def hook(where: str, around: Callable[[Callable[..., Any], tuple, dict], Any]) -> None:
    """Put ``around`` about every call of a function, or about the moves of files that fit."""
    if where.startswith("write "):
        replace, pattern = os.replace, where.removeprefix("write ")

        def move(source: Any, target: Any) -> None:
            if fnmatch(str(Path(target).absolute()), pattern):
                around(replace, (source, target), {})
            else:
                replace(source, target)

        os.replace = move  # type: ignore[assignment]
        return
    module, _, path = where.partition(":")
    *outer, name = path.split(".")
    owner = importlib.import_module(module)
    for attribute in outer:
        owner = getattr(owner, attribute)
    function = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(function, args, kwargs))


def arm(point: Point) -> None:
    """Kill this process at its point; ``killed`` in the working folder names the file moved."""
    seen = 0

    def kill(args: tuple) -> None:
        name = Path(args[1]).name if point.where.startswith("write ") else ""
        Path(os.environ.get("RELIABILITY_MARK", "killed")).write_text(name)
        number = signal.Signals[point.signal]
        if point.child:
            os.kill(os.getppid(), number)
        os.kill(os.getpid(), number)

    def around(function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        nonlocal seen
        seen += 1
        due = seen == point.call
        if due and point.when == "before":
            kill(args)
        result = function(*args, **kwargs)
        if due and point.when == "after":
            kill(args)
        return result

    hook(point.where, around)


def count(places: list[str]) -> Counter[str]:
    """How often each place is reached from now on."""
    found: Counter[str] = Counter()

    def counting(where: str) -> None:
        def around(function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            found[where] += 1
            return function(*args, **kwargs)

        hook(where, around)

    for where in places:
        counting(where)
    return found


def work(job: dict[str, Any]) -> int:
    """A command in this process, killed or counted if the job says so; its exit code."""
    from recbole_sid.cli import main as command_line

    os.chdir(job["folder"])
    counted: Counter[str] | None = None
    if job["point"] is not None:
        point = Point(*job["point"])
        if point.child:
            os.environ[VARIABLE] = json.dumps(point)
            os.environ["RELIABILITY_MARK"] = str(Path("killed").absolute())
        else:
            arm(point)
    if job["count"]:
        counted = count(job["count"])
    try:
        code = command_line(job["arguments"])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    if counted is not None:
        Path("counted").write_text(json.dumps(counted))
    return code


def serve(often: bool) -> None:
    """Fork a process for every job read, and answer with its exit code.

    Args:
        often: keep a state after every epoch and every few texts, though these take milliseconds,
            and clear at once what killed processes left in a cache.
    """
    import duckdb  # noqa: F401 (else every fork imports them)
    import sentence_transformers  # noqa: F401
    import torch
    import transformers  # noqa: F401

    from recbole_sid import checkpoint, inference, quick_start  # noqa: F401
    from recbole_sid.comparison import compare  # noqa: F401
    from recbole_sid.tuning import tune  # noqa: F401

    torch.set_num_threads(1)
    if often:
        checkpoint.PAUSE = checkpoint.PAUSE_PER_SECOND_OF_WRITING = 0
        checkpoint.LEFTOVER_SECONDS = 0
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            log = os.open(job["log"], how)
            for stream in (1, 2):
                os.dup2(log, stream)
            os._exit(work(job))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


# -- in the process that measures -----------------------------------------------------------------


class Forks:
    """The process that has imported all, and forks; ``often`` as for :func:`serve`."""

    def __init__(self, root: Path, often: bool = True) -> None:
        hook_folder = root / "hook"
        hook_folder.mkdir(exist_ok=True)
        (hook_folder / "sitecustomize.py").write_text(HOOK)
        paths = [hook_folder, Path(__file__).parent, ROOT]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *(["--often"] if often else [])],
            env={**os.environ, "OMP_NUM_THREADS": "1",
                 "PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        point: Point | None = None,
        counting: list[str] | None = None,
    ) -> int:
        """The exit code of a command whose working folder is ``folder``."""
        self.start(arguments, folder, point, counting)
        return self.end()

    def start(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        point: Point | None = None,
        counting: list[str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Begin a command, which :meth:`end` waits for."""
        job = {
            "arguments": arguments,
            "folder": str(folder),
            "log": str(log or folder.with_suffix(".log")),
            "point": point,
            "count": counting,
        }
        assert self.process.stdin is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)

    def end(self) -> int:
        """The exit code."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


def alone(arguments: tuple[str, ...], folder: Path) -> int:
    """The same by a process as a user starts it, without a fork and with the usual pauses."""
    with folder.with_suffix(".log").open("w") as log:
        return subprocess.run(
            [sys.executable, str(ROOT / "run_recbole_sid.py"), *arguments],
            cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
        ).returncode  # fmt: skip


def judged(forks: Forks, command: Any, point: Point, folder: Path, wanted: Any) -> dict[str, Any]:
    """Kill a command at a point, do it again, and say how that ended."""
    from reliability_commands import emptied, result_of

    emptied(folder)
    folder.with_suffix(".log").unlink(missing_ok=True)
    start = time.perf_counter()
    code = forks.run(command.arguments, folder, point)
    mark = folder / "killed"
    found = {"command": command.name, **point._asdict(), "exit": code}
    if not mark.is_file():
        return found | {"outcome": "not reached"}
    found["file"] = mark.read_text()
    mark.unlink()
    again = command.again()
    outcome = "identical"
    if forks.run(again, folder) != 0:
        found["refused"] = folder.with_suffix(".log").read_text().strip().splitlines()[-1][-300:]
        if result_of(folder) == wanted:
            return found | {"outcome": "was finished"}
        outcome = "identical with --overwrite"
        if forks.run((*command.arguments, "--overwrite=True"), folder) != 0:
            outcome = "failed"
    result = result_of(folder)
    if outcome != "failed" and result != wanted:
        differing = {name for name in result | wanted if result.get(name) != wanted.get(name)}
        outcome, found["differing"] = "different", sorted(differing)
    found["resumed"] = "esuming" in folder.with_suffix(".log").read_text()
    return found | {"outcome": outcome, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    from reliability_commands import Commands, emptied, result_of

    parser = argparse.ArgumentParser(description="Kill commands and do them again.")
    parser.add_argument("--commands", help="names, with commas; default: all")
    parser.add_argument("--points", type=int, help="at most so many of a command, spread over all")
    parser.add_argument("--folder", type=Path, help="where to work, kept; default: a temporary one")
    given = parser.parse_args()
    root = (given.folder or Path(tempfile.mkdtemp(prefix="reliability-"))).absolute()
    emptied(root)
    commands = Commands(root)
    commands.make()
    forks = Forks(root)
    table: dict[str, Counter[str]] = {}
    chosen = given.commands.split(",") if given.commands else list(PLACES)
    for name, command in commands.all().items():
        reads_others = {"append": "TIGER", "export": "TIGER", "prepare": "make-ads"}
        if name not in chosen and name not in [reads_others.get(one) for one in chosen]:
            continue
        undisturbed = emptied(root / "undisturbed" / name)
        if alone(command.arguments, undisturbed) != 0:
            sys.exit(f"{name} fails: {undisturbed.with_suffix('.log').read_text()[-2000:]}")
        if name not in chosen:
            continue
        wanted = result_of(undisturbed)
        counting = emptied(root / "counting" / name)
        code = forks.run(command.arguments, counting, None, [where for where, _ in PLACES[name]])
        counted = json.loads((counting / "counted").read_text())
        (counting / "counted").unlink()
        if code != 0 or result_of(counting) != wanted:
            sys.exit(f"a fork of {name} ends otherwise than a process of its own")
        print(json.dumps({"command": name, "places": counted}), flush=True)
        table[name] = Counter()
        points = list(spread(counted, name))
        step = max(1.0, len(points) / (given.points or len(points)))
        for number in range(int(len(points) / step)):
            point = points[int((number + 0.5) * step)]
            found = judged(forks, command, point, root / "killed" / f"{name}-{number}", wanted)
            table[name][found["outcome"]] += 1
            table[name]["resumed"] += found.get("resumed", False)
            print(json.dumps(found), flush=True)
    print_table(table)


def print_table(table: dict[str, Counter[str]]) -> None:
    """A row a command."""
    heads = ("identical", "was finished", "identical with --overwrite", "different", "failed",
             "not reached")  # fmt: skip
    print("\n| command | points | resumed work | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * (len(heads) + 2))
    table["all"] = sum(table.values(), Counter())
    for name, row in table.items():
        cells = [sum(row[head] for head in heads), row["resumed"], *(row[head] for head in heads)]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    serve("--often" in sys.argv) if "--serve" in sys.argv else main()
