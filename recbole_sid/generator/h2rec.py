"""H2Rec: semantic IDs (SID) and hash IDs (HID) side by side (Liu et al., arXiv 2512.10388).

A hash ID is an embedding of its own for every item: it keeps apart what equal or similar codes
throw together, which the paper holds against quantisation where items are popular. Two branches
read the same history, one token an item each: fused embeddings of its codes, and its HID. Both
score all items; the loss is L_rec + lambda_code * L_code + lambda_seq * L_seq.

The paper in words gives the two branches, the fusion over granularities, the two alignments and
their sum. Its formulas were not at hand; in their place stands what an early public state of the
authors' code (github.com/ziwliu8/H2Rec) does: the scores, inner products with each branch's item
vectors, added; one backbone for both branches; L_code with several positives and in both
directions; L_seq, which masks whole levels of a history and contrasts its last state with the
unmasked one's; both weights, and the temperature of L_code.

Ours are: the full softmax (there: one sampled negative); the gate, which weighs an item's levels by
their own embeddings wherever the item stands (there: by the HID of the history's last item, and
the items that are scored have the mean), so that all prefixes of a window train in one pass; near
codes as positives (there: equal codes and items that follow each other); masked levels drawn at
random (there: those of the smallest weight) and plain InfoNCE in L_seq (there: with soft targets).
Left out are the cross-attention between the branches, an option there, which lets a place see later
ones, and HIDs that start from content vectors.

Items are scored one by one, not code by code: there is no search, and items of one SID do not tie.
A new item has no HID, so such a run takes none in (``append`` refuses it by name).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.backbone import Backbone, shape_of
from recbole_sid.generator.base import Generator, require_window_targets
from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.full_softmax import SCORES_AT_ONCE, full_softmax_loss
from recbole_sid.generator.h2rec_losses import code_alignment_loss, granularity_loss
from recbole_sid.generator.layers import init_weights
from recbole_sid.settings import require


@dataclass(frozen=True)
class H2RecSettings:
    """Settings of :class:`H2Rec`; meanings and defaults in ``properties/generator/h2rec.yaml``."""

    fusion: Literal["gate", "mean"]
    share_backbone: bool
    lambda_code: float
    align_prefix: int
    align_temperature: float
    lambda_seq: float
    mask_share: float
    mask_temperature: float
    window_stride: int
    window_targets: int | None
    beam_size: int
    hidden_size: int
    inner_size: int
    n_heads: int
    head_size: int
    layers: int
    dropout: float
    attention_dropout: float
    embedding_init: float

    def __post_init__(self) -> None:
        for key in ("align_prefix", "window_stride", "beam_size", "hidden_size", "inner_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("n_heads", "head_size", "layers"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require_window_targets(self.window_targets)
        for key in ("lambda_code", "lambda_seq"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "at least 0")
        for key in ("align_temperature", "mask_temperature", "embedding_init"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        for key in ("dropout", "attention_dropout"):
            value = getattr(self, key)
            require(0 <= value < 1, key, value, "at least 0 and below 1")
        share = self.mask_share
        require(0 < share <= 1, "mask_share", share, "above 0 and at most 1")


class H2Rec(Generator):
    """Two branches over a history, and a full softmax over all items. See the module."""

    Settings = H2RecSettings
    packs = True

    def __init__(
        self, settings: H2RecSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue.without_ties(), window, user_buckets)
        self.settings = settings
        self.sid_vectors = SIDVectors(catalogue, settings.hidden_size, settings.fusion)
        self.hid_embedding = nn.Embedding(catalogue.n_items + 1, settings.hidden_size)
        n_backbones = 1 if settings.share_backbone else 2
        self.backbones = nn.ModuleList(
            Backbone(shape_of(settings), settings.layers, window) for _ in range(n_backbones)
        )
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=settings.embedding_init)
        with torch.no_grad():
            self.hid_embedding.weight[0].zero_()

    def packed_loss(
        self, users: Tensor, history: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        row, target = (targets > 0).nonzero(as_tuple=True)  # (N,) each
        last = torch.where(targets > 0, places, 0).amax(dim=1)  # (B,)
        return self._loss(users, history, row, places[row, target], targets[row, target], last)

    def prefix_loss(
        self, users: Tensor, history: Tensor, lengths: Tensor, targets: Tensor
    ) -> Tensor:
        row = torch.arange(len(lengths), device=lengths.device)
        return self._loss(users, history, row, lengths - 1, targets, lengths - 1)

    def rank(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        beam_size: int,
        available: Available | None = None,
    ) -> Ranked:
        every_item = torch.arange(1, self.catalogue.n_items + 1, device=history.device)
        n_found = min(k, len(every_item))
        parts = []
        for rows, log_probs in self._log_probs(history, lengths):
            if available is not None:
                there = available.rows(rows).items(every_item[None])  # (b or 1, n_items)
                log_probs = torch.where(there, log_probs, -torch.inf)
            scores, index = log_probs.topk(n_found, dim=1)
            parts.append((scores, torch.where(scores > -torch.inf, index + 1, 0)))
        scores, items = (torch.cat(part) for part in zip(*parts, strict=True))
        missing = (0, k - n_found)
        items = F.pad(items, missing)
        return Ranked(items, F.pad(scores, missing, value=-torch.inf), torch.ones_like(items))

    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        parts = [
            log_probs.gather(1, items[rows] - 1)
            for rows, log_probs in self._log_probs(history, lengths)
        ]
        return torch.cat(parts)

    def _loss(
        self,
        users: Tensor,
        history: Tensor,
        row: Tensor,
        place: Tensor,
        targets: Tensor,
        last: Tensor,
    ) -> Tensor:
        """The whole loss of N samples.

        Args:
            users, history: (B,) and (B, T).
            row, place: (N,) where each sample's history ends in ``history``.
            targets: (N,).
            last: (B,) the last place of each row that a sample ends at.
        """
        settings = self.settings
        sid_table, hid_table = self.sid_vectors(), self.hid_embedding.weight
        of_sid = [F.embedding(history, sid_table)]
        if settings.lambda_seq:
            of_sid.append(self.sid_vectors.masked(history, settings.mask_share))
        sid, *masked, hid = self._states(of_sid, self.hid_embedding(history))
        hidden = torch.cat([sid[row, place], hid[row, place]], dim=1)
        both = torch.cat([sid_table, hid_table], dim=1)[1:]  # (n_items, 2 * width)
        loss = full_softmax_loss(hidden, both, targets - 1)
        if settings.lambda_code:
            items = targets.unique()  # (M,)
            prefix = min(settings.align_prefix, self.catalogue.n_base_levels)
            node = self.catalogue.node_of_item[items, prefix - 1]
            code = code_alignment_loss(
                hid_table[items],
                sid_table[items],
                node[:, None] == node,
                settings.align_temperature,
            )
            loss = loss + settings.lambda_code * code
        if settings.lambda_seq:
            ends = torch.arange(len(history), device=history.device), last
            of_history = granularity_loss(
                masked[0][ends], sid[ends], users, settings.mask_temperature
            )
            loss = loss + settings.lambda_seq * of_history
        return loss

    def _states(self, of_sid: list[Tensor], of_hid: Tensor) -> list[Tensor]:
        """Hidden states (B, T, width) of each of the SID branch's inputs and of the HID branch's,
        which goes last."""
        inputs = [*of_sid, of_hid]
        if self.settings.share_backbone:
            return list(self.backbones[0](torch.cat(inputs)).chunk(len(inputs)))
        return [*(self.backbones[0](tokens) for tokens in of_sid), self.backbones[1](of_hid)]

    def _log_probs(self, history: Tensor, lengths: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Log-probabilities (b, n_items) of all items in float32, some rows at a time: at most
        ``SCORES_AT_ONCE`` numbers, or one row."""
        sid_table = self.sid_vectors()
        of_sid = F.embedding(history, sid_table)
        sid, hid = self._states([of_sid], self.hid_embedding(history))
        row = torch.arange(len(lengths), device=lengths.device)
        hidden = torch.cat([sid[row, lengths - 1], hid[row, lengths - 1]], dim=1)
        both = torch.cat([sid_table, self.hid_embedding.weight], dim=1)[1:]
        at_once = max(1, SCORES_AT_ONCE // len(both))
        for start in range(0, max(1, len(hidden)), at_once):
            rows = slice(start, start + at_once)
            yield rows, F.linear(hidden[rows], both).log_softmax(dim=1, dtype=torch.float32)


class SIDVectors(nn.Module):
    """Vectors of SIDs: embeddings of the codes of all levels but the dedup digit, which says
    nothing of an item, summed with weights.

    The weights are the softmax over an item's levels of a learned linear score of each code's
    embedding, with a bias a level (``gate``, which starts as the mean), or equal (``mean``).
    """

    tokens: Tensor

    def __init__(self, catalogue: Catalogue, width: int, fusion: Literal["gate", "mean"]):
        super().__init__()
        levels = catalogue.n_base_levels
        n_tokens = sum(catalogue.sizes[:levels]) + 1
        self.register_buffer("tokens", catalogue.tokens[:, :levels], persistent=False)
        # Behind the codes an embedding a level, which stands for its codes where it is masked.
        self.embedding = nn.Embedding(n_tokens + levels, width)
        self.mask_tokens = range(n_tokens, n_tokens + levels)
        self.gate: nn.ParameterDict | None = None
        if fusion == "gate":
            self.gate = nn.ParameterDict(
                {"weight": torch.zeros(levels, width), "bias": torch.zeros(levels)}
            )

    def forward(self) -> Tensor:
        """Of all items, (n_items + 1, width); row 0 is of no use."""
        return self._fuse(self.tokens, self.weights(self.tokens))

    def masked(self, history: Tensor, share: float) -> Tensor:
        """Of a history's items (B, T), (B, T, width), where each row lacks some levels.

        A row's levels are drawn at random, ``share`` of them rounded down, but at least one. Those
        left keep their weights.
        """
        tokens = self.tokens[history]  # (B, T, L)
        levels = tokens.shape[2]
        order = torch.rand(len(history), levels, device=history.device).argsort(dim=1)
        lacking = order < max(1, int(levels * share))  # (B, L)
        mask_tokens = torch.tensor(self.mask_tokens, device=history.device)
        seen = torch.where(lacking[:, None], mask_tokens, tokens)
        return self._fuse(seen, self.weights(tokens))

    def weights(self, tokens: Tensor) -> Tensor:
        """Of the levels of items with ``tokens`` (…, L): (…, L), which sum to 1."""
        if self.gate is None:
            return torch.full(tokens.shape, 1 / tokens.shape[-1], device=tokens.device)
        of_code = F.linear(self.embedding.weight, self.gate["weight"], self.gate["bias"]).float()
        level = torch.arange(tokens.shape[-1], device=tokens.device)
        return of_code[tokens, level].softmax(dim=-1)

    def _fuse(self, tokens: Tensor, weights: Tensor) -> Tensor:
        levels = tokens.shape[-1]
        fused = F.embedding_bag(
            tokens.reshape(-1, levels),
            self.embedding.weight,
            per_sample_weights=weights.reshape(-1, levels),
            mode="sum",
        )
        return fused.view(*tokens.shape[:-1], -1)
