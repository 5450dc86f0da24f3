"""DiffGRM: masked discrete diffusion over the digits of the next item's SID (Liu et al., "DiffGRM:
Diffusion-based Generative Recommendation Model", arXiv 2510.21805).

An encoder reads the history, one token an item; a decoder sees all digits of the next SID at once,
masked or filled, and predicts the masked ones. It is trained on nested masked views of each SID
(:mod:`.diffgrm_masks`) and fills the digits it is surest of first (:mod:`.diffgrm_decoding`).

The paper's are: 1 and 4 layers (width 256, 4 heads, inner width 1024), one mask vector a digit,
logits that are products with the digits' own embeddings, the order by the confidence of a pass in
which all digits are masked, one beam over all (digit, code) pairs, 256 wide on Beauty, and a code's
probability among all of its digit (``softmax: digit``). Ours: all prefixes of a window in one pass,
which needs a causal encoder; an item's token is the sum of its digits' embeddings (released code:
an MLP of them); each digit starts from the encoder's state at the last item besides
(``decoder_start: history``); the beam keeps to SIDs of the catalogue, and it is widened for a user
whose list comes out short; a code's probability when decoding is among those that lead on to an
item (``softmax: legal``). The whole digit's softmax takes nats from an item that is all that the
filled digits leave, and fewest where its last code is frequent. Training is the same either way.

An item's score is the log-probability of its digits in the order in which they are filled: the best
order of all for ``log_likelihood``, and the best that the beam has kept for ``rank``, which is the
same where nothing is cut. It is no likelihood: over all SIDs the scores sum to at least 1 with
``legal``, where those of any one order sum to 1, and to anything with ``digit``.

Every digit should say something by itself, which that of ``collision: dedup`` does not: the model
DiffGRM has ``collision: reassign_last`` instead, which adds none.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.backbone import shape_of
from recbole_sid.generator.base import Generator, require_window_targets
from recbole_sid.generator.beam import Ranked, rank_items
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.diffgrm_decoding import PartialSIDs, Steps, fill, rank_states
from recbole_sid.generator.diffgrm_masks import (
    least_confident_first,
    loss_weights,
    masked_counts,
    nested_masks,
    random_order,
)
from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.layers import (
    DecoderLayer,
    EncoderLayer,
    KeyValue,
    init_weights,
)
from recbole_sid.settings import require

logger = logging.getLogger("recbole_sid")

# Numbers that the states of a search may hold at once in one tensor, in float32: 128 MB.
_NUMBERS_AT_ONCE = 2**25
# Sets of filled digits that log_likelihood keeps: all of them, up to eight digits.
_ORDERS_KEPT = 70


@dataclass(frozen=True)
class DiffGRMSettings:
    """Settings of :class:`DiffGRM`; meanings, defaults: ``properties/generator/diffgrm.yaml``."""

    noising: Literal["guided", "random"]
    views: int | None
    pool: Literal["tokens", "views"]
    decoder_start: Literal["learned", "history"]
    softmax: Literal["legal", "digit"]
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
    position_init: float
    label_smoothing: float

    def __post_init__(self) -> None:
        for key in ("beam_size", "hidden_size", "inner_size", "n_heads", "head_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("window_stride", "encoder_layers", "decoder_layers"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require_window_targets(self.window_targets)
        ok = self.views is None or self.views >= 1
        require(ok, "views", self.views, "at least 1, or empty (~)")
        for key in ("dropout", "attention_dropout", "label_smoothing"):
            value = getattr(self, key)
            require(0 <= value < 1, key, value, "at least 0 and below 1")
        for key in ("embedding_init", "position_init"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")


class Memory(NamedTuple):
    """A batch of encoded histories, ready for the decoder; C prefixes of each, or one.

    Attributes:
        layers: keys and values for each decoder layer's cross-attention, one a user.
        visible: bool (B, C, T) the items of each prefix.
        start: (B, C, hidden) what every digit starts with besides; zeros where it is nothing.
    """

    layers: list[KeyValue]
    visible: Tensor
    start: Tensor

    def rows(self, rows: Tensor) -> Memory:
        """The memory of some users."""
        layers = [KeyValue(layer.keys[rows], layer.values[rows]) for layer in self.layers]
        return Memory(layers, self.visible[rows], self.start[rows])


class DiffGRM(Generator):
    """Encoder, and a decoder of masked digits. See the module for the paper."""

    Settings = DiffGRMSettings
    decoding_settings: ClassVar[frozenset[str]] = frozenset({"beam_size", "softmax"})
    needs_parallel_codes: ClassVar[bool] = True
    packs = True

    def __init__(
        self, settings: DiffGRMSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue, window, user_buckets)
        self.settings = settings
        if catalogue.n_levels > catalogue.n_base_levels:
            logger.warning(
                "generator 'diffgrm' fills the digits of a SID in any order, but that of "
                "collision: dedup means nothing without the others: set collision: reassign_last, "
                "or nearest_free, which need no digit"
            )
        hidden = settings.hidden_size
        shape = shape_of(settings)
        self.sids = PartialSIDs(catalogue)
        self.token_embedding = nn.Embedding(catalogue.n_tokens, hidden, padding_idx=0)
        self.mask_embedding = nn.Embedding(catalogue.n_levels, hidden)
        self.item_position = nn.Embedding(window, hidden)
        self.encoder = nn.ModuleList(EncoderLayer(shape) for _ in range(settings.encoder_layers))
        self.encoder_norm = nn.LayerNorm(hidden, eps=1e-6, bias=False)
        self.decoder = nn.ModuleList(DenoisingLayer(shape) for _ in range(settings.decoder_layers))
        self.decoder_norm = nn.LayerNorm(hidden, eps=1e-6, bias=False)
        self.dropout = Dropout(settings.dropout)
        self.apply(init_weights)
        for embedding in (self.token_embedding, self.mask_embedding):
            nn.init.normal_(embedding.weight, std=settings.embedding_init)
        nn.init.normal_(self.item_position.weight, std=settings.position_init)
        with torch.no_grad():
            self.token_embedding.weight[0].zero_()

    def packed_loss(
        self, users: Tensor, history: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        encoded = self._encode(history)
        visible = torch.arange(history.shape[1], device=places.device) <= places[..., None]
        row = torch.arange(len(places), device=places.device)[:, None]
        return self._loss(self._remember(encoded, visible, encoded[row, places]), targets)

    def prefix_loss(
        self, users: Tensor, history: Tensor, lengths: Tensor, targets: Tensor
    ) -> Tensor:
        return self._loss(self._history(history, lengths), targets[:, None])

    def rank(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        beam_size: int,
        available: Available | None = None,
    ) -> Ranked:
        """As :meth:`Generator.rank`. The states of a beam may run together into fewer SIDs; where
        these are fewer than ``k`` and than ``beam_size``, the user's beam is doubled."""
        memory = self._history(history, lengths)
        ranked = Ranked(
            items=history.new_zeros(len(users), k),
            scores=torch.full((len(users), k), -torch.inf, device=history.device),
            group_sizes=history.new_ones(len(users), k),
        )
        pending, width = torch.arange(len(users), device=history.device), beam_size
        while len(pending):
            short = []
            for rows in pending.split(self._at_once(width)):
                of_rows = None if available is None else available.rows(rows)
                may = None if of_rows is None else partial(self.sids.legal, available=of_rows)
                logits = partial(self._all_logits, memory.rows(rows))
                step = Steps(logits, self.sids, self.settings.softmax, may)
                found = fill(step, self.sids, len(rows), width)
                some = rank_items(rank_states(found, self.sids), self.catalogue, k, of_rows)
                for field, values in zip(ranked, some, strict=True):
                    field[rows] = values.to(field.dtype)
                n_found = (found.scores > -torch.inf).sum(dim=1)
                short.append(rows[found.cut & (n_found < min(k, beam_size))])
            pending, width = torch.cat(short), 2 * width
        return ranked

    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        """Scores (B, C) of given items, each in its best order; see the module.

        With more than eight digits the best of the orders that a beam of 70 sets of digits keeps.
        """
        memory = self._history(history, lengths)
        n_digits = self.catalogue.n_levels
        width = min(_ORDERS_KEPT, math.comb(n_digits, n_digits // 2))
        at_once = self._at_once(width)
        users_at_once = max(1, at_once // max(1, items.shape[1]))
        scores = []
        for rows in torch.arange(len(items), device=items.device).split(users_at_once):
            of_rows = memory.rows(rows)
            parts = [
                self._best_order(of_rows, some, width) for some in items[rows].split(at_once, 1)
            ]
            scores.append(torch.cat(parts, dim=1))
        return torch.cat(scores)

    def _best_order(self, memory: Memory, items: Tensor, width: int) -> Tensor:
        """Scores (B, C) of ``items`` (B, C), which are searched for as if there were no others."""
        tokens = self.catalogue.tokens[items].flatten(0, 1)  # (B * C, L)
        own = torch.zeros(len(tokens), self.catalogue.n_tokens, device=items.device).bool()
        own = own.scatter(1, tokens, True)[:, None, 1:]  # (B * C, 1, n_codes)

        def may(states: Tensor, alive: Tensor) -> Tensor:
            return own & alive[..., None] & (states == 0)[..., self.sids.digits]

        logits = partial(self._all_logits, memory)
        step = Steps(logits, self.sids, self.settings.softmax, may)
        found = fill(step, self.sids, len(tokens), width)
        return found.scores[:, 0].view(items.shape)

    def _at_once(self, width: int) -> int:
        """How many users may be searched for together."""
        a_state = max(len(self.sids.digits), self.catalogue.n_levels * self.settings.inner_size)
        return max(1, _NUMBERS_AT_ONCE // (width * a_state))

    def _encode(self, history: Tensor) -> Tensor:
        """Hidden states of the history's items (B, T, hidden), none of which sees a later item."""
        x = self.token_embedding(self.catalogue.tokens[history]).sum(dim=2)
        # The sum of L embeddings, at the scale of one.
        x = x * self.catalogue.n_levels**-0.5 + self.item_position.weight[: history.shape[1]]
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x)
        return self.dropout(self.encoder_norm(x))

    def _history(self, history: Tensor, lengths: Tensor) -> Memory:
        encoded = self._encode(history)
        visible = torch.arange(history.shape[1], device=lengths.device) < lengths[:, None]
        row = torch.arange(len(lengths), device=lengths.device)
        return self._remember(encoded, visible[:, None], encoded[row, lengths - 1][:, None])

    def _remember(self, encoded: Tensor, visible: Tensor, last: Tensor) -> Memory:
        """``last`` (B, C, hidden): the encoder's state at each prefix's last item."""
        decoder = cast("list[DenoisingLayer]", list(self.decoder))
        layers = [layer.cross_attention.project(encoded) for layer in decoder]
        start = last if self.settings.decoder_start == "history" else torch.zeros_like(last)
        return Memory(layers, visible, start)

    def _denoise(self, memory: Memory, states: Tensor) -> Tensor:
        """Hidden states (B, C, V, L, hidden) of the digits of ``states`` (B, C, V, L), V for each
        of C prefixes: tokens, 0 where a digit is masked."""
        b, c, v, n_digits = states.shape
        masked = (states == 0)[..., None]
        x = torch.where(masked, self.mask_embedding.weight, self.token_embedding(states))
        x = self.dropout(x + memory.start[:, :, None, None])
        mask = memory.visible
        if c > 1:
            mask = mask.repeat_interleave(v * n_digits, dim=1)  # (B, C * V * L, T)
        x = x.flatten(1, 2)  # (B, C * V, L, hidden)
        for layer, past in zip(self.decoder, memory.layers, strict=True):
            x = layer(x, past, mask[:, None])
        return self.decoder_norm(x).view(b, c, v, n_digits, -1)

    def _logits(self, hidden: Tensor, digit: int) -> Tensor:
        """Logits (..., size) of the codes of ``digit``, float32, from its hidden (..., hidden)."""
        start = 1 + sum(self.catalogue.sizes[:digit])
        codes = self.token_embedding.weight[start : start + self.catalogue.sizes[digit]]
        # Products of vectors of this length have the scale of one: the embeddings start from 1.
        return F.linear(hidden * hidden.shape[-1] ** -0.5, codes).float()

    def _all_logits(self, memory: Memory, states: Tensor) -> list[Tensor]:
        """Logits (N, W, size) of each digit of ``states`` (N, W, L), N / B for a user of memory."""
        rows = states.reshape(len(memory.start), 1, -1, states.shape[-1])
        hidden = self._denoise(memory, rows).view(*states.shape, -1)
        return [self._logits(hidden[..., d, :], d) for d in range(states.shape[-1])]

    def _loss(self, memory: Memory, targets: Tensor) -> Tensor:
        """Weighted cross-entropy of the masked digits of ``targets`` (B, C), 0 where there is
        none."""
        tokens = self.catalogue.tokens[targets]  # (B, C, L)
        counts = masked_counts(self.catalogue.n_levels, self.settings.views)
        masks = nested_masks(self._order(memory, tokens), counts)  # (B, C, V, L)
        hidden = self._denoise(memory, tokens[:, :, None].masked_fill(masks, 0))
        trained = targets > 0
        hidden, masks = hidden[trained], masks[trained]  # (N, V, L, hidden), (N, V, L)
        weights = loss_weights(masks, self.settings.pool)
        codes = self.catalogue.codes[targets[trained]]  # (N, L)
        total = torch.zeros((), device=hidden.device)
        for digit in range(self.catalogue.n_levels):
            masked = masks[..., digit]  # (N, V)
            losses = F.cross_entropy(
                self._logits(hidden[..., digit, :][masked], digit),
                codes[:, None, digit].expand_as(masked)[masked],
                label_smoothing=self.settings.label_smoothing,
                reduction="none",
            )
            total = total + (losses * weights[..., digit][masked]).sum()
        return total

    def _order(self, memory: Memory, tokens: Tensor) -> Tensor:
        """The digits of ``tokens`` (B, C, L) in the order in which the views mask them."""
        if self.settings.noising == "random":
            return random_order(tuple(tokens.shape), tokens.device)
        training = self.training
        self.eval()
        with torch.no_grad():
            hidden = self._denoise(memory, torch.zeros_like(tokens)[:, :, None])[:, :, 0]
            logits = [self._logits(hidden[..., d, :], d) for d in range(tokens.shape[-1])]
        self.train(training)
        return least_confident_first(logits)


class DenoisingLayer(DecoderLayer):
    """A decoder layer whose self-attention sees all digits."""

    def forward(self, x: Tensor, memory: KeyValue, mask: Tensor) -> Tensor:
        """As :meth:`DecoderLayer.forward`: x (B, W, L, hidden), W SIDs for each of B users."""
        b, w, length, hidden = x.shape
        normed = self.self_norm(x).view(b * w, length, hidden)
        own = self.self_attention(normed, self.self_attention.project(normed))
        x = x + self.dropout(own.view(x.shape))
        return self._cross_and_forward(x.view(b, w * length, hidden), memory, mask).view(x.shape)
