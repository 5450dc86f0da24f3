"""InfoNCE between two sides of a batch: the dual-tower loss of QuaSID (arXiv 2603.00632, Eq. 4-7),
and UniSID's loss of dense vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def contrastive_loss(
    triggers: Tensor, targets: Tensor, alike: Tensor, temperature: float, paired: Tensor
) -> Tensor:
    """InfoNCE: each trigger finds its target among the targets of the batch.

        mean over i of -ln( exp(c_ii / t) / Σ_j exp(c_ij / t) ),   c_ij = cos(trigger_i, target_j)

    Targets that are no negatives of a trigger are left out of its sum; its own target stays. As in
    QuaSID there is one direction, from trigger to target, and both come from one encoder.

    Args:
        triggers: (B, d), latents.
        targets: (B, d), latents; row i belongs to trigger i.
        alike: bool (B, B), the targets j that are no negatives of trigger i. QuaSID: those of
            other samples of the same trigger.
        temperature: t, above 0.
        paired: bool (B,), the triggers that the mean is over; the targets of the others are still
            negatives. The loss is 0 if there are none.
    """
    logits = normalize(triggers, dim=1) @ normalize(targets, dim=1).T / temperature  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    logits = logits.masked_fill(alike & (own[:, None] != own), -torch.inf)
    losses = cross_entropy(logits, own, reduction="none")
    return (losses * paired).sum() / paired.sum().clamp(min=1)
