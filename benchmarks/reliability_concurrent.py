"""Two processes at a time, on one cache and on one output folder.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/reliability_concurrent.py --pairs 20

- ``same``: two runs of one model, each with its own output, begin with an empty cache.
- ``others``: runs of TIGER and QuaSID, which read the same text vectors, as well.
- ``folder``: the same command twice, with one output folder. One of the two is refused, with the
  word that the folder is in use, or comes late and finds the result; then it is done again.

The second process begins later by between 0 and as long as a run takes. All files must be those of
a run by itself, but for logs and times, and no others. A pair is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from reliability_commands import Command, Commands, emptied, result_of
from reliability_kill import Forks, alone

KINDS: dict[str, tuple[str, str]] = {
    "same": ("TIGER", "TIGER"),
    "others": ("TIGER", "QuaSID"),
    "folder": ("TIGER", "TIGER"),
}


def pair(
    both: tuple[Forks, Forks],
    commands: tuple[Command, Command],
    wanted: tuple[dict[str, Any], dict[str, Any]],
    folder: Path,
    delay: float,
    one_folder: bool,
) -> dict[str, Any]:
    """Do two commands at once in one working folder, and say how that ended."""
    emptied(folder)
    outputs = ("out", "out") if one_folder else ("one", "two")
    logs = [folder.with_name(f"{folder.name}-{number}.log") for number in (1, 2)]
    arguments = [
        tuple(f"--output={output}" if word == "--output=out" else word for word in each.arguments)
        for each, output in zip(commands, outputs, strict=True)
    ]
    for forks, words, log in zip(both, arguments, logs, strict=True):
        forks.start(words, folder, log=log)
        if log is logs[0]:
            time.sleep(delay)
    codes = [forks.end() for forks in both]
    said = [log.read_text() for log in logs]
    found: dict[str, Any] = {"exits": codes, "waited": sum("Waiting for" in text for text in said)}
    if one_folder:
        found["refused"] = sum("is in use by process" in text for text in said)
        found["late"] = sum("is finished already" in text for text in said)
        right = sorted(codes) in ([0, 0], [0, 2]) and found["refused"] == codes.count(2)
        # Who was refused does it again, and finds the result.
        right = right and both[0].run(arguments[0], folder) == 0
    else:
        right = codes == [0, 0]
    expected: dict[str, Any] = {}
    for files, output in zip(wanted, outputs, strict=True):
        for name, content in files.items():
            expected[f"{output}/{name[4:]}" if name.startswith("out/") else name] = content
    result = result_of(folder)
    differing = [name for name in result | expected if result.get(name) != expected.get(name)]
    return found | {"right": right and not differing, "differing": differing}


def main() -> None:
    parser = argparse.ArgumentParser(description="Two processes at a time.")
    parser.add_argument("--pairs", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with commas")
    parser.add_argument("--folder", type=Path, help="where to work, kept; default: a temporary one")
    given = parser.parse_args()
    root = (given.folder or Path(tempfile.mkdtemp(prefix="reliability-"))).absolute()
    work = Commands(emptied(root))
    work.make()
    commands = work.all()
    wanted, seconds = {}, 0.0
    both = Forks(root, often=False), Forks(root, often=False)
    for name in ("TIGER", "QuaSID"):
        lone = emptied(root / "undisturbed" / name)
        if alone(commands[name].arguments, lone) != 0:
            sys.exit(f"{name} fails: {lone.with_suffix('.log').read_text()[-2000:]}")
        wanted[name] = result_of(lone)
        start = time.perf_counter()
        both[0].run(commands[name].arguments, emptied(root / "timed" / name))
        seconds = time.perf_counter() - start
    table: dict[str, Counter[str]] = {}
    for kind in given.kinds.split(","):
        first, second = KINDS[kind]
        table[kind] = Counter()
        for number in range(given.pairs):
            delay = round(seconds * number / given.pairs, 2)
            found = pair(
                both,
                (commands[first], commands[second]),
                (wanted[first], wanted[second]),
                root / "pairs" / f"{kind}-{number}",
                delay,
                kind == "folder",
            )
            print(json.dumps({"kind": kind, "delay": delay, **found}), flush=True)
            table[kind]["pairs"] += 1
            for key in ("right", "waited", "refused", "late"):
                table[kind][key] += int(found.get(key, 0))
    print("\n| kind | pairs | both right | waited for a cache file | refused | came late |")
    print("|---|---|---|---|---|---|")
    for kind, row in table.items():
        cells = (row[key] for key in ("pairs", "right", "waited", "refused", "late"))
        print(f"| {kind} | " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
