"""The settings of a run as a whole: its folder, its cache, what becomes of SIDs that collide."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbole_sid import settings
from recbole_sid.splitting import parse_times

MAX_HEADROOM = 4096
# What no path may have.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class RunSettings:
    """What holds for a whole run; meanings and defaults in ``properties/overall.yaml``."""

    output: str | None
    resume: bool
    overwrite: bool
    strict: bool
    cache_dir: str | None
    collision: Literal["dedup", "none", "reassign_last", "nearest_free", "random_free"]
    collision_capacity: int
    collision_headroom: int
    split_times: Any
    withheld_items: float

    def __post_init__(self) -> None:
        for key in ("output", "cache_dir"):
            name = getattr(self, key)
            plain = name is None or not CONTROL.search(name)
            settings.require(plain, key, name, "a path without control characters")
        parse_times(self.split_times)
        share = self.withheld_items
        settings.require(0 <= share < 1, "withheld_items", share, "at least 0 and below 1")
        capacity, headroom = self.collision_capacity, self.collision_headroom
        settings.require(capacity >= 1, "collision_capacity", capacity, "at least 1")
        settings.require(
            0 <= headroom <= MAX_HEADROOM,
            "collision_headroom",
            headroom,
            f"0 to {MAX_HEADROOM}: every digit is a code that the generator scores",
        )
        settings.require(
            headroom == 0 or self.collision == "dedup",
            "collision_headroom",
            headroom,
            f"0 with collision: {self.collision}, which has no dedup digit",
        )

    @property
    def cache_folder(self) -> Path:
        """``cache_dir``, else the environment's RECBOLE_SID_CACHE, else a folder in the home."""
        named = self.cache_dir or os.environ.get("RECBOLE_SID_CACHE")
        return Path(named) if named else Path.home() / ".cache" / "recbole_sid"
