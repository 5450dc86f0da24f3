"""Dropout whose masks are cheap to draw on a CPU.

Drawing one Bernoulli number an element took 30 % of a training step; a random byte an element takes
a tenth of that. The rate is rounded to a multiple of 1/256, but never to 0 or 1 unless it is 0.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """``nn.Dropout`` with byte masks on a CPU, and ``nn.Dropout`` itself elsewhere.

    Masks follow torch's global random state, so seeding or restoring that repeats them.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.threshold = min(max(round(rate * 256), 1), 255) if rate > 0 else 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.threshold == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        seed = int(torch.randint(2**62, ()))
        words = np.random.SFC64(seed).random_raw(-(-x.numel() // 8))  # 8 bytes each
        kept = words.view(np.uint8)[: x.numel()] >= self.threshold
        return x * _scaled(kept, 256 / (256 - self.threshold), x.dtype).view(x.shape)


def _scaled(kept: np.ndarray, scale: float, dtype: torch.dtype) -> Tensor:
    """``scale`` where ``kept``, 0 elsewhere, as a flat tensor of a floating ``dtype``.

    The number's bits are multiplied as an integer: torch takes eight times longer to turn booleans
    into bfloat16 and multiply them.
    """
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = torch.tensor([scale], dtype=dtype).view(torch.uint8).numpy().view(unsigned)[0]
    mask = np.multiply(kept, bits, dtype=unsigned)
    return torch.from_numpy(mask.view(np.uint8)).view(dtype)
