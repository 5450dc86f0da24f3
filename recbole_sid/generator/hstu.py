"""A layer of HSTU (Zhai et al., "Actions Speak Louder than Words", arXiv 2402.17152)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.layers import LayerShape


class HSTULayer(nn.Module):
    """Pointwise attention without softmax, gated by the input; there is no feed-forward layer.

    Equations 2 to 4 of the paper: (U, V, Q, K) = SiLU(f1(x)); A = SiLU(Q K^T) / n, causal;
    y = f2(norm(A V) * U). n is the number of items a position sees, so that a prefix gives the same
    hidden states in a batch of any width. Positions are added to the input, where the paper has a
    relative bias of positions and times.
    """

    def __init__(self, shape: LayerShape):
        super().__init__()
        inner = shape.n_heads * shape.head_size
        self.n_heads, self.head_size = shape.n_heads, shape.head_size
        self.input_norm = nn.LayerNorm(shape.hidden_size, eps=1e-6, bias=False)
        self.input = nn.Linear(shape.hidden_size, 4 * inner)
        self.mixed_norm = nn.LayerNorm(inner, eps=1e-6, bias=False)
        self.output = nn.Linear(inner, shape.hidden_size)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, hidden), left aligned; position t sees positions 0 to t."""
        b, t, _ = x.shape
        parts = F.silu(self.input(self.input_norm(x)))
        gate, *qkv = parts.chunk(4, dim=-1)  # (B, T, inner) each
        values, queries, keys = (
            part.view(b, t, self.n_heads, self.head_size).transpose(1, 2) for part in qkv
        )  # (B, heads, T, head_size)
        weights = F.silu(queries @ keys.transpose(-1, -2)).tril()  # (B, heads, T, T)
        weights = weights / torch.arange(1, t + 1, device=x.device)[:, None]
        mixed = (weights.to(values) @ values).transpose(1, 2).reshape(b, t, -1)
        return x + self.dropout(self.output(self.mixed_norm(mixed) * gate))
