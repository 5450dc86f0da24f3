"""Times of stages and of trainings, with a clock that is set by hand."""

import pytest

from recbole_sid.clock import Clock, EpochClock, spelled


@pytest.fixture
def now(monkeypatch):
    time = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: time[0])
    return time


def test_stages_and_what_was_before(now):
    clock = Clock()
    with clock("data"):
        now[0] += 2
    with clock("train"):
        now[0] += 3.5
    clock.add("train", 1.25)
    assert clock.report()["seconds"] == {"data": 2.0, "train": 4.75, "total": 6.75}


def test_a_training_that_goes_on(now):
    clock = EpochClock()
    clock.before = 50.0
    now[0] = 1000.0
    clock.start()
    now[0] += 30
    assert clock.seconds == 80
    # Two epochs took the 30 seconds of this process; those before may have had other company.
    assert clock.left(2, 5) == "at most about 75 s left"
    assert clock.left(2, 0) == "the last one"


def test_times_as_people_say_them():
    assert [spelled(value) for value in (0.4, 99.4, 100, 5_999, 6_000)] == [
        "0 s", "99 s", "2 min", "100 min", "1.7 h"
    ]  # fmt: skip
