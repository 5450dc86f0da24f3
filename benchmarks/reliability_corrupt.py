"""Seeded damage to every file of finished and unfinished work, then the commands that read it.

``python benchmarks/reliability_corrupt.py --cases 240 --seed 0``

Each case damages one file in a copy of its folder: a flipped bit, a truncation, a block of zeros,
an empty file or the bytes of another of our files. Then the commands that read the folder run in
this process. The outcome of a case is

- ``error``: a command refused it with one clear error (``InputError``);
- ``harmless``: all commands gave exactly what they give without the damage;
- ``crash``: a command failed with anything else;
- ``silent``: a command gave another result without a word. There must be none.

``.lock`` files, logs and TensorBoard's events are for people and are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reliability_work import Target, Work, random_vectors

from recbole_sid.errors import InputError

KINDS = ("flip", "flip", "flip", "truncate", "zeros", "empty", "foreign")
LEFT_OUT = (".log", ".lock")


def files_of(folder: Path) -> list[Path]:
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in LEFT_OUT and "tfevents" not in path.name
        and path.name not in LEFT_OUT
    )  # fmt: skip


def damaged(content: bytes, kind: str, rng: np.random.Generator, other: bytes) -> bytes:
    """``content`` with damage of this kind; never the same as before."""
    place = int(rng.integers(len(content)))
    before, behind = content[:place], content[place + 1 :]
    if kind == "flip":
        return before + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + behind
    if kind == "zeros":
        changed = before + bytes(len(content[place : place + 64])) + content[place + 64 :]
        return changed if changed != content else before
    return {"truncate": before, "empty": b"", "foreign": other}[kind]


def outcome(target: Target, folder: Path, whole: list[Any]) -> tuple[str, str]:
    """How the commands took the damage, and what they said."""
    for reader, before in zip(target.readers, whole, strict=True):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = reader(folder)
        except InputError as error:
            return "error", str(error)
        except Exception as error:
            return "crash", f"{reader.__name__}: {type(error).__name__}: {error}"
        if found != before:
            return "silent", reader.__name__
    return "harmless", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a file for one JSON line a case")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, random_vectors():
        work = Work(Path(folder))
        with contextlib.redirect_stderr(io.StringIO()):
            work.make()
        print(f"work made in {time.perf_counter() - began:.0f} s", flush=True)
        cases = measure(work, given.cases, np.random.default_rng(given.seed))
    if given.output is not None:
        given.output.write_text("".join(json.dumps(case) + "\n" for case in cases))
    print(table(cases))
    print(f"{len(cases)} cases in {time.perf_counter() - began:.0f} s")
    for case in cases:
        if case["outcome"] in ("silent", "crash"):
            print(case)


def measure(work: Work, n_cases: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Damage files in turn, so that every one of them is met about as often."""
    here = work.root / "damaged"
    places = [(target, file) for target in work.targets
              for file in files_of(work.root / target.folder)]  # fmt: skip
    whole: dict[str, list[Any]] = {}
    for target in work.targets:
        fresh(work.root / target.folder, here)
        with contextlib.redirect_stderr(io.StringIO()):
            whole[target.folder] = []
            for reader in target.readers:
                whole[target.folder].append(reader(here))
    cases = []
    for number in range(n_cases):
        target, file = places[number % len(places)]
        pristine = work.root / target.folder
        fresh(pristine, here)
        others = [
            work.root / other.folder / each
            for other, each in places
            if each.suffix == file.suffix and each.name != file.name
        ]
        foreign = others[rng.integers(len(others))].read_bytes() if others else b"foreign"
        content = (pristine / file).read_bytes()
        kind = KINDS[rng.integers(len(KINDS))]
        changed = damaged(content, kind, rng, foreign)
        if changed == content:
            kind, changed = "truncate", content[:-1]
        (here / file).write_bytes(changed)
        found, said = outcome(target, here, whole[target.folder])
        cases.append({"folder": target.folder, "file": str(file), "kind": kind,
                      "outcome": found, "said": said.replace(str(work.root), "")})  # fmt: skip
        print(number, target.folder, file.name[-40:], kind, found, flush=True)
    return cases


def fresh(pristine: Path, here: Path) -> None:
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(pristine, here)


def table(cases: list[dict[str, Any]]) -> str:
    """Cases by folder and file, as markdown."""
    names = ("error", "harmless", "crash", "silent")
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        name = Path(case["file"]).name
        stem, _, rest = name.partition(".")
        shown = f"{stem[:5]}….{rest}" if len(stem) > 40 or stem.startswith("text-") else name
        for key in (f"{case['folder']}: {shown}", "all"):
            rows.setdefault(key, Counter())[case["outcome"]] += 1
    lines = ["| file | cases | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for key in sorted(rows, key=lambda key: (key == "all", key)):
        counts = rows[key]
        cells = " | ".join(str(counts[name]) for name in names)
        lines.append(f"| {key} | {counts.total()} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
