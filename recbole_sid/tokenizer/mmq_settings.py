"""Settings of MMQ-v2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_sid.settings import require
from recbole_sid.tokenizer.base import MAX_CODES, MAX_LEVELS

_AT_LEAST_1 = ("shared_dim", "latent_dim", "epochs", "batch_size", "log_every")
_AT_LEAST_1_OR_NONE = ("kmeans_init_sample", "restart_after")
_AT_LEAST_0 = (
    "shared_experts",
    "text_experts",
    "image_experts",
    "behaviour_experts",
    "commitment",
    "content_weight",
    "alignment_weight",
    "orthogonality_weight",
    "penalty_start",
    "weight_decay",
)
_SHARES = ("dropout", "behaviour_dropout", "ema_decay", "sparsity")
_ABOVE_0 = ("temperature", "learning_rate")


@dataclass(frozen=True)
class MMQSettings:
    """Settings of :class:`~recbole_sid.tokenizer.mmq.MMQ`.

    Every expert gives one code. Those of the images only exist where items have image vectors.
    """

    shared_experts: int
    text_experts: int
    image_experts: int
    behaviour_experts: int
    codebook_size: int
    hidden_sizes: list[int]
    gate_hidden_sizes: list[int]
    shared_dim: int
    latent_dim: int
    dropout: float
    behaviour_dropout: float
    modality_balance: Literal["equal", "dimensions"]
    loss_unit: Literal["length", "one"]
    commitment: float
    codebook_update: Literal["ema", "gradient"]
    ema_decay: float
    kmeans_init: bool
    kmeans_init_sample: int | None
    restart_after: int | None
    content_weight: float
    alignment_weight: float
    temperature: float
    strength_slope: float
    strength_damped: float | None
    strength_threshold: float
    sparsity: float
    penalty_start: float
    penalty_step: float
    orthogonality_weight: float
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    log_every: int
    collapse_below: float

    def __post_init__(self) -> None:
        for name in _AT_LEAST_1:
            self._require(name, vars(self)[name] >= 1, "at least 1")
        for name in _AT_LEAST_1_OR_NONE:
            value = vars(self)[name]
            self._require(name, value is None or value >= 1, "at least 1, or empty (~)")
        for name in _AT_LEAST_0:
            self._require(name, vars(self)[name] >= 0, "at least 0")
        for name in _SHARES:
            self._require(name, 0 <= vars(self)[name] < 1, "at least 0 and below 1")
        for name in _ABOVE_0:
            self._require(name, vars(self)[name] > 0, "above 0")
        for name in ("hidden_sizes", "gate_hidden_sizes"):
            sizes = vars(self)[name]
            self._require(name, all(size >= 1 for size in sizes), "at least 1 in every layer")
        self._require("codebook_size", 2 <= self.codebook_size <= MAX_CODES, f"2 to {MAX_CODES}")
        self._require("penalty_step", self.penalty_step >= 1, "at least 1")
        damped = self.strength_damped
        bound = "at least 0 and below 1, or empty (~)"
        self._require("strength_damped", damped is None or 0 <= damped < 1, bound)
        self._require("collapse_below", 0 <= self.collapse_below <= 1, "0 to 1")
        # Images may be absent, and a SID of no code is none.
        always = self.shared_experts + self.text_experts + self.behaviour_experts
        bound = f"such that there are 1 to {MAX_LEVELS} experts, also without those of images"
        fits = always >= 1 and always + self.image_experts <= MAX_LEVELS
        self._require("shared_experts", fits, bound)

    def _require(self, name: str, condition: bool, bound: str) -> None:
        require(condition, f"tokenizer_{name}", vars(self)[name], bound)
