"""A softmax over all items, without a samples x items matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores that a chunk of samples may hold in float32: 64 MB.
SCORES_AT_ONCE = 2**24


def full_softmax_loss(
    hidden: Tensor, vectors: Tensor, targets: Tensor, exact: bool = False
) -> Tensor:
    """Cross-entropy of inner products, over all items.

        mean over n of -ln( exp(h_n · v_t(n)) / Σ_i exp(h_n · v_i) )

    Samples are scored in chunks of at most ``SCORES_AT_ONCE`` numbers; a chunk's gradients are made
    on the way, while its probabilities are there.

    Args:
        hidden: h (N, width).
        vectors: v (n_items, width).
        targets: t int64 (N,), rows of ``vectors``.
        exact: score in float32 under autocast too; then ``hidden`` and ``vectors`` are float32. For
            cosines over a temperature: next to 20, bfloat16 numbers are 0.125 apart. The products
            of the gradients stay autocast's: what is rounded there are probabilities.
    """
    return _FullSoftmax.apply(hidden, vectors, targets, exact)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vectors: Tensor, targets: Tensor, exact: bool) -> Tensor:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        of_hidden, of_vectors = torch.empty_like(hidden), torch.zeros_like(vectors)
        total = torch.zeros((), device=hidden.device)
        at_once = max(1, SCORES_AT_ONCE // len(vectors))
        for start in range(0, len(hidden), at_once):
            rows = slice(start, start + at_once)
            part, right = hidden[rows], targets[rows, None]
            with torch.autocast(device, dtype, enabled=autocast and not exact):
                scores = F.linear(part, vectors)  # (n, n_items)
            log_probs = scores.log_softmax(dim=1, dtype=torch.float32)
            total -= log_probs.gather(1, right).sum()
            slope = log_probs.exp_()
            slope.scatter_add_(1, right, slope.new_full(right.shape, -1.0))
            slope = slope.to(dtype)
            of_hidden[rows] = slope @ vectors / len(hidden)
            of_vectors += slope.T @ (part / len(hidden))
        ctx.save_for_backward(of_hidden, of_vectors)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_hidden, of_vectors = ctx.saved_tensors
        return slope * of_hidden, slope * of_vectors, None, None
