"""Damaged files for every reader, for as long as one likes; coverage-guided where atheris is there.

``PYTHONPATH=. python benchmarks/fuzz_readers.py --minutes 12 --seed 0``

The readers and the valid files that all begins with are those of ``tests/fuzz``. An input is a
valid file after one to six mutations (a flipped bit, a cut, a piece doubled or of another file, a
word of a dictionary, a number of a header), half of them with a checksum that fits. With atheris an
input that reaches new lines of recbole_sid is kept, and libFuzzer's own mutations come to these.

Each reader has a process and its share of the time. An exception that is not InputError is a
finding, told apart by its type and the last line of ours; so is an input of more than 20 seconds,
and a process that ends before its time. Exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ATHERIS = importlib.util.find_spec("atheris") is not None
SECONDS_AN_INPUT = 20
MEGABYTES = 4096  # of a process; libFuzzer ends it beyond them
LONGEST_INPUT = 1 << 16
WRITTEN_EVERY = 2.0  # seconds


class TookTooLongError(BaseException):
    """No reader catches it."""


class Tally:
    """Inputs and findings of one reader, written to a file as they come."""

    def __init__(self, path: Path, read: Callable[[bytes, bool], bool]) -> None:
        self.path, self.read = path, read
        self.inputs = self.taken = 0
        self.findings: dict[str, dict[str, Any]] = {}
        self.start = self.written = time.monotonic()
        signal.signal(signal.SIGALRM, self._alarm)

    def _alarm(self, *_: object) -> None:
        raise TookTooLongError

    def try_input(self, content: bytes, resealed: bool) -> None:
        self.inputs += 1
        signal.alarm(SECONDS_AN_INPUT)
        try:
            self.taken += self.read(content, resealed)
        except (Exception, TookTooLongError) as error:
            self._note(error, content)
        finally:
            signal.alarm(0)
        if time.monotonic() - self.written > WRITTEN_EVERY:
            self.write()

    def _note(self, error: BaseException, content: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "recbole_sid" in f.filename] or list(frames)
        last = ours[-1]
        key = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        if key not in self.findings:
            self.findings[key] = {"said": str(error)[:200], "input": content.hex(), "times": 0}
        self.findings[key]["times"] += 1

    def write(self) -> None:
        self.written = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        told = {
            "inputs": self.inputs,
            "read": self.taken,
            "seconds": round(self.written - self.start, 1),
            "peak_mb": peak,
            "findings": self.findings,
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(told))
        os.replace(temporary, self.path)


def load() -> Any:
    """The readers, with every line of ours watched."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import torch  # before ours, so that its lines are not watched

    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # what is written here need not outlive a loss of power
    if ATHERIS:
        import atheris

        with (
            contextlib.redirect_stderr(io.StringIO()),
            atheris.instrument_imports(include=["recbole_sid"]),
        ):
            from tests.fuzz import readers
    else:
        from tests.fuzz import readers
    readers.readers()
    return readers


def child(readers: Any, name: str, seconds: float, seed: int, output: Path) -> None:
    """Fuzz one reader in this process."""
    from tests.fuzz.mutations import WORDS, mutated

    reader = readers.readers()[name]
    tally = Tally(output, lambda content, again: readers.try_reader(reader, content, again))
    for content in reader.seeds:
        tally.try_input(content, True)
    tally.write()
    if not ATHERIS:
        rng = random.Random(seed)
        while time.monotonic() - tally.start < seconds:
            content = mutated(rng.choice(reader.seeds), rng, reader.seeds)
            tally.try_input(content[:LONGEST_INPUT], rng.random() < 0.5)
        tally.write()
        return

    def one_input(content: bytes) -> None:
        # The last byte says whether the checksum is made to fit.
        tally.try_input(content[:-1], content[-1:] < b"\x80")

    def mutator(content: bytes, most: int, chosen: int) -> bytes:
        import atheris

        rng = random.Random(chosen)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(content, most))
        whole = content[:-1] if rng.random() < 0.7 else rng.choice(reader.seeds)
        return mutated(whole, rng, reader.seeds)[: most - 1] + bytes([rng.randrange(256)])

    import atheris

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder)
        for number, content in enumerate(reader.seeds):
            (corpus / f"seed{number}").write_bytes(content + b"\0")
        words = corpus.with_suffix(".words")
        escaped = ("".join(f"\\x{byte:02x}" for byte in word[:60]) for word in WORDS)
        words.write_text("".join(f'"{word}"\n' for word in escaped))
        arguments = [
            sys.argv[0], str(corpus), f"-max_total_time={int(seconds)}", f"-seed={seed + 1}",
            f"-timeout={2 * SECONDS_AN_INPUT}", f"-rss_limit_mb={MEGABYTES}", f"-dict={words}",
            f"-max_len={LONGEST_INPUT}", f"-artifact_prefix={folder}-",
        ]  # fmt: skip
        atheris.Setup(arguments, one_input, custom_mutator=mutator)
        atheris.Fuzz()  # ends the process


def run(readers: Any, name: str, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Fuzz one reader in a process of its own."""
    output, log = folder / f"{name}.json", folder / f"{name}.log"
    sys.stdout.flush()
    process = os.fork()
    if not process:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        end = 1
        try:
            child(readers, name, seconds, seed, output)
            end = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(end)
    end = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    told: dict[str, Any] = {"inputs": 0, "read": 0, "seconds": 0, "peak_mb": 0, "findings": {}}
    if output.is_file():
        told = json.loads(output.read_text())
    if told["seconds"] < seconds / 2 - SECONDS_AN_INPUT:
        said = log.read_text(errors="replace")[-2000:]
        told["findings"][f"the process ended with {end}"] = {"said": said, "times": 1}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="*", help="names of tests/fuzz/readers.py; default: all")
    parser.add_argument("--findings", type=Path, help="a file for the inputs of all findings")
    given = parser.parse_args()
    readers = load()
    known = list(readers.readers())
    names = given.targets or known
    if unknown := set(names) - set(known):
        parser.error(f"unknown targets {sorted(unknown)}; known: {', '.join(known)}")
    seconds = 60 * given.minutes / len(names)
    guided = "coverage-guided by atheris" if ATHERIS else "without atheris: mutations alone"
    print(f"{given.minutes:g} minutes, seed {given.seed}, {guided}\n")
    print("| reader | inputs | of them read | seconds | peak MB | findings |\n|" + "---|" * 6)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for target in names:
            results[target] = told = run(readers, target, seconds, given.seed, Path(name))
            print(
                f"| {target} | {told['inputs']:,} | {told['read']:,} | {told['seconds']:.0f} | "
                f"{told['peak_mb']:,} | {len(told['findings'])} |",
                flush=True,
            )
    inputs = sum(told["inputs"] for told in results.values())
    minutes = sum(told["seconds"] for told in results.values()) / 60
    found = {f"{target}: {key}": value for target, told in results.items()
             for key, value in told["findings"].items()}  # fmt: skip
    print(f"\n{inputs:,} inputs in {minutes:.1f} minutes, {len(found)} distinct findings")
    for key, value in found.items():
        print(f"- {key} ({value['times']} times): {value['said']}")
    if given.findings:
        given.findings.write_text(json.dumps(found, indent=2))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
