"""The measurement of kill points kills where it says, and sees what differs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from reliability_commands import result_of
from reliability_points import PLACES, WRITES, Point, spread

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
WRITE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from reliability_kill import arm
from reliability_points import Point
arm(Point(*json.loads(sys.argv[2])))
for name in ("a.json", "b.txt", "b.json", "c.json"):
    open("new", "w").close()
    os.replace("new", name)
"""


@pytest.mark.parametrize(
    ("point", "moved"),
    [
        (Point("write *.json", 2, "before", "SIGKILL"), ["a.json", "b.txt"]),
        (Point("write *.json", 2, "after", "SIGTERM"), ["a.json", "b.json", "b.txt"]),
        (Point("builtins:open", 2, "before", "SIGKILL"), ["a.json"]),
    ],
)
def test_a_process_is_killed_at_its_point(tmp_path: Path, point: Point, moved: list[str]) -> None:
    code = subprocess.run(
        [sys.executable, "-c", WRITE, str(BENCHMARKS), json.dumps(point)], cwd=tmp_path
    ).returncode
    assert code == -signal.Signals[point.signal]
    found = {path.name for path in tmp_path.iterdir()} - {"new"}
    assert found == {*moved, "killed"}
    if point.where.startswith("write"):
        assert (tmp_path / "killed").read_text() == "b.json"


def test_points_lie_at_even_distances() -> None:
    counted = {where: 100 for where, _ in PLACES["export"]}
    points = [point for point in spread(counted, "export") if point.where == WRITES]
    assert [point.call for point in points] == [11, 31, 51, 71, 91]
    assert {point.when for point in points} == {"before", "after"}
    few = [point.call for point in spread(dict.fromkeys(counted, 2), "export")]
    assert few == [1, 2, 2]


def test_times_are_no_difference_and_figures_and_files_are(tmp_path: Path) -> None:
    def written(seconds: float, score: float) -> dict:
        (tmp_path / "run.log").write_text(str(seconds))
        values = {"cells": [{"train_seconds": seconds, "ndcg": score}]}
        (tmp_path / "comparison.json").write_text(json.dumps(values))
        return result_of(tmp_path)

    first = written(1, 0.5)
    assert written(2, 0.5) == first
    assert written(1, 0.6) != first
    (tmp_path / ".left.tmp").write_text("")
    assert written(1, 0.5) != first
