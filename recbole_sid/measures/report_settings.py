"""What is measured of given SIDs."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_sid.settings import require


@dataclass(frozen=True)
class ReportSettings:
    """Settings of ``sids``; defaults and meanings: ``properties/sids.yaml``."""

    report_neighbours: int
    report_vectors: bool
    report_score: str

    def __post_init__(self) -> None:
        k = self.report_neighbours
        require(k >= 1, "report_neighbours", k, "at least 1")
