"""Faults from outside: a full disk, two processes at once, damaged and malicious files."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recbole_sid
from recbole_sid import files, run_folder
from recbole_sid.errors import InputError
from recbole_sid.items.encoder import cached_vectors
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.export import export
from tests.runs import SMALL, snapshot, write_data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from reliability_corrupt import KINDS, damaged
from reliability_pickles import KINDS as PICKLES
from reliability_pickles import check_marker, plant

HISTORIES = [["1", "50", "100"], ["7"]]


@pytest.fixture
def copy(trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0]["run_folder"], tmp_path / "run"))


def lists(folder: Path) -> list[Any]:
    found = recbole_sid.recommend(folder, HISTORIES, 5, show_progress=False)
    return [(each.items, each.scores.tobytes()) for each in found]


def test_a_run_that_meets_a_full_disk_goes_on_when_there_is_room(tmp_path, cache, monkeypatch):
    rows = [(f"u{u}", f"i{(u * 7 + n * n) % 30}", n) for u in range(20) for n in range(6 + u % 3)]
    given = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    given |= {"epochs": 3, "cache_dir": cache, **write_data(tmp_path / "data", rows)}
    first = {**given, "output": str(tmp_path / "a")}
    whole = recbole_sid.run("TIGER", "made", config_dict=first)
    given |= {"output": str(tmp_path / "b")}
    flush, states = files.flush, []

    def full(path: Path) -> None:
        states.append(path.name.startswith(".training.pt."))
        if sum(states) == 2 and states[-1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    monkeypatch.setattr(files, "flush", full)
    with pytest.raises(InputError, match=r"training\.pt' cannot be written \(No space left"):
        recbole_sid.run("TIGER", "made", config_dict=given)
    monkeypatch.undo()
    assert not list((tmp_path / "b").glob(".*"))
    again = recbole_sid.run("TIGER", "made", config_dict={**given, "resume": True})
    assert again["test_result"] == whole["test_result"]
    for name in (run_folder.RESULT, run_folder.WEIGHTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_in_use_is_refused_at_once_and_left_alone(tmp_path, cache):
    folder = tmp_path / "run"
    given = {**SMALL, "cache_dir": cache, "output": str(folder)}
    with run_folder.claimed(folder):
        before = snapshot(folder)
        for start in (
            lambda: recbole_sid.run("TIGER", "ml-100k", config_dict=given),
            lambda: recbole_sid.tokenize("TIGER", "ml-100k", config_dict=given),
        ):
            with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .* since"):
                start()
        assert snapshot(folder) == before


def test_processes_that_share_a_cache_make_a_file_once(tmp_path):
    path, calls = tmp_path / "cache" / "text-a.safetensors", tmp_path / "calls"

    def run(_checkpoint: object) -> np.ndarray:
        with calls.open("a") as file:
            file.write("called\n")
        time.sleep(0.3)
        return np.arange(6, dtype=np.float32).reshape(2, 3)

    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            found = cached_vectors(path, "a", "Item texts", run)
            os._exit(0 if found.tolist() == [[0, 1, 2], [3, 4, 5]] else 1)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    assert calls.read_text() == "called\n"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", [run_folder.CONFIG, run_folder.SIDS, run_folder.WEIGHTS])
def test_damage_in_a_run_is_an_error_or_changes_nothing(copy, name):
    whole, rng = lists(copy), np.random.default_rng(0)
    content, refused = (copy / name).read_bytes(), 0
    for kind in KINDS * 3:
        (copy / name).write_bytes(damaged(content, kind, rng, b"other"))
        try:
            assert lists(copy) == whole
        except InputError:
            refused += 1
    assert refused > len(KINDS)
    (copy / name).write_bytes(content)
    assert lists(copy) == whole


def test_an_edited_setting_or_result_of_a_run_is_refused(copy):
    for name, old, new in (
        (run_folder.CONFIG, "beam_size: 10", "beam_size: 12"),
        (run_folder.RESULT, '"parameters": ', '"parameters": 1'),
    ):
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new))
        for use in (open_bundle, recbole_sid.load):
            with pytest.raises(InputError, match=rf"{name}' is damaged or was edited.*--overwrite"):
                use(copy)
        (copy / name).write_text(text)


def test_a_pickle_in_the_place_of_a_file_is_not_run(copy, tmp_path, trained):
    check_marker(tmp_path)
    marker = tmp_path / "marker"
    settings = {**trained[1], "output": str(copy)}
    for name in run_folder.CONFIG, run_folder.SIDS, run_folder.WEIGHTS, run_folder.RESULT:
        content = (copy / name).read_bytes()
        for kind in PICKLES:
            plant(copy / name, kind, marker)
            again = partial(recbole_sid.run, "TIGER", "ml-100k", config_dict=settings)
            with pytest.raises(InputError, match=re.escape(name)):
                again() if name == run_folder.RESULT else lists(copy)
        (copy / name).write_bytes(content)
    assert not marker.exists()


def test_recboles_own_pickles_are_not_read_unasked(tmp_path, cache):
    marker = tmp_path / "marker"
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("ml-100k-SequentialDataset.pth", "ml-100k-for-TIGER-dataloader.pth"):
        plant(folder / name, "pickle", marker)
    recbole_sid.run(
        "TIGER", "ml-100k", config_dict={**SMALL, "cache_dir": cache, "output": str(folder)}
    )
    assert not marker.exists()


def test_an_export_moved_away_by_a_killed_process_comes_back(copy, tmp_path):
    output = export(copy, tmp_path / "out")
    before = snapshot(output)
    output.rename(tmp_path / ".out.123.old")
    (tmp_path / ".out.123.tmp").mkdir()
    with pytest.raises(InputError, match=r"out' exists: name another folder"):
        export(copy, output)
    assert snapshot(output) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "run"]
