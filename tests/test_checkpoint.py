from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_sid import checkpoint
from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError


class Clock:
    """Stands still but for what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(checkpoint.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def saved_at(kept: Checkpoint, clock: Clock, now: float, value: int) -> bool:
    clock.now = now
    kept.save_when_due(lambda: {"value": value})
    state = kept.load("cpu")
    return state is not None and state["value"] == value


def test_writes_are_ten_seconds_apart_when_they_are_quick(tmp_path: Path, clock: Clock) -> None:
    kept = Checkpoint(tmp_path / "codes" / "abc.safetensors")
    times = [100, 109, 110, 119, 120.5, 130, 130.5]
    written = [saved_at(kept, clock, now, number) for number, now in enumerate(times)]
    assert written == [False, False, True, False, True, False, True]
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["abc.training.pt"]


def test_writes_take_at_most_a_fiftieth_of_the_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def slow(state: object, path: Path) -> None:
        clock.now += 2
        save(state, path)

    monkeypatch.setattr(checkpoint.torch, "save", slow)
    kept = Checkpoint(tmp_path / "abc.safetensors")
    assert saved_at(kept, clock, 110, 1)  # until 112
    assert not saved_at(kept, clock, 112 + 97, 2)
    assert saved_at(kept, clock, 112 + 98, 3)  # 98 seconds of work, 2 of writing


def test_what_is_written_comes_back_and_goes_when_the_work_is_done(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "abc.safetensors"
    path.write_bytes(b"the result")
    kept = Checkpoint(path)
    assert kept.load("cpu") is None
    clock.now += 10
    kept.save_when_due(lambda: {"vectors": torch.arange(3), "history": [{"loss": 0.5}]})
    state = Checkpoint(path).load("cpu")
    assert state is not None
    assert state["vectors"].tolist() == [0, 1, 2]
    assert state["history"] == [{"loss": 0.5}]
    kept.finish()
    assert list(tmp_path.iterdir()) == [path]
    kept.finish()


def test_a_damaged_file_and_one_that_could_run_code_are_refused(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "abc.safetensors")
    for content in (b"", b"PK", b"text"):
        kept.path.write_bytes(content)
        with pytest.raises(InputError, match=r"abc\.training\.pt' has no checksum .*: delete it"):
            kept.load("cpu")
    checkpoint.save_state(kept.path, {"path": tmp_path})
    with pytest.raises(InputError, match="more than tensors and plain data"):
        kept.load("cpu")
    for other in ({"epoch": 1}, {"of": "xyz.training.pt", "state": {"epoch": 1}}):
        checkpoint.save_state(kept.path, other)
        with pytest.raises(InputError, match=r"abc\.training\.pt' is the state of other work"):
            kept.load("cpu")


def test_a_state_without_what_is_looked_for_is_refused(tmp_path: Path, clock: Clock) -> None:
    kept = Checkpoint(tmp_path / "abc.safetensors")
    assert saved_at(kept, clock, 200, 1)
    state = kept.load("cpu")
    assert state == {"value": 1}
    assert state.get("vectors") is None
    with pytest.raises(
        InputError, match=r"abc\.training\.pt' lacks 'vectors': .* other work\. Rem"
    ):
        state["vectors"]
    with pytest.raises(InputError, match=r"lacks 'sids'"):
        checkpoint.load_state(kept.path, "cpu", "delete it")["sids"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "codes").write_text("")
    kept = Checkpoint(tmp_path / "codes" / "abc.safetensors")
    assert kept.load("cpu") is None
    clock.now += 10
    with pytest.raises(InputError, match=r"codes' cannot be made .* name another --cache_dir"):
        kept.save_when_due(dict)
    kept.finish()
