"""The losses of H2Rec (arXiv 2512.10388): next item, code-guided alignment, masked granularity.

The formulas of the last two follow the authors' code where :mod:`.h2rec` says so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores that a chunk of samples may hold in float32: 64 MB.
SCORES_AT_ONCE = 2**24


def full_softmax_loss(hidden: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of inner products, over all items, without a samples x items matrix.

        mean over n of -ln( exp(h_n · v_t(n)) / Σ_i exp(h_n · v_i) )

    Samples are scored in chunks of at most ``SCORES_AT_ONCE`` numbers; a chunk's gradients are made
    on the way, while its probabilities are there.

    Args:
        hidden: h (N, width).
        vectors: v (n_items, width).
        targets: t int64 (N,), rows of ``vectors``.
    """
    return _FullSoftmax.apply(hidden, vectors, targets)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        of_hidden, of_vectors = torch.empty_like(hidden), torch.zeros_like(vectors)
        total = torch.zeros((), device=hidden.device)
        at_once = max(1, SCORES_AT_ONCE // len(vectors))
        for start in range(0, len(hidden), at_once):
            rows = slice(start, start + at_once)
            part, right = hidden[rows], targets[rows, None]
            scores = F.linear(part, vectors)  # (n, n_items), bf16 under autocast
            log_probs = scores.log_softmax(dim=1, dtype=torch.float32)
            total -= log_probs.gather(1, right).sum()
            slope = log_probs.exp_()
            slope.scatter_add_(1, right, slope.new_full(right.shape, -1.0))
            slope = slope.to(scores.dtype)
            of_hidden[rows] = slope @ vectors / len(hidden)
            of_vectors += slope.T @ (part / len(hidden))
        ctx.save_for_backward(of_hidden, of_vectors)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        of_hidden, of_vectors = ctx.saved_tensors
        return slope * of_hidden, slope * of_vectors, None


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
    logits = F.normalize(hid.float(), dim=1) @ F.normalize(sid.float(), dim=1).T / temperature
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
    logits = F.normalize(masked.float(), dim=1) @ F.normalize(whole.float(), dim=1).T / temperature
    own = torch.arange(len(logits), device=logits.device)
    same_user = (users[:, None] == users) & (own[:, None] != own)
    logits = logits.masked_fill(same_user, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
