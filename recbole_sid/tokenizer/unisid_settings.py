"""Settings of UniSID."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_sid.settings import require
from recbole_sid.tokenizer.backbone import BackboneSettings
from recbole_sid.tokenizer.balanced_batches import BatchSettings
from recbole_sid.tokenizer.granularity import GranularitySettings
from recbole_sid.tokenizer.reconstruction import ReconstructionSettings
from recbole_sid.tokenizer.repulsion import RepulsionSettings


@dataclass(frozen=True)
class UniSIDSettings(
    GranularitySettings, BatchSettings, RepulsionSettings, BackboneSettings, ReconstructionSettings
):
    """Settings of :class:`~recbole_sid.tokenizer.unisid.UniSID`, and those of its parts."""

    similarity: Literal["logits", "probabilities"]
    similarity_temperature: float
    rotate: bool
    sid_weight: float
    sid_temperature: float
    balance_weight: float
    balance_temperature: float
    embedding_weight: float
    embedding_temperature: float
    embedding_dim: int
    second_view: bool
    pair_levels: int | None
    apart_weight: float
    reconstruction_weight: float
    repulsion_on: Literal["logits", "embedding"]
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    warmup_share: float
    clip_norm: float
    epochs: int
    precision: Literal["auto", "float32", "bf16"]
    collapse_below: float

    def __post_init__(self) -> None:
        # The parts derive from one base or from none: each checks its own.
        GranularitySettings.__post_init__(self)
        BatchSettings.__post_init__(self)
        RepulsionSettings.__post_init__(self)
        BackboneSettings.__post_init__(self)
        ReconstructionSettings.__post_init__(self)
        require(
            len(set(self.sizes)) == 1,
            "tokenizer_codebook_size",
            self.codebook_size,
            "one number for all levels: their logits are compared as one array",
        )
        weights = ("sid_weight", "balance_weight", "embedding_weight", "reconstruction_weight")
        for name in (*weights, "weight_decay"):
            value = vars(self)[name]
            require(value >= 0, f"tokenizer_{name}", value, "at least 0")
        require(
            any(vars(self)[name] > 0 for name in weights),
            "tokenizer_sid_weight",
            self.sid_weight,
            "above 0 where the weights of all other losses are 0",
        )
        for name in (
            "similarity_temperature",
            "sid_temperature",
            "balance_temperature",
            "embedding_temperature",
            "learning_rate",
            "head_learning_rate",
            "clip_norm",
        ):
            value = vars(self)[name]
            require(value > 0, f"tokenizer_{name}", value, "above 0")
        require(
            self.pair_levels is None or 0 <= self.pair_levels <= self.levels,
            "tokenizer_pair_levels",
            self.pair_levels,
            f"0 to the number of levels, {self.levels}, or ~ for all",
        )
        source, pairs = self.granularity_source, self.pair_levels
        require(
            source != "none" or self.second_view or pairs in (None, self.levels),
            "tokenizer_granularity_source",
            source,
            "category or clusters where a level has neither second views nor pairs for positives",
            "Or set tokenizer_second_view to true, or tokenizer_pair_levels to ~.",
        )
        apart = self.apart_weight
        require(0 <= apart <= 1, "tokenizer_apart_weight", apart, "0 to 1")
        for name in ("embedding_dim", "epochs"):
            value = vars(self)[name]
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")
        for name in ("warmup_share", "collapse_below"):
            value = vars(self)[name]
            require(0 <= value <= 1, f"tokenizer_{name}", value, "0 to 1")
