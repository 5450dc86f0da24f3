"""TIGER: an encoder-decoder over SIDs (Rajput et al., "Recommender Systems with Generative
Retrieval", arXiv 2305.05065).

The encoder reads the codes of a user's history, the decoder writes the codes of the next item, one
head a level. What the paper leaves open or does otherwise is a setting: it trains one sample a
prefix with a bidirectional encoder (``training: prefix``, ``encoder_attention: bidirectional``);
here the default packs prefixes of a user, ``window_targets`` at a time, into one pass, which needs
an encoder that is causal over items. Positions are learned per item and per level, where the
paper's T5 has relative biases. Ours too are one token an item (``history_tokens: items``), a
decoder that starts from the encoder's state at the last item (``decoder_start: history``), the
softmax over the codes that lead on (``softmax: children``), and an embedding of its own for every
item of the history (``item_embedding``, off by default: new items have none, and the SIDs then no
longer carry all that the model knows of an item).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.backbone import shape_of
from recbole_sid.generator.base import Generator, require_window_targets
from recbole_sid.generator.beam import Ranked, beam_search, rank_items
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.layers import (
    DecoderLayer,
    EncoderLayer,
    KeyValue,
    init_weights,
)
from recbole_sid.settings import require


@dataclass(frozen=True)
class TigerSettings:
    """Settings of :class:`Tiger`; meanings and defaults in ``properties/generator/tiger.yaml``."""

    training: Literal["packed", "prefix"]
    encoder_attention: Literal["causal", "bidirectional"]
    history_tokens: Literal["codes", "items"]
    softmax: Literal["level", "children"]
    decoder_start: Literal["learned", "history"]
    item_embedding: bool
    window_stride: int
    window_targets: int | None
    beam_size: int
    hidden_size: int
    inner_size: int
    n_heads: int
    head_size: int
    encoder_layers: int
    decoder_layers: int
    dropout: float
    attention_dropout: float
    embedding_init: float
    item_embedding_init: float
    position_init: float
    label_smoothing: float
    loss_temperature: float
    user_tokens: int

    def __post_init__(self) -> None:
        require(
            self.training == "prefix" or self.encoder_attention == "causal",
            "training",
            self.training,
            "'prefix' when encoder_attention is 'bidirectional'",
            "Packed training shows each prefix only its own items, so it needs a causal encoder.",
        )
        require(
            self.label_smoothing == 0 or self.softmax == "level",
            "label_smoothing",
            self.label_smoothing,
            "0 where softmax is 'children'",
        )
        for key in ("beam_size", "hidden_size", "inner_size", "n_heads", "head_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("window_stride", "encoder_layers", "decoder_layers"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require_window_targets(self.window_targets)
        for key in ("dropout", "attention_dropout", "label_smoothing"):
            value = getattr(self, key)
            require(0 <= value < 1, key, value, "at least 0 and below 1")
        for key in ("loss_temperature", "embedding_init", "item_embedding_init", "position_init"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        require(self.user_tokens >= 0, "user_tokens", self.user_tokens, "0 (none) or more")


class Memory(NamedTuple):
    """A batch of encoded histories, ready for the decoder.

    Attributes:
        layers: keys and values for each decoder layer's cross-attention, one a user.
        mask: True where a query may look, broadcast to (B, heads, Q, T).
        start: (B, C or 1, hidden) what the decoder's first position is given for each of the C
            prefixes; zeros where it starts from the level's embedding alone.
    """

    layers: list[KeyValue]
    mask: Tensor
    start: Tensor


class Tiger(Generator):
    """Encoder-decoder with one head a level. See the module for the paper."""

    Settings = TigerSettings
    _item_of_token: Tensor

    def __init__(
        self, settings: TigerSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue, window, user_buckets)
        self.settings = settings
        hidden, n_levels = settings.hidden_size, catalogue.n_levels
        shape = shape_of(settings)
        self.token_embedding = nn.Embedding(catalogue.n_tokens, hidden, padding_idx=0)
        self.item_embedding = (
            nn.Embedding(catalogue.n_items + 1, hidden) if settings.item_embedding else None
        )
        self.item_position = nn.Embedding(window, hidden)
        self._per_item = n_levels if settings.history_tokens == "codes" else 1
        self.history_level = nn.Embedding(n_levels, hidden) if self._per_item > 1 else None
        self.target_level = nn.Embedding(n_levels, hidden)  # row 0 starts a SID
        self.user_embedding = (
            nn.Embedding(settings.user_tokens, hidden) if settings.user_tokens else None
        )
        self.encoder = nn.ModuleList(EncoderLayer(shape) for _ in range(settings.encoder_layers))
        self.encoder_norm = nn.LayerNorm(hidden, eps=1e-6, bias=False)
        self.decoder = nn.ModuleList(DecoderLayer(shape) for _ in range(settings.decoder_layers))
        self.decoder_norm = nn.LayerNorm(hidden, eps=1e-6, bias=False)
        self.heads = nn.ModuleList(nn.Linear(hidden, size, bias=False) for size in catalogue.sizes)
        self.dropout = Dropout(settings.dropout)
        self.apply(init_weights)
        for embedding in filter(None, (self.token_embedding, self.user_embedding)):
            nn.init.normal_(embedding.weight, std=settings.embedding_init)
        positions = (self.item_position, self.history_level, self.target_level)
        for embedding in filter(None, positions):
            nn.init.normal_(embedding.weight, std=settings.position_init)
        if self.item_embedding is not None:
            nn.init.normal_(self.item_embedding.weight, std=settings.item_embedding_init)
        with torch.no_grad():
            self.token_embedding.weight[0].zero_()
        self.register_buffer(
            "_item_of_token", _item_of_token(window, self._per_item, self._n_user), False
        )

    @property
    def packs(self) -> bool:
        return self.settings.training == "packed"

    @property
    def _n_user(self) -> int:
        """How many user tokens stand before the history: 0 or 1."""
        return 0 if self.user_embedding is None else 1

    @property
    def _decoder_layers(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.decoder))

    def packed_loss(
        self, users: Tensor, history: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        encoded = self._encode(users, history, None)
        # Query (c, l) belongs to the history that ends with item places[:, c].
        last_item = places.repeat_interleave(self.catalogue.n_levels, dim=1)  # (B, C * L)
        item_of_key = self._item_of_token[: encoded.shape[1]]
        mask = (item_of_key <= last_item[:, :, None])[:, None]  # (B, 1, C * L, tokens)
        row = torch.arange(len(places), device=places.device)[:, None]
        last_token = self._n_user + (places + 1) * self._per_item - 1  # (B, C)
        memory = self._remember(encoded, mask, encoded[row, last_token])
        hidden = self._decode(memory, targets)  # (B, C, L, hidden)
        trained = targets > 0
        return self._cross_entropy(hidden[trained], targets[trained])

    def prefix_loss(
        self, users: Tensor, history: Tensor, lengths: Tensor, targets: Tensor
    ) -> Tensor:
        memory = self._history(users, history, lengths)
        hidden = self._decode(memory, targets[:, None])  # (B, 1, L, hidden)
        return self._cross_entropy(hidden[:, 0], targets)

    def rank(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        beam_size: int,
        available: Available | None = None,
    ) -> Ranked:
        decoder = _BeamDecoder(self, self._history(users, history, lengths), len(users))
        softmax = self.settings.softmax
        beams = beam_search(decoder, self.catalogue, beam_size, softmax, available)
        return rank_items(beams, self.catalogue, k, available)

    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        hidden = self._decode(self._history(users, history, lengths), items)  # (B, C, L, hidden)
        flat, codes = items.flatten(), self.catalogue.codes[items.flatten()]
        scores = torch.zeros(len(flat), device=items.device)
        for level, logits in enumerate(self._logits(hidden.flatten(0, 1), flat)):
            log_probs = torch.log_softmax(logits, dim=-1)
            scores += log_probs.gather(1, codes[:, level, None])[:, 0]
        return scores.view(items.shape)

    def _encode(self, users: Tensor, history: Tensor, lengths: Tensor | None) -> Tensor:
        """Hidden states of the history's tokens, (B, user + T * tokens an item, hidden).

        Args:
            lengths: needed by a bidirectional encoder, to hide the padding; a causal one never
                looks right, where the padding is.
        """
        b, t = history.shape
        n_levels = self.catalogue.n_levels
        x = self.token_embedding(self.catalogue.tokens[history])  # (B, T, L, hidden)
        of_item = self.item_position.weight[:t]
        if self.item_embedding is not None:
            of_item = of_item + self.item_embedding(history)  # (B, T, hidden)
        if self.history_level is not None:
            x = x + of_item.unsqueeze(-2) + self.history_level.weight
            x = x.view(b, t * n_levels, -1)
        else:
            # The sum of L embeddings, at the scale of one.
            x = x.sum(dim=2) * n_levels**-0.5 + of_item
        if self.user_embedding is not None:
            bucket = self.user_buckets[users] % self.settings.user_tokens
            x = torch.cat([self.user_embedding(bucket)[:, None], x], dim=1)
        x = self.dropout(x)
        item = self._item_of_token[: x.shape[1]]
        if self.settings.encoder_attention == "causal":
            mask = item <= item[:, None]  # tokens of one item see each other and all earlier items
        else:
            assert lengths is not None, "a bidirectional encoder needs the histories' lengths"
            mask = (item < lengths[:, None])[:, None, None]
        for layer in self.encoder:
            x = layer(x, mask)
        return self.dropout(self.encoder_norm(x))

    def _history(self, users: Tensor, history: Tensor, lengths: Tensor) -> Memory:
        encoded = self._encode(users, history, lengths)
        item = self._item_of_token[: encoded.shape[1]]
        row = torch.arange(len(lengths), device=lengths.device)
        last = encoded[row, self._n_user + lengths * self._per_item - 1]  # (B, hidden)
        return self._remember(encoded, (item < lengths[:, None])[:, None, None], last[:, None])

    def _remember(self, encoded: Tensor, mask: Tensor, last: Tensor) -> Memory:
        """``last`` (B, C, hidden): the encoder's state at each prefix's last token."""
        layers = [layer.cross_attention.project(encoded) for layer in self._decoder_layers]
        start = last if self.settings.decoder_start == "history" else torch.zeros_like(last)
        return Memory(layers, mask, start)

    def _decode(self, memory: Memory, items: Tensor) -> Tensor:
        """Hidden states (B, C, L, hidden) that predict each level of ``items`` (B, C), teacher
        forced: the memory's start goes in at level 0, then the code of the level before."""
        before = self.token_embedding(self.catalogue.tokens[items][..., :-1])
        start = memory.start[:, :, None].expand(-1, items.shape[1], -1, -1).to(before.dtype)
        x = torch.cat([start, before], dim=2)  # (B, C, L, hidden)
        x = self.dropout(x + self.target_level.weight)
        for layer, past in zip(self.decoder, memory.layers, strict=True):
            x = layer(x, past, memory.mask)
        return self.decoder_norm(x)

    def _logits(self, hidden: Tensor, items: Tensor) -> list[Tensor]:
        """Logits (N, size) of every level, float32, given the true codes before; -inf where the
        softmax leaves a code out. hidden (N, L, hidden), items (N,)."""
        path = self.catalogue.node_of_item[items]  # (N, L)
        all_logits = []
        for level, head in enumerate(self.heads):
            logits = head(hidden[:, level]).float()
            if self.settings.softmax == "children":
                parents = path[:, level - 1] if level else torch.zeros_like(items)
                mask = self.catalogue.child_mask(level, parents)
                logits = logits.masked_fill(~mask, -torch.inf)
            all_logits.append(logits)
        return all_logits

    def _cross_entropy(self, hidden: Tensor, items: Tensor) -> Tensor:
        """Mean over samples and levels; hidden (N, L, hidden), items (N,).

        The temperature belongs to the loss alone: lists are ranked by the logits as they are.
        """
        codes = self.catalogue.codes[items]
        losses = [
            F.cross_entropy(
                logits / self.settings.loss_temperature,
                codes[:, level],
                label_smoothing=self.settings.label_smoothing,
            )
            for level, logits in enumerate(self._logits(hidden, items))
        ]
        return torch.stack(losses).mean()


class _BeamDecoder:
    """Tiger for :func:`beam_search`: the history's keys and values once a user, beams queries."""

    def __init__(self, model: Tiger, memory: Memory, batch_size: int):
        self.model, self.memory = model, memory
        self.batch_size, self.device = batch_size, memory.mask.device
        self.past: list[KeyValue | None] = [None] * len(model.decoder)

    def step(self, level: int, parents: Tensor | None, codes: Tensor | None) -> Tensor:
        model = self.model
        x = model.target_level.weight[level].expand(self.batch_size, 1, -1)
        if parents is None or codes is None:
            x = x + self.memory.start
        else:
            token = model.catalogue.token(level - 1, codes)
            x = x + model.token_embedding(token)  # (B, W, hidden)
            self._follow(parents)
        for i, layer in enumerate(model._decoder_layers):
            x, self.past[i] = layer.step(x, self.past[i], self.memory.layers[i], self.memory.mask)
        return model.heads[level](model.decoder_norm(x))

    def _follow(self, parents: Tensor) -> None:
        """Reorder the beams' own keys and values after ``parents`` (B, W)."""
        rows = torch.arange(self.batch_size, device=self.device)[:, None]
        for i, past in enumerate(self.past):
            assert past is not None
            width = past.keys.shape[0] // self.batch_size
            flat = (rows * width + parents).flatten()
            self.past[i] = KeyValue(past.keys[flat], past.values[flat])


def _item_of_token(window: int, per_item: int, n_user: int) -> Tensor:
    """Which history item each encoder token belongs to; -1 for the user token, which all see."""
    items = torch.arange(window).repeat_interleave(per_item)
    return torch.cat([torch.full((n_user,), -1), items])
