"""One seed a stage, so that a cached stage 1 leaves stage 2 as it would have been."""

from __future__ import annotations

import hashlib


def stage_seed(seed: int, stage: str) -> int:
    """A seed for ``stage`` derived from the run's ``seed``; 0 to 2**31 - 1."""
    digest = hashlib.sha256(f"{seed}/{stage}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
