from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from recbole_sid.files import CannotWrite, remove_leftovers, written_whole


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write(fails: bool) -> None:
        with written_whole(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            if fails:
                raise KeyError

    with pytest.raises(KeyError):
        write(fails=True)
    assert path.read_text() == "old"
    write(fails=False)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_go_and_other_files_stay(tmp_path: Path) -> None:
    kept = ["a.json", ".a.json", "a.json.tmp", ".notes.tmp", ".b.json.7.tmp"]
    for name in [*kept, ".a.json.7.tmp", ".a.json.123.tmp"]:
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, ["a.json", "c.json"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_what_another_process_may_be_writing_stays(tmp_path: Path) -> None:
    for name, age in ((".old.1.tmp", 4000), (".new.2.tmp", 3000)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_leftovers(tmp_path, seconds=3600)
    assert [path.name for path in tmp_path.iterdir()] == [".new.2.tmp"]


def test_file_and_name_are_on_the_disk_before_anyone_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps, replace = tmp_path / "a.json", [], os.replace

    def synced(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        assert folder or os.pread(handle, 10, 0) == b"new"
        steps.append("folder" if folder else "file")

    def moved(source: Path, target: Path) -> None:
        steps.append("moved")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    with written_whole(path) as temporary:
        temporary.write_text("new")
    assert steps == ["file", "moved", "folder"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_cannot_be_written_is_one_error_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def write() -> None:
        with written_whole(path, "x") as temporary:
            if call == "open":
                fails()
            temporary.write_text("new")
            if call == "write":
                fails()

    if call in ("fsync", "replace"):
        monkeypatch.setattr(os, call, fails)
    with pytest.raises(CannotWrite, match=rf"a\.json' cannot .* \({os.strerror(number)}\): x"):
        write()
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert issubclass(CannotWrite, InputError)


def test_an_error_of_another_file_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), written_whole(tmp_path / "a"):
        (tmp_path / "absent").read_text()
