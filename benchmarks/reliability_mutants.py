"""Mutation testing: small changes to the code that the tests have to notice.

``python benchmarks/reliability_mutants.py --work mutants``

Cosmic Ray makes the mutants: places are drawn in the files below, and at each one of its changes.
Left out are what only a message says (all of a ``raise``) and annotations. Every mutant is written
into a copy of the tree, and the tests of its file run there: hypothesis with fixed examples and
without a deadline, so that luck and a busy machine kill nothing. A mutant that fails a test is
killed; so is one that needs ten seconds more of the processor than the tests of all files together.

Drawing goes by the hash of the seed and the changed line, so that other lines can change and most
mutants stay. ``--work`` keeps what was found: a second start goes on, and ``--again`` runs those
that survived once more.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
SID = sorted(f"sid/{path.name}" for path in (ROOT / "recbole_sid" / "sid").glob("*.py"))
# Files, and how many mutants of them together: what the issue names, and the other losses.
DRAWS = (
    ((*SID, "tokenizer/losses.py", "generator/beam.py"), 300),
    (
        tuple(
            f"tokenizer/{name}.py"
            for name in ("contrastive", "letter_losses", "mmq_losses", "repulsion", "unisid_losses")
        ),
        100,
    ),
)
MORE_TESTS = {
    "generator/beam.py": [
        "tests/generator/test_availability.py",
        "tests/generator/test_trie_softmax.py",
    ],
}
MEMORY = 6 * 2**30  # bytes that a mutant may ask for
PATIENCE = 40  # seconds that may pass for one of the processor
OUTCOMES = ("killed", "timeout", "survived")


@dataclass(frozen=True)
class Mutant:
    """A change to a file; ``key`` names it as long as its line stays."""

    file: str
    line: int
    before: str
    after: str
    operator: str
    key: str
    source: str

    def record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "source"}


def drawn(files: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants, one a place; the places with the lowest hashes."""

    def rank(text: str) -> str:
        return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()

    found: list[Mutant] = []
    places = sorted(
        (rank(place), file, ways) for file in files for place, ways in _places(file).items()
    )
    for place, file, ways in places:
        original = (ROOT / "recbole_sid" / file).read_text()
        for way in sorted(ways, key=lambda way: rank(place + way[0] + str(way[1]))):
            mutant = _mutant(file, original, *way)
            if mutant is not None:
                found.append(mutant)
                break
        if len(found) == count:
            break
    return found


def _places(file: str) -> dict[str, list[tuple[str, int, str]]]:
    """Where something can be changed, and how: operator, its occurrence in the file, and key."""
    source = (ROOT / "recbole_sid" / file).read_text()
    lines, nodes = source.splitlines(), list(ast_nodes(get_ast(source)))
    seen = Counter(line.strip() for line in lines)
    places: dict[str, list[tuple[str, int, str]]] = {}
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():
            continue
        operator, occurrence = kind(), 0
        for node in nodes:
            for index, (start, end) in enumerate(operator.mutation_positions(node)):
                if not _left_out(node):
                    line = lines[start[0] - 1]
                    text = line.strip()
                    # Lines that are there twice are told apart by their number.
                    which = "" if seen[text] == 1 else f"@{start[0]}"
                    at = start[1] - len(line) + len(line.lstrip())
                    place = f"{file}{which}: {text} [{at}:{at + end[1] - start[1]}]"
                    key = f"{place} {name.removeprefix('core/')} {index}"
                    places.setdefault(place, []).append((name, occurrence, key))
                occurrence += 1
    return places


def _left_out(node: Any) -> bool:
    """In a ``raise``, whose changes only a message shows, or in an annotation."""
    while (above := node.parent) is not None:
        if above.type in ("raise_stmt", "tfpdef"):
            return True
        if above.type == "annassign" and node is above.children[1]:
            return True
        if above.type == "funcdef" and node is above.annotation:
            return True
        node = above
    return False


def _mutant(file: str, original: str, name: str, occurrence: int, key: str) -> Mutant | None:
    """None for a change that is no Python."""
    source = mutate_code(original, get_operator(name)(), occurrence)
    try:
        compile(source, file, "exec")
    except SyntaxError:
        return None
    old, new = original.splitlines(), source.splitlines()
    changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    _, first, last, from_, to = next(change for change in changes if change[0] != "equal")
    before, after = (" ".join(" ".join(part).split()) for part in (old[first:last], new[from_:to]))
    return Mutant(file, first + 1, before, after, name.removeprefix("core/"), key, source)


# -- running ------------------------------------------------------------------------------------


def tests_of(file: str) -> list[str]:
    """The tests of a file, its own first."""
    folder, name = file.removesuffix(".py").split("/")
    own = f"tests/{folder}/test_{name}.py"
    near = (ROOT / "tests" / "sid").glob("test_*.py") if folder == "sid" else ()
    more = [*MORE_TESTS.get(file, ()), *sorted(f"tests/sid/{path.name}" for path in near)]
    return [own, *(test for test in more if test != own)]


def copy_tree(tree: Path) -> None:
    """What the tests need, as it is now."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("recbole_sid", "properties", "dataset_configs", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)


def import_others() -> None:
    """All that is not ours, once: a forked process has it. Hypothesis without luck."""
    import hypothesis
    import pytest  # noqa: F401
    import scipy.optimize  # noqa: F401
    import torch

    torch.set_num_threads(1)
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"  # tests/conftest.py loads it
    hypothesis.settings.load_profile("mutants")
    # Tables of all characters, which take longer than most tests.
    for characters in ({}, {"exclude_categories": ["Cs"]}):
        hypothesis.strategies.text(hypothesis.strategies.characters(**characters)).validate()


def run_tests(
    tree: Path, tests: Sequence[str], log: Path, limit: int, bytecode: bool = False
) -> tuple[int, float]:
    """Exit code of pytest in a process of its own, and the processor's seconds; at most ``limit``.

    A signal that ended it is a negative code. One that waits, for what never comes, ends as well.
    ``bytecode`` leaves compiled files for the next ones.
    """
    child = os.fork()
    if child == 0:
        sys.dont_write_bytecode = not bytecode
        _run_here(tree, tests, log, limit)
    end = time.monotonic() + PATIENCE * limit
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if time.monotonic() > end:
            os.kill(child, signal.SIGXCPU)
        time.sleep(0.02)


def _run_here(tree: Path, tests: Sequence[str], log: Path, limit: int) -> None:
    code = 1
    try:
        import pytest

        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        options = ["-x", "-q", "--tb=line", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = int(pytest.main([*options, *tests]))
        ours = sys.modules.get("recbole_sid")
        if ours is not None and not str(ours.__file__).startswith(str(tree)):
            code = 5
        sys.stdout.flush()
    finally:
        os._exit(code)


def judged(code: int) -> str:
    """What an exit code of pytest says."""
    if code == 0:
        return "survived"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    # 1: failed; 2 and 4: tests or conftest.py could not be imported.
    if code in (1, 2, 4) or code < 0:
        return "killed"
    raise SystemExit(f"pytest ended with {code}: see the log")


def run_all(mutants: Sequence[Mutant], work: Path, again: bool) -> dict[str, dict[str, Any]]:
    """Run what has not been run; the records by key."""
    work.mkdir(parents=True, exist_ok=True)
    tree, log, results = work / "tree", work / "log", work / "mutants.jsonl"
    records = {record["key"]: record for record in _read(results)}
    left = [
        one
        for one in mutants
        if one.key not in records or (again and records[one.key]["outcome"] == "survived")
    ]
    if not left:
        return records
    copy_tree(tree)
    import_others()
    every = sorted({test for one in left for test in tests_of(one.file)})
    code, seconds = run_tests(tree, every, log, 3600, bytecode=True)
    if code != 0:
        raise SystemExit(f"{' '.join(every)} fail without a mutant: see {log}")
    for number, mutant in enumerate(left, start=1):
        path = tree / "recbole_sid" / mutant.file
        original = path.read_text()
        path.write_text(mutant.source)
        code, used = run_tests(tree, tests_of(mutant.file), log, round(seconds + 10))
        path.write_text(original)
        outcome = judged(code)
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.M)
        record = {
            **mutant.record(),
            "outcome": outcome,
            "test": failed[1] if failed and outcome == "killed" else None,
            "seconds": round(used, 2),
        }
        records[mutant.key] = record
        with results.open("a") as opened:
            opened.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"{number}/{len(left)} {outcome}: {mutant.file}:{mutant.line} {mutant.after}")
    return records


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def table(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """In Markdown, a file a line."""
    yield f"| file | mutants | {' | '.join(OUTCOMES)} | noticed |"
    yield "|---|---|---|---|---|---|"
    files = list(dict.fromkeys(record["file"] for record in records))
    for name in [*files, "all"]:
        counts = Counter(r["outcome"] for r in records if name in (r["file"], "all"))
        n = counts.total()
        noticed = 100 * (n - counts["survived"]) / n
        shown = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        yield f"| {name} | {n} | {shown} | {noticed:.0f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="a folder for tree and results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run survivors once more")
    options = parser.parse_args()
    draws = [drawn(files, count, options.seed) for files, count in DRAWS]
    records = run_all(
        [one for draw in draws for one in draw], options.work.resolve(), options.again
    )
    for draw in draws:
        of_draw = sorted((records[one.key] for one in draw), key=lambda r: (r["file"], r["line"]))
        print("\n" + "\n".join(table(of_draw)) + "\n")
        for record in of_draw:
            if record["outcome"] == "survived":
                print("survived: {file}:{line} {operator}\n  {before}\n  {after}".format(**record))


if __name__ == "__main__":
    main()
