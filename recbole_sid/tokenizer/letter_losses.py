"""The two losses that LETTER adds to an RQ-VAE (arXiv 2405.07314): L_CF and L_Div.

Both are softmaxes over plain inner products, without a temperature. The paper does not say what
becomes of rows that have no partner; here they are left out of the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

NO_PARTNER = -1


def alignment_loss(quantized: Tensor, behaviour: Tensor, known: Tensor) -> Tensor:
    """Collaborative alignment L_CF: each item's quantised vector finds its own behaviour vector.

        mean over known i of -ln( exp(ẑ_i · h_i) / Σ_{known j} exp(ẑ_i · h_j) )

    Args:
        quantized: ẑ (B, d), sums of code vectors.
        behaviour: h (B, d).
        known: bool (B,), the items that have a behaviour vector. The others are neither drawn to
            one nor negatives. The loss is 0 if there are none.
    """
    logits = (quantized @ behaviour.T).masked_fill(~known, -torch.inf)  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return _mean_cross_entropy(logits, torch.where(known, own, NO_PARTNER))


def diversity_loss(code_vectors: Tensor, codes: Tensor, partners: Tensor) -> Tensor:
    """Diversity L_Div of one level: a chosen code is drawn to another one of its cluster.

        mean over i of -ln( exp(e_c · e_p) / Σ_{k ≠ c} exp(e_c · e_k) )

    with c the code of item i and p its partner. The sum is over all codes but the chosen one, so
    that clusters part, and the codes of each stay together.

    Args:
        code_vectors: e (K, d) of the level.
        codes: int64 (B,), the code of each item.
        partners: int64 (B,), another code of the same cluster, or :data:`NO_PARTNER` where the
            cluster has none: such items are left out. The loss is 0 if all are.
    """
    logits = code_vectors[codes] @ code_vectors.T  # (B, K)
    logits = logits.scatter(1, codes[:, None], -torch.inf)
    return _mean_cross_entropy(logits, partners)


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Over the rows that have a target."""
    paired = targets != NO_PARTNER
    total = cross_entropy(logits[paired], targets[paired], reduction="sum")
    return total / paired.sum().clamp(min=1)
