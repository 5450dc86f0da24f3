"""Random codes: the control that any tokenizer which looks at the items has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recbole_sid.tokenizer.base import BaseCodes, Items, LevelSettings, Tokenizer, logger
from recbole_sid.tokenizer.code_use import code_use, describe


class RandomCodes(Tokenizer[LevelSettings]):
    """Every code of every item is drawn uniformly, as in TIGER's ablation (arXiv 2305.05065).

    They have no code space: a collision rule that moves items takes the lowest codes with room.
    """

    Settings: ClassVar[type] = LevelSettings
    name: ClassVar[str] = "random"
    needs_vectors: ClassVar[bool] = False
    parallel: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def fit_sorted(self, items: Items) -> BaseCodes:
        sizes = self.settings.sizes
        rng = np.random.default_rng(self.seed)
        shape = (len(items.tokens), len(sizes))
        codes = rng.integers(0, sizes, size=shape, dtype=np.int32)  # (n, L)
        use = code_use(codes, sizes)
        logger.info("random codes: %s", describe(use))
        return BaseCodes(codes, sizes, dict(use))
