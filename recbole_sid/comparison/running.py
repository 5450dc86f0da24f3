"""Runs of a comparison: one process each, one log each; what is finished is kept."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

import recbole_sid
from recbole_sid import run_folder
from recbole_sid.clock import spelled
from recbole_sid.comparison.plan import Plan, Run
from recbole_sid.errors import InputError
from recbole_sid.files import written_whole

logger = logging.getLogger("recbole_sid")

_CHILD = (
    "import sys; from recbole_sid.parent import end_with_parent; end_with_parent(); "
    "from recbole_sid.cli import main; sys.exit(main())"
)
_STOP_SECONDS = 10
_NAME = re.compile(r"(.+?)-(-?\d+)")  # a run's folder: its label and its seed
# The line that a bad input ends with, or a traceback.
_ERROR = re.compile(r"error: |[\w.]+(Error|Exception|Interrupt|Exit)\b")


@dataclass(frozen=True)
class Ended:
    """How a run of this comparison ended: ``failure`` is empty when its result is there."""

    run: Run
    failure: str = ""
    log: Path | None = None
    kept: bool = False


def finished_before(runs: Sequence[Run]) -> dict[str, Ended]:
    """The runs whose result lies in their folder already, by name.

    Raises:
        InputError: folders hold runs of other settings or on other data.
    """
    done = {}
    refused: dict[str, str] = {}
    for run in runs:
        try:
            # Its line "This run is finished already" is the usual case here.
            with _quiet():
                stored = _stored(run)
        except InputError as error:
            refused.setdefault(run.label, f"model {run.label}, seed {run.seed}: {error}")
            continue
        if stored:
            done[run.name] = Ended(run, kept=True)
    if refused:
        first, *others = refused
        raise InputError(
            f"{refused[first]}. Or --overwrite_models={','.join(refused)}, which keeps the runs of "
            "the other models, or another label in the settings file"
            + (f". Refused too: {', '.join(others)}" if others else "")
        )
    return done


def finished_besides(plan: Plan) -> dict[str, list[int]]:
    """Seeds of the finished runs in the folder that are not in the plan, by the model's label."""
    planned = {run.name for run in plan.runs}
    found: dict[str, list[int]] = {}
    for result in sorted((plan.folder / "runs").glob(f"*/{run_folder.RESULT}")):
        name = result.parent.name
        labelled = _NAME.fullmatch(name)
        if labelled and name not in planned and (result.parent / run_folder.OUTCOMES).is_file():
            found.setdefault(labelled[1], []).append(int(labelled[2]))
    return found


def _stored(run: Run) -> bool:
    config = run.config
    if not config.run.overwrite and config.model_spec is not None:
        config["resume"] = True
    if run_folder.stored_result(config) is None:
        return False
    # A run that was killed between its last files is done again.
    if not (run.folder / run_folder.OUTCOMES).is_file():
        raise InputError(
            f"'{run.folder}' has a result but no {run_folder.OUTCOMES}: remove that folder"
        )
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def run_all(runs: Sequence[Run], folder: Path, show: bool) -> Iterator[Ended]:
    """Run one after the other and give each when it has ended, also the ones that failed.

    Each is our own command ``run`` in a process of its own. Its settings lie in
    ``FOLDER/settings/NAME.yaml``, what it prints in ``FOLDER/logs/NAME.log``. A run of ours that
    was killed goes on where it was.
    """
    began = time.perf_counter()
    with progress(len(runs), "compare", "run", show) as bar:
        for number, run in enumerate(runs, start=1):
            bar.set_postfix_str(f"{run.label}, seed {run.seed}")
            log = folder / "logs" / f"{run.name}.log"
            say(bar, f"{number} of {len(runs)}: {run.label}, seed {run.seed}, log {log}")
            start = time.perf_counter()
            failure = _run(run, folder, log, bar)
            seconds = time.perf_counter() - start
            left = (time.perf_counter() - began) / number * (len(runs) - number)
            state = f"failed: {failure}" if failure else "done"
            rest = f", about {spelled(left)} left" if number < len(runs) else ""
            bar.update()
            say(bar, f"{run.label}, seed {run.seed} {state} after {spelled(seconds)}{rest}")
            yield Ended(run, failure, log)


def command(run: Run, folder: Path) -> list[str]:
    """The arguments of ``recbole-sid`` that do ``run`` again by hand."""
    arguments = ["run", f"--config_files={folder / 'settings' / run.name}.yaml"]
    arguments.append(f"--output={run.folder}")
    if run.config.model_spec is not None and not run.config.run.overwrite:
        arguments.append("--resume=True")
    return arguments


def _run(run: Run, folder: Path, log: Path, bar: tqdm) -> str:
    """Run it to its end; why it failed, or nothing."""
    for name in ("logs", "settings"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "settings" / f"{run.name}.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(run.settings, sort_keys=True), "utf-8")
    code = run_process(_CHILD, command(run, folder), log, bar.refresh)
    if code == 0 and (run.folder / run_folder.OUTCOMES).is_file():
        return ""
    return failure_reason(code, log)


def run_process(
    code: str,
    arguments: Sequence[str],
    log: Path,
    tick: Callable[[], object],
    changes: Mapping[str, str] | None = None,
) -> int:
    """Run Python ``code`` in a process of its own, which finds this package; gives its exit code.

    Its standard input stays open and silent for as long as this process lives (see :mod:`.parent`).

    Args:
        log: the file that gets what it prints.
        tick: called about once a second; what it raises ends the process.
        changes: to the environment.
    """
    package = str(Path(recbole_sid.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(changes or {})}
    with _terminable(), log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
                tick()
        finally:
            _stop(process)
            if process.stdin is not None:
                process.stdin.close()
    return process.returncode


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let a SIGTERM unwind the stack, so that the run that is going on is ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there may signals be handled
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(process: subprocess.Popen) -> None:
    """End the run if the comparison itself is stopped."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def failure_reason(code: int, log: Path, wanted: str = run_folder.OUTCOMES) -> str:
    """In one line, from how the process ended and what it printed."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", out of memory?" if name == "SIGKILL" else "")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    for line in reversed(lines):
        if _ERROR.match(line):
            return line.removeprefix("error: ")
    last = lines[-1] if lines else "it printed nothing"
    return last if code else f"it wrote no {wanted}"


def progress(total: int, title: str, unit: str, show: bool) -> tqdm:
    """A progress bar where somebody looks on; a log that is no terminal has the lines of `say`."""
    return tqdm(total=total, desc=title, unit=unit, disable=None if show else True)


def say(bar: tqdm, line: str) -> None:
    """Log a line beside a progress bar."""
    bar.clear()
    logger.info(line)
