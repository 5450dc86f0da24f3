"""SIDs read from a file: ours, or published ones of other projects. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.settings import require
from recbole_sid.sid.published import read_sids
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer


@dataclass(frozen=True)
class SIDFileSettings:
    """Settings of :class:`SIDFile`; their keys start with ``sid_``."""

    file: str | None
    sizes: list[int] | None
    unknown_items: Literal["refuse", "ignore"]

    def __post_init__(self) -> None:
        require(self.file is not None, "sid_file", self.file, "a path", "Give --sid_file=PATH.")
        path = Path(str(self.file))
        if not path.is_file():
            raise InputError(f"setting 'sid_file' is {self.file!r}, but there is no such file")


class SIDFile(Tokenizer[SIDFileSettings]):
    """Takes the codes of every item from ``sid_file``.

    A dedup digit in the file is dropped, since the ``collision`` rule of the run is applied
    afterwards and gives the same digit again. There is no code space: a rule that moves items takes
    the lowest codes with room.
    """

    Settings = SIDFileSettings
    name = "file"
    prefix = "sid_"
    needs_vectors = False
    trains = False

    def fit(self, items: Items) -> BaseCodes:
        settings = self.settings
        sids = read_sids(str(settings.file), settings.sizes)
        sids = sids.aligned(items.tokens, unknown=settings.unknown_items)
        base = np.ascontiguousarray(sids.base_codes)
        return BaseCodes(base, sids.sizes[: sids.n_base_levels], dict(sids.provenance))

    fit_sorted = fit
