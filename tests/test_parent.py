from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = (
    "import os, sys, time; from recbole_sid.parent import end_with_parent; end_with_parent(); "
    "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
)
PARENT = (
    "import sys; from pathlib import Path; "
    "from recbole_sid.comparison.running import run_process; "
    "run_process(sys.argv[1], [sys.argv[2]], Path(sys.argv[2] + '.log'), lambda: None)"
)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # A process that nobody waits for stays as a zombie where no parent takes it.
    status = Path(f"/proc/{number}/stat")
    return not status.is_file() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def within(seconds: float, holds) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_a_run_ends_with_a_comparison_that_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "child"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(told)])
    try:
        assert within(120, lambda: told.is_file() and told.read_text())
        child = int(told.read_text())
        assert alive(child)
        parent.kill()
        parent.wait()
        assert within(30, lambda: not alive(child))
    finally:
        parent.kill()
        parent.wait()
