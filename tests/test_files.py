from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from recbole_sid.files import remove_leftovers, written_whole


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
