"""The dual-tower contrastive loss of QuaSID (arXiv 2603.00632, Eq. 4-7)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def contrastive_loss(
    triggers: Tensor, targets: Tensor, rows: Tensor, temperature: float, paired: Tensor
) -> Tensor:
    """InfoNCE: each trigger finds its target among the targets of the batch.

        mean over i of -ln( exp(c_ii / t) / Σ_j exp(c_ij / t) ),   c_ij = cos(trigger_i, target_j)

    The target of another sample of the same trigger is no negative: such j are left out of the sum.
    As in the paper there is one direction, from trigger to target, and both come from one encoder.

    Args:
        triggers: (B, d), latents.
        targets: (B, d), latents; row i belongs to trigger i.
        rows: (B,), the items of the triggers.
        temperature: t, above 0.
        paired: bool (B,), the triggers that the mean is over; the targets of the others are still
            negatives. The loss is 0 if there are none.
    """
    logits = normalize(triggers, dim=1) @ normalize(targets, dim=1).T / temperature  # (B, B)
    same_trigger = (rows.unsqueeze(1) == rows).fill_diagonal_(False)
    logits = logits.masked_fill(same_trigger, -torch.inf)
    losses = cross_entropy(logits, torch.arange(len(rows), device=rows.device), reduction="none")
    return (losses * paired).sum() / paired.sum().clamp(min=1)
