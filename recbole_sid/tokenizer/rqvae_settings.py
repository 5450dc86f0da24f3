"""Settings of the RQ-VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_sid.settings import require
from recbole_sid.tokenizer.repulsion import RepulsionSettings
from recbole_sid.tokenizer.vectors import VectorSettings


@dataclass(frozen=True)
class RQVAESettings(VectorSettings, RepulsionSettings):
    """Settings of :class:`~recbole_sid.tokenizer.rqvae.RQVAE`."""

    standardize: bool
    hidden_sizes: list[int]
    latent_dim: int
    dropout: float
    loss_unit: Literal["length", "one"]
    commitment: float
    codebook_update: Literal["ema", "gradient"]
    ema_decay: float
    kmeans_init: bool
    kmeans_init_sample: int | None
    restart_after: int | None
    optimizer: Literal["adam", "adamw", "adagrad"]
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    log_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latent_dim", "epochs", "batch_size", "log_every"):
            value = vars(self)[name]
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")
        for name in ("kmeans_init_sample", "restart_after"):
            value = vars(self)[name]
            ok = value is None or value >= 1
            require(ok, f"tokenizer_{name}", value, "at least 1, or empty (~)")
        for name in ("commitment", "weight_decay"):
            value = vars(self)[name]
            require(value >= 0, f"tokenizer_{name}", value, "at least 0")
        for name in ("dropout", "ema_decay"):
            value = vars(self)[name]
            require(0 <= value < 1, f"tokenizer_{name}", value, "at least 0 and below 1")
        require(self.learning_rate > 0, "tokenizer_learning_rate", self.learning_rate, "above 0")
        require(
            all(size >= 1 for size in self.hidden_sizes),
            "tokenizer_hidden_sizes",
            self.hidden_sizes,
            "at least 1 in every layer",
        )
