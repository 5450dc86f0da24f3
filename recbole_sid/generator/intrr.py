"""IntRR: one token a history item, and a small recursive network for its codes (Wang et al.,
arXiv 2602.20704).

A causal transformer runs over items, not over codes; its last hidden state is decoded level by
level by a :class:`RecursiveCodebook`. All prefixes of a window are trained in one pass, and beams
live in the small network alone. Since a level sees the vector and the code before and nothing else,
all items can be scored exactly as well.

In the paper an item's token is its vector after the same recursive network (``item_token:
recursive``); by default it is here the sum of the item's own code embeddings and its vector
(``codes``), normalised. An item's vector may be an embedding of its own, which new items lack, a
projection of its content vector, or both.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.base import Generator
from recbole_sid.generator.beam import Beams, Ranked, beam_search, rank_items
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.hstu import HSTULayer
from recbole_sid.generator.layers import EncoderLayer, LayerShape, init_weights
from recbole_sid.generator.recursive import RecursiveCodebook
from recbole_sid.settings import require

# Numbers that scoring all items may hold at once, in float32: 256 MB.
_SCORES_AT_ONCE = 2**26


@dataclass(frozen=True)
class IntRRSettings:
    """Settings of :class:`IntRR`; meanings and defaults in ``properties/generator/intrr.yaml``."""

    backbone: Literal["transformer", "hstu"]
    item_token: Literal["codes", "recursive"]
    item_embedding: bool
    content_vectors: bool
    window_stride: int
    decoding: Literal["exact", "beam"]
    beam_size: int
    hidden_size: int
    inner_size: int
    n_heads: int
    head_size: int
    layers: int
    codebook_inner_size: int
    dropout: float
    attention_dropout: float
    codebook_dropout: float
    embedding_init: float
    temperature: float
    reconstruction_weight: float
    label_smoothing: float

    def __post_init__(self) -> None:
        require(
            self.item_token == "codes" or self.item_embedding or self.content_vectors,
            "item_token",
            self.item_token,
            "'codes' where item_embedding and content_vectors are both off",
            "The recursive network needs a vector of the item to start from.",
        )
        for key in ("window_stride", "beam_size", "hidden_size", "inner_size", "n_heads"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("head_size", "layers", "codebook_inner_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("dropout", "attention_dropout", "codebook_dropout", "label_smoothing"):
            value = getattr(self, key)
            require(0 <= value < 1, key, value, "at least 0 and below 1")
        for key in ("embedding_init", "temperature"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        weight = self.reconstruction_weight
        require(weight >= 0, "reconstruction_weight", weight, "at least 0")


class IntRR(Generator):
    """One token an item, one recursive codebook network. See the module for the paper."""

    Settings = IntRRSettings
    decoding_settings: ClassVar[frozenset[str]] = frozenset({"beam_size", "decoding"})
    packs = True

    def __init__(
        self, settings: IntRRSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue, window, user_buckets)
        self.settings = settings
        width = settings.hidden_size
        shape = LayerShape(
            width,
            settings.n_heads,
            settings.head_size,
            settings.inner_size,
            settings.dropout,
            settings.attention_dropout,
        )
        self.codebook = RecursiveCodebook(
            catalogue.sizes, width, settings.codebook_inner_size, settings.codebook_dropout
        )
        self.item_embedding = (
            nn.Embedding(catalogue.n_items + 1, width, padding_idx=0)
            if settings.item_embedding
            else None
        )
        self.content: nn.Linear | None = None
        if settings.content_vectors:
            assert catalogue.vectors is not None, "needs_vectors says that they are needed"
            self.content = nn.Linear(catalogue.vectors.shape[1], width)
        self.position = nn.Embedding(window, width)
        self.input_norm = nn.LayerNorm(width)
        layer = EncoderLayer if settings.backbone == "transformer" else HSTULayer
        self.layers = nn.ModuleList(layer(shape) for _ in range(settings.layers))
        self.output_norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=settings.embedding_init)
        if self.item_embedding is not None:
            with torch.no_grad():
                self.item_embedding.weight[0].zero_()

    @staticmethod
    def needs_vectors(settings: IntRRSettings) -> bool:
        return settings.content_vectors

    def packed_loss(self, users: Tensor, history: Tensor, targets: Tensor) -> Tensor:
        tokens, logits = self._items(history)
        hidden = self._backbone(tokens)  # (B, T, width)
        trained = targets > 0
        loss = self._cross_entropy(hidden[trained], targets[trained])
        if logits and self.settings.reconstruction_weight:
            held = history > 0
            codes = self.catalogue.codes[history[held]]
            losses = [
                F.cross_entropy(level_logits[held].float(), codes[:, level])
                for level, level_logits in enumerate(logits)
            ]
            loss = loss + self.settings.reconstruction_weight * torch.stack(losses).sum()
        return loss

    def prefix_loss(
        self, users: Tensor, history: Tensor, lengths: Tensor, targets: Tensor
    ) -> Tensor:
        return self._cross_entropy(self._last(history, lengths), targets)

    def rank(
        self, users: Tensor, history: Tensor, lengths: Tensor, k: int, beam_size: int
    ) -> Ranked:
        hidden = self._last(history, lengths)
        if self.settings.decoding == "beam":
            beams = beam_search(_BeamDecoder(self, hidden), self.catalogue, beam_size)
        else:
            beams = self._best_leaves(hidden, k)
        return rank_items(beams, self.catalogue, k)

    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        hidden = self._last(history, lengths)[:, None]  # (B, 1, width)
        codes = self.catalogue.codes[items]  # (B, C, L)
        scores = torch.zeros(items.shape, device=items.device)
        for level, logits in enumerate(self.codebook.teacher_forced(hidden, codes)):
            log_probs = torch.log_softmax(logits.float(), dim=-1).expand(*items.shape, -1)
            scores += log_probs.gather(-1, codes[..., level, None])[..., 0]
        return scores

    def _items(self, items: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens of items (..., width), and the recursive network's logits where it made them."""
        vector: Tensor | None = None
        if self.item_embedding is not None:
            vector = self.item_embedding(items)
        if self.content is not None and self.catalogue.vectors is not None:
            content = self.content(self.catalogue.vectors[items])
            vector = content if vector is None else vector + content
        if self.settings.item_token == "recursive":
            assert vector is not None, "the settings see to it"
            return self.codebook.quantise(vector, self.settings.temperature)
        tokens = self.codebook.embed(self.catalogue.codes[items])
        return tokens if vector is None else tokens + vector, []

    def _backbone(self, tokens: Tensor) -> Tensor:
        """Hidden states of left-aligned item tokens, (B, T, width); padding stands on the right,
        where a causal network never looks."""
        x = tokens + self.position.weight[: tokens.shape[1]]
        x = self.dropout(self.input_norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.output_norm(x)

    def _last(self, history: Tensor, lengths: Tensor) -> Tensor:
        """Hidden state (B, width) of each history's last item."""
        hidden = self._backbone(self._items(history)[0])
        return hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1]

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples of the sum over levels; hidden (N, width), targets (N,)."""
        codes = self.catalogue.codes[targets]
        losses = [
            F.cross_entropy(
                logits.float(), codes[:, level], label_smoothing=self.settings.label_smoothing
            )
            for level, logits in enumerate(self.codebook.teacher_forced(hidden, codes))
        ]
        return torch.stack(losses).sum()

    def _best_leaves(self, hidden: Tensor, k: int) -> Beams:
        """The best ``k`` leaves of all, scored exactly, in bounded chunks of users and leaves."""
        sizes = self.catalogue.sizes
        pairs = sizes[0] + sum(a * b for a, b in itertools.pairwise(sizes))
        users_at_once = max(1, _SCORES_AT_ONCE // pairs)
        parts = []
        for some in hidden.split(users_at_once):
            tables = self.codebook.pair_log_probs(some)
            parts.append(self._best_of_tables(tables, k, max(k, _SCORES_AT_ONCE // len(some))))
        leaves, scores = zip(*parts, strict=True)
        return Beams(torch.cat(leaves), torch.cat(scores))

    def _best_of_tables(
        self, tables: list[Tensor], k: int, leaves_at_once: int
    ) -> tuple[Tensor, Tensor]:
        first, leaf_items = self.catalogue.leaves()
        codes = self.catalogue.codes[leaf_items[first[:-1]]]  # (n_leaves, L)
        flat = [table.flatten(1) for table in tables]
        best_scores = tables[0].new_empty(len(tables[0]), 0)
        best_leaves = codes.new_empty(len(tables[0]), 0)
        for start in range(0, len(codes), leaves_at_once):
            some = codes[start : start + leaves_at_once]
            scores = flat[0][:, some[:, 0]]  # (B, M)
            for level in range(1, self.catalogue.n_levels):
                pair = some[:, level - 1] * self.catalogue.sizes[level] + some[:, level]
                scores += flat[level][:, pair]
            leaves = torch.arange(start, start + len(some), device=scores.device)
            scores = torch.cat([best_scores, scores], dim=1)
            leaves = torch.cat([best_leaves, leaves.expand(len(scores), -1)], dim=1)
            best_scores, chosen = scores.topk(min(k, scores.shape[1]), dim=1)
            best_leaves = leaves.gather(1, chosen)
        return best_leaves, best_scores


class _BeamDecoder:
    """IntRR for :func:`beam_search`: one hidden state a user, beams in the recursive network."""

    def __init__(self, model: IntRR, hidden: Tensor):
        self.codebook, self.hidden = model.codebook, hidden
        self.batch_size, self.device = len(hidden), hidden.device

    def step(self, level: int, parents: Tensor | None, codes: Tensor | None) -> Tensor:
        before = None if codes is None else self.codebook.codebooks[level - 1](codes)
        return self.codebook.logits(level, self.hidden[:, None], before)
