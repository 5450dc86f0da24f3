"""The settings of stage 2, and the learning rate that they give every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from recbole_sid.errors import preview
from recbole_sid.settings import require

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of stage 2; the defaults of the first three stand in ``properties/overall.yaml``.

    The others are RecBole's: what our trainer would not do is refused.
    """

    precision: Literal["auto", "float32", "bf16"]
    lr_schedule: Literal["constant", "cosine", "inverse_sqrt"]
    warmup_steps: int
    learner: str
    clip_grad_norm: dict | None
    enable_amp: bool
    enable_scaler: bool
    shuffle: bool
    transform: str | None
    train_neg_sample_args: dict

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        # RecBole takes Adam for a name that it does not know.
        require(
            self.learner.lower() in LEARNERS, "learner", self.learner, "one of " + preview(LEARNERS)
        )
        clip = self.clip_grad_norm
        require(
            clip is None or ("max_norm" in clip and clip.keys() <= {"max_norm", "norm_type"}),
            "clip_grad_norm",
            clip,
            "empty (~) or {max_norm: NUMBER}",
        )
        require(not self.enable_amp, "enable_amp", True, "False", "Use precision: bf16.")
        require(not self.enable_scaler, "enable_scaler", True, "False", "bf16 needs no scaler.")
        remedy = "Semantic-ID models shuffle and batch the training sequences themselves."
        require(self.shuffle, "shuffle", False, "True", remedy)
        require(self.transform is None, "transform", self.transform, "empty (~)", remedy)
        negatives = self.train_neg_sample_args
        require(
            negatives.get("distribution") == "none",
            "train_neg_sample_args",
            negatives,
            "empty (~)",
            "The loss is over all codes of a level.",
        )


def lr_factor(step: int, schedule: str, warmup_steps: int, total_steps: int) -> float:
    """What the peak learning rate is multiplied with at ``step`` (0 is the first).

    A linear warm-up to 1, then ``constant``; ``inverse_sqrt``: sqrt(warmup / step), TIGER's; or
    ``cosine``: half a period down to 0 at ``total_steps``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt(max(warmup_steps, 1) / max(step, 1))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
