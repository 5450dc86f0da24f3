from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from tests.configs import tiger


def test_headroom_is_for_the_dedup_digit_alone():
    assert tiger(collision_headroom=4096).run.collision_headroom == 4096
    for changes, message in (
        ({"collision_headroom": -1}, "'collision_headroom' is -1, but must be 0 to 4096"),
        ({"collision_headroom": 4097}, "'collision_headroom' is 4097"),
        ({"collision_headroom": 1, "collision": "none"}, "0 with collision: none"),
    ):
        with pytest.raises(InputError, match=message):
            tiger(**changes)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("RECBOLE_SID_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiger().run.cache_folder == tmp_path / ".cache" / "recbole_sid"
    monkeypatch.setenv("RECBOLE_SID_CACHE", "/from/environment")
    assert tiger().run.cache_folder == Path("/from/environment")
    assert tiger(cache_dir="/named").run.cache_folder == Path("/named")
