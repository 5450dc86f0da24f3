"""One seed a stage, so that a cached stage 1 leaves stage 2 as it would have been."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def stage_seed(seed: int, stage: str) -> int:
    """A seed for ``stage`` derived from the run's ``seed``; 0 to 2**31 - 1."""
    digest = hashlib.sha256(f"{seed}/{stage}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def random_state(device: torch.device) -> list[Tensor]:
    """State of torch's global random numbers, as far as work on ``device`` draws them."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Go on from what :func:`random_state` gave."""
    torch.set_rng_state(states[0].cpu())
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1].cpu(), device)
