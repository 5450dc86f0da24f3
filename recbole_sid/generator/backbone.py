"""A causal transformer over item tokens, one a history item."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.layers import EncoderLayer, LayerShape


class _Sizes(Protocol):
    @property
    def hidden_size(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def inner_size(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def attention_dropout(self) -> float: ...


def shape_of(settings: _Sizes) -> LayerShape:
    """The sizes of the layers that a generator's settings name."""
    return LayerShape(
        settings.hidden_size,
        settings.n_heads,
        settings.head_size,
        settings.inner_size,
        settings.dropout,
        settings.attention_dropout,
    )


class Backbone(nn.Module):
    """A causal transformer over item tokens (B, T, width), left aligned: padding stands on the
    right, where it never looks."""

    def __init__(self, shape: LayerShape, n_layers: int, window: int):
        super().__init__()
        self.position = nn.Embedding(window, shape.hidden_size)
        self.input_norm = nn.LayerNorm(shape.hidden_size)
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(n_layers))
        self.output_norm = nn.LayerNorm(shape.hidden_size)
        self.dropout = Dropout(shape.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens + self.position.weight[: tokens.shape[1]]
        x = self.dropout(self.input_norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.output_norm(x)
