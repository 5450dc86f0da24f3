"""Pre-norm transformer layers in the shape of T5, without its relative bias.

Attention keeps keys and values apart from queries, so that decoding can compute the encoder's keys
and values once a user and fold all beams of the user into the query axis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.dropout import Dropout


class KeyValue(NamedTuple):
    """Keys and values of one attention, each (N, heads, T, head_size)."""

    keys: Tensor
    values: Tensor


class LayerShape(NamedTuple):
    """Sizes and dropout rates that all layers of a network share."""

    hidden_size: int
    n_heads: int
    head_size: int
    inner_size: int
    dropout: float
    attention_dropout: float


class Attention(nn.Module):
    """Multi-head attention without biases; dropout on its weights, in training only, is costly on
    a CPU."""

    def __init__(self, shape: LayerShape):
        super().__init__()
        inner = shape.n_heads * shape.head_size
        self.n_heads, self.head_size = shape.n_heads, shape.head_size
        self.dropout = shape.attention_dropout
        self.query = nn.Linear(shape.hidden_size, inner, bias=False)
        self.key_value = nn.Linear(shape.hidden_size, 2 * inner, bias=False)
        self.output = nn.Linear(inner, shape.hidden_size, bias=False)

    def project(self, x: Tensor) -> KeyValue:
        """Keys and values of ``x`` (N, T, hidden)."""
        n, t, _ = x.shape
        both = self.key_value(x).view(n, t, 2, self.n_heads, self.head_size)
        keys, values = both.permute(2, 0, 3, 1, 4)  # each (N, heads, T, head_size)
        return KeyValue(keys, values)

    def forward(
        self, x: Tensor, memory: KeyValue, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from ``x`` (N, Q, hidden) to ``memory``.

        Args:
            mask: boolean, True where attention is allowed, broadcast to (N, heads, Q, T).
            causal: query i sees keys 0 to i; only for Q = T, and without ``mask``.
        """
        n, q, _ = x.shape
        queries = self.query(x).view(n, q, self.n_heads, self.head_size).transpose(1, 2)
        keys, values = memory
        on_cpu = x.device.type == "cpu"
        if on_cpu:
            # At these sizes torch's bf16 kernel is up to seven times slower than its float32 one.
            queries, keys, values = queries.float(), keys.float(), values.float()
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled() and not on_cpu):
            mixed = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=causal,
            )  # (N, heads, Q, head_size)
        return self.output(mixed.transpose(1, 2).reshape(n, q, -1))


class FeedForward(nn.Module):
    """hidden -> inner -> hidden with ReLU."""

    def __init__(self, shape: LayerShape):
        super().__init__()
        self.inner = nn.Linear(shape.hidden_size, shape.inner_size, bias=False)
        self.outer = nn.Linear(shape.inner_size, shape.hidden_size, bias=False)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.dropout(F.relu(self.inner(x))))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on the normalised input, added back with dropout."""

    def __init__(self, shape: LayerShape):
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.hidden_size, eps=1e-6, bias=False)
        self.attention = Attention(shape)
        self.forward_norm = nn.LayerNorm(shape.hidden_size, eps=1e-6, bias=False)
        self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (N, T, hidden); ``mask`` as in :class:`Attention`, None: position t sees 0 to t."""
        normed = self.attention_norm(x)
        memory = self.attention.project(normed)
        x = x + self.dropout(self.attention(normed, memory, mask, causal=mask is None))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention over a SID, cross-attention to a user's history, feed-forward."""

    def __init__(self, shape: LayerShape):
        super().__init__()
        self.self_norm = nn.LayerNorm(shape.hidden_size, eps=1e-6, bias=False)
        self.self_attention = Attention(shape)
        self.cross_norm = nn.LayerNorm(shape.hidden_size, eps=1e-6, bias=False)
        self.cross_attention = Attention(shape)
        self.forward_norm = nn.LayerNorm(shape.hidden_size, eps=1e-6, bias=False)
        self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor, memory: KeyValue, mask: Tensor) -> Tensor:
        """Teacher forced, whole SIDs at once.

        Args:
            x: (B, C, L, hidden), C SIDs for each of B users.
            memory: the history's keys and values, one a user.
            mask: broadcast to (B, heads, C * L, T).
        """
        b, c, length, hidden = x.shape
        normed = self.self_norm(x).view(b * c, length, hidden)
        own = self.self_attention(normed, self.self_attention.project(normed), causal=True)
        x = x + self.dropout(own.view(b, c, length, hidden))
        return self._cross_and_forward(x.view(b, c * length, hidden), memory, mask).view(x.shape)

    def step(
        self, x: Tensor, past: KeyValue | None, memory: KeyValue, mask: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """One more token for every beam.

        Args:
            x: (B, W, hidden), the newest token of each of W beams.
            past: self-attention keys and values of the beams' earlier tokens, (B * W, heads, t, _).

        Returns:
            the new hidden states (B, W, hidden), and ``past`` with the newest token.
        """
        b, w, hidden = x.shape
        normed = self.self_norm(x).view(b * w, 1, hidden)
        newest = self.self_attention.project(normed)
        if past is not None:
            newest = KeyValue(
                torch.cat([past.keys, newest.keys], dim=2),
                torch.cat([past.values, newest.values], dim=2),
            )
        x = x + self.dropout(self.self_attention(normed, newest).view(b, w, hidden))
        return self._cross_and_forward(x, memory, mask), newest

    def _cross_and_forward(self, x: Tensor, memory: KeyValue, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, mask))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


def init_weights(module: nn.Module) -> None:
    """Linear weights from a normal with variance 1 / fan-in, as T5 does up to its own scales."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
