from __future__ import annotations

from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from recbole_sid.filesets import refuse_finished, written_together
from recbole_sid.locks import locked

FILES = ("a.csv", "b.csv")


def write(folder: Path, text: str, fails: bool = False, overwrite: bool = False) -> None:
    with written_together(folder, "set", FILES, "choose another", overwrite):
        (folder / "a.csv").write_text(text)
        if fails:
            raise KeyError
        (folder / "b.csv").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_else_stays_and_a_finished_set_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write(folder, "old")
    assert names(folder) == ["a.csv", "b.csv"]
    with pytest.raises(InputError, match=r"a\.csv' exists: --overwrite replaces it, or choose"):
        write(folder, "new")
    write(folder, "new", overwrite=True)
    assert (folder / "b.csv").read_text() == "new"


def test_an_unfinished_set_is_done_again_and_half_written_files_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write(tmp_path, "half", fails=True)
    (tmp_path / ".b.csv.7.tmp").write_text("ha")
    (tmp_path / ".other.7.tmp").write_text("of somebody else")
    refuse_finished(tmp_path, "set", FILES, "choose another")
    with pytest.raises(InputError, match="exists"):
        refuse_finished(tmp_path, "another set", FILES, "choose another")
    write(tmp_path, "whole")
    assert names(tmp_path) == [".other.7.tmp", "a.csv", "b.csv"]
    assert (tmp_path / "a.csv").read_text() == "whole"


def test_a_failure_before_the_first_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), written_together(tmp_path, "set", FILES, "choose another"):
        raise KeyError
    assert names(tmp_path) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".set.lock", "it"),
        pytest.raises(InputError, match=r"'set' in the folder .* is in use by process"),
    ):
        write(tmp_path, "new")
    assert names(tmp_path) == []
