"""What is measured of a tokenizer, and on which part of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_sid.settings import require


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of ``tokenize``; defaults and meanings: ``properties/measures.yaml``.

    How retrieval is measured is said by :class:`.retrieval.RetrievalSettings`.
    """

    held_out_share: float
    retrieval: bool
    retrieval_split: Literal["valid", "test"]

    def __post_init__(self) -> None:
        share = self.held_out_share
        require(0 <= share < 1, "held_out_share", share, "0, or above 0 and below 1")
