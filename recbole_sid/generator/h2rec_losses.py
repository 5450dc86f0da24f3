"""The alignments of H2Rec (arXiv 2512.10388): code-guided, and of masked granularity.

Their formulas follow the authors' code where :mod:`.h2rec` says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def code_alignment_loss(hid: Tensor, sid: Tensor, near: Tensor, temperature: float) -> Tensor:
    """L_code: an item's two vectors find each other, and those of items with near codes.

        l(a, b) = mean over i of -ln( Σ_{j ∈ P(i)} exp(c_ij / t) / Σ_j exp(c_ij / t) )
        L = ( l(hid, sid) + l(sid, hid) ) / 2,   c_ij = cos(a_i, b_j)

    One positive of many satisfies it, the item's own or a neighbour's: where the own HID has seen
    little training, what draws it are the SID vectors that its neighbours have trained.

    Args:
        hid: (M, d), hash-ID embeddings of different items.
        sid: (M, d), their SID vectors.
        near: bool (M, M), symmetric: P(i), the items with codes near those of i, and i itself.
        temperature: t, above 0.
    """
    logits = _logits(hid, sid, temperature)
    losses = [
        (scores.logsumexp(dim=1) - scores.masked_fill(~near, -torch.inf).logsumexp(dim=1)).mean()
        for scores in (logits, logits.T)
    ]
    return torch.stack(losses).mean()


def granularity_loss(masked: Tensor, whole: Tensor, users: Tensor, temperature: float) -> Tensor:
    """L_seq: what a history says without some levels of its codes is what it says with all.

        l(a, b) = mean over i of -ln( exp(c_ii / t) / Σ_{j ∈ N(i)} exp(c_ij / t) )
        L = ( l(masked, whole) + l(whole, masked) ) / 2,   c_ij = cos(a_i, b_j)

    with N(i) the histories of other users, and i itself.

    Args:
        masked: (B, d), states of histories with levels masked.
        whole: (B, d), states of the same histories with all levels.
        users: (B,); other histories of the same user are no negatives.
        temperature: t, above 0.
    """
    logits = _logits(masked, whole, temperature)
    own = torch.arange(len(logits), device=logits.device)
    same_user = (users[:, None] == users) & (own[:, None] != own)
    logits = logits.masked_fill(same_user, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _logits(rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """c_ij / t (M, M) of two times M vectors, float32 whatever autocast says: half precision is too
    coarse for a cosine that is divided by a temperature."""
    with torch.autocast(rows.device.type, enabled=False):
        cosines = F.normalize(rows.float(), dim=1) @ F.normalize(columns.float(), dim=1).T
    return cosines / temperature
