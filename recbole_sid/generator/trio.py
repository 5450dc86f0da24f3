"""Trio: Duet, and beside it a branch that knows items by their texts alone. Ours.

EnsRec (arXiv 2512.17820) trains two encoders apart, one of item IDs and one of texts, adds their
scores and finds more than either. Here the IDs' part is :class:`Duet`. The text branch has a
backbone of its own; an item is there a projection of its content vector, centred and scaled, and
its softmax over all items is that of cosines over a temperature (InfoNCE against all items):

    loss = L_codes + items_weight * L_items + text_weight * L_text
    s(i) = items_share * ln p_items(i) + text_share * ln p_text(i)
           + (1 - items_share - text_share) * ln p_codes(i)

No weight is shared by the text branch and the others, so that what it has to say stays its own; it
also scores items that were in nobody's training history. The codes' search proposes
``beam_size`` items, and the two softmaxes, by the weighted sum of both, as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.backbone import Backbone, shape_of
from recbole_sid.generator.beam import Beams
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.duet import Duet, DuetSettings
from recbole_sid.generator.full_softmax import full_softmax_loss
from recbole_sid.generator.intrr import IntRRSettings
from recbole_sid.generator.layers import init_weights
from recbole_sid.settings import require


@dataclass(frozen=True)
class TrioSettings(DuetSettings):
    """Settings of :class:`Trio`; meanings and defaults in ``properties/generator/trio.yaml``."""

    text_weight: float
    text_share: float
    text_temperature: float
    text_inner_size: int
    text_dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.text_share
        require(
            0 <= share <= 1 - self.items_share + 1e-9,  # 0.9 and 0.1 are 1, in binary as well
            "text_share",
            share,
            f"from 0 to 1 - items_share, which is {1 - self.items_share:g}",
        )
        for key in ("text_weight", "text_temperature"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        require(self.text_inner_size >= 0, "text_inner_size", self.text_inner_size, "at least 0")
        dropout = self.text_dropout
        require(0 <= dropout < 1, "text_dropout", dropout, "at least 0 and below 1")


class Trio(Duet):
    """Duet with a branch of texts beside it. See the module.

    Tokens, states and the table of items are those of Duet, and behind them, in the last
    dimension, those of the text branch: (…, 2 * width).
    """

    Settings: ClassVar[type] = TrioSettings
    decoding_settings: ClassVar[frozenset[str]] = Duet.decoding_settings | {"text_share"}

    def __init__(
        self, settings: TrioSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue, window, user_buckets)
        self.trio = settings
        assert catalogue.vectors is not None, "needs_vectors says that they are needed"
        self.text = TextProjection(catalogue.vectors[1:], settings)
        shape = shape_of(settings)._replace(dropout=settings.text_dropout)
        self.text_backbone = Backbone(shape, settings.layers, window)
        self.text_head = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.text_backbone.apply(init_weights)
        self.text_head.apply(init_weights)
        nn.init.normal_(self.text_backbone.position.weight, std=settings.embedding_init)

    @staticmethod
    def needs_vectors(settings: IntRRSettings) -> bool:
        return True

    def _items(self, items: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens, logits = super()._items(items)
        assert self.catalogue.vectors is not None
        texts = self.text(F.embedding(items, self.catalogue.vectors))
        return torch.cat([tokens, texts.to(tokens.dtype)], dim=-1), logits

    def _token_weights(self) -> list[Tensor | None]:
        return [*super()._token_weights(), *self.text.parameters(), *self.text.buffers()]

    def _backbone(self, tokens: Tensor) -> Tensor:
        of_ids, of_texts = self._halves(tokens)
        states = super()._backbone(of_ids), self.text_backbone(of_texts)
        return torch.cat(states, dim=-1)

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        table = self._table()
        of_ids, of_texts = self._halves(hidden)
        loss = self._duet_loss(of_ids, self._halves(table)[0], targets)
        sides = self._text_sides(of_texts, table)
        of_text = full_softmax_loss(*sides, targets - 1, exact=True)
        return loss + self.trio.text_weight * of_text

    def _dense_log_probs(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Of all items, what the two softmaxes say of them by their shares: (b, n_items)."""
        ids, texts = self._halves(hidden)
        of_items = super()._dense_log_probs(ids, self._halves(table)[0])
        if self.trio.text_share == 0:
            return of_items
        cosines = F.linear(*self._text_sides(texts, table))
        of_text = cosines.log_softmax(dim=1, dtype=torch.float32)
        share = self.trio.text_share / self._dense_share
        return (1 - share) * of_items + share * of_text

    @property
    def _dense_share(self) -> float:
        return self.trio.items_share + self.trio.text_share

    def _text_sides(self, hidden: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """What the inner products of are the text branch's scores: (b, width), (n_items, width).

        Float32, whatever autocast says.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            states = F.normalize(self.text_head(hidden.float()), dim=-1)
        texts = F.normalize(self._halves(table)[1].float(), dim=-1)
        return states / self.trio.text_temperature, texts

    def _halves(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """Of Duet and of the text branch."""
        first, second = both.chunk(2, dim=-1)
        return first, second

    def _code_scores(self, hidden: Tensor, items: Tensor) -> Tensor:
        return super()._code_scores(self._halves(hidden)[0], items)

    def _every_code_score(self, hidden: Tensor) -> Tensor:
        return super()._every_code_score(self._halves(hidden)[0])

    def _beams(
        self, hidden: Tensor, beam_size: int, available: Available | None = None
    ) -> Iterator[Beams]:
        return super()._beams(self._halves(hidden)[0], beam_size, available)


class TextProjection(nn.Module):
    """Content vectors (…, d) to tokens (…, width): centred, divided by their root mean square (of
    the items that were trained on), with dropout, then linear, or a network of one hidden layer."""

    mean: Tensor
    scale: Tensor

    def __init__(self, vectors: Tensor, settings: TrioSettings):
        super().__init__()
        mean = vectors.mean(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", (vectors - mean).square().mean().sqrt().clamp(min=1e-12))
        inner, width = settings.text_inner_size, settings.hidden_size
        layers: list[nn.Module] = [Dropout(settings.text_dropout)]
        if inner:
            layers += [nn.Linear(vectors.shape[1], inner), nn.GELU()]
        layers.append(nn.Linear(inner or vectors.shape[1], width))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layers((vectors - self.mean) / self.scale)
