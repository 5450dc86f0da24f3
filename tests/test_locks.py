from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_sid import locks, run_folder
from recbole_sid.errors import InputError
from recbole_sid.locks import locked

HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from recbole_sid.locks import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.readline()
"""
ROOT = Path(__file__).resolve().parent.parent


class Other:
    """Another process, which holds a lock until it is told or killed."""

    def __init__(self, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(file), str(ROOT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        self.process.communicate("\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".lock"


@pytest.fixture
def other(file: Path) -> Iterator[Other]:
    held = Other(file)
    yield held
    held.process.kill()
    held.process.communicate()


def test_a_held_lock_is_refused_with_its_owner_and_free_afterwards(
    file: Path, other: Other
) -> None:
    pid = other.process.pid
    message = (
        rf"the folder is in use by process {pid} on \S+ since 20.* \(\d+ s ago\): name another"
    )
    with pytest.raises(InputError, match=message), locked(file, "the folder", "name another"):
        pass
    other.end()
    with locked(file, "the folder", "name another"):
        assert json.loads(file.read_text())["pid"] == os.getpid()


def test_the_lock_and_folders_made_for_it_are_gone_afterwards(tmp_path: Path, file: Path) -> None:
    with locked(file, "it", "name another"):
        assert file.is_file()
    assert list(tmp_path.iterdir()) == []
    with locked(file, "it", "name another"):
        (file.parent / "kept").write_text("")
    assert [path.name for path in file.parent.iterdir()] == ["kept"]


def test_who_waits_says_for_whom_and_goes_on(
    file: Path, other: Other, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            other.end()

    monkeypatch.setattr(locks.time, "sleep", sleep)
    with caplog.at_level(logging.WARNING, "recbole_sid"), locked(file, "the cache file"):
        assert len(looks) >= 3
    assert caplog.text.count(f"Waiting for process {other.process.pid} on ") == 1
    assert "at work on the cache file" in caplog.text


def test_the_lock_of_a_killed_process_is_taken_over_and_told(
    file: Path, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(other.process.pid, signal.SIGKILL)
    other.process.wait()
    assert file.is_file()
    with (
        caplog.at_level(logging.WARNING, "recbole_sid"),
        locked(file, "the folder", "name another"),
    ):
        pass
    assert f"left locked by process {other.process.pid}" in caplog.text
    assert not file.exists()


def test_only_the_lock_of_a_killed_process_is_cleared(file: Path, other: Other) -> None:
    locks.clear(file)
    assert file.is_file()
    other.process.kill()
    other.process.wait()
    locks.clear(file)
    assert not file.exists()
    locks.clear(file)


def test_junk_in_a_lock_file_is_no_owner(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for junk in (b"", b"\xff\x00", b"[1]", b'{"pid": 1}'):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(junk)
        with locked(file, "it", "name another"):
            pass
    assert caplog.text == ""


def test_a_lock_removed_by_its_last_owner_is_made_anew(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our opening of the file and our locking of it, its owner removes it."""
    flock, calls = locks.fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if not calls:
            file.unlink()
        calls.append(how)
        flock(handle, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    monkeypatch.setattr(locks, "PAUSE", 0)
    with locked(file, "it"):
        assert len(calls) == 2
        assert json.loads(file.read_text())["pid"] == os.getpid()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lock = tmp_path / "file" / ".lock"
    with (
        pytest.raises(InputError, match=r"it cannot be written: the lock .* cannot be made"),
        locked(lock, "it"),
    ):
        pass


def test_many_processes_take_turns(tmp_path: Path) -> None:
    """Each reads a number, waits and writes the next one: no step is lost."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            locks.PAUSE = 0.001
            for _ in range(5):
                with locked(tmp_path / ".lock", "the counter"):
                    value = int(counter.read_text())
                    time.sleep(0.002)
                    counter.write_text(str(value + 1))
            os._exit(0)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    assert counter.read_text() == "30"


def test_an_output_folder_has_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    with (
        run_folder.claimed(folder),
        pytest.raises(InputError, match=rf"run' is in use by process {os.getpid()} .* --output"),
        run_folder.claimed(folder),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
