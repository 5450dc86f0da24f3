"""A world of synthetic ads: the default of ad tests and of the scale benchmark."""

from __future__ import annotations

from recbole_sid.ads.world import make_ads

__all__ = ["make_ads"]
