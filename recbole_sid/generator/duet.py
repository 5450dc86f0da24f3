"""Duet: a search over codes and a softmax over items, on one backbone. Ours, of no paper.

IntRR's heads know an item by the path of its codes: what they learn of one item helps those that
begin as it does, and its best items stand at the very top of a list. A softmax over all items, as
in SASRec, knows every item by itself and finds more of them further down. Here both read the same
hidden state, and both are trained:

    loss = L_codes + items_weight * L_items

with L_codes the loss of :class:`IntRR` and L_items the cross-entropy over all items of the inner
products of a linear map of the state with the items' tokens, those that histories are made of. A
list is ranked by the weighted sum of what both say of an item,

    s(i) = items_share * ln p_items(i) + (1 - items_share) * ln p_codes(i),

where items that share a SID share its probability in p_codes evenly. A score is no likelihood: the
scores of all items do not sum to 1.

The search proposes ``beam_size`` items, the softmax as many, and all of them are scored by both;
``decoding: exact`` scores all items by both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.beam import Ranked, rank_items
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.full_softmax import SCORES_AT_ONCE, full_softmax_loss
from recbole_sid.generator.intrr import IntRR, IntRRSettings, together
from recbole_sid.generator.kept import Kept
from recbole_sid.generator.layers import init_weights
from recbole_sid.settings import require


@dataclass(frozen=True)
class DuetSettings(IntRRSettings):
    """Settings of :class:`Duet`; meanings and defaults in ``properties/generator/duet.yaml``."""

    items_weight: float
    items_share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.softmax == "children",
            "softmax",
            self.softmax,
            "'children'",
            "Over all codes of a level, codes that lead to no item take a part of the probability, "
            "and what the two heads say of an item is not on one scale.",
        )
        require(self.items_weight > 0, "items_weight", self.items_weight, "above 0")
        share = self.items_share
        require(0 <= share <= 1, "items_share", share, "from 0 to 1")


class Duet(IntRR):
    """IntRR with a softmax over all items beside its codes. See the module."""

    Settings: ClassVar[type] = DuetSettings
    decoding_settings: ClassVar[frozenset[str]] = IntRR.decoding_settings | {"items_share"}
    _leaf_sizes: Tensor

    def __init__(
        self, settings: DuetSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue, window, user_buckets)
        self._kept_items: Kept[Tensor] = Kept()
        self.duet = settings
        self.tied = catalogue
        self.catalogue = catalogue.without_ties()
        first, _ = catalogue.leaves()
        self.register_buffer("_leaf_sizes", torch.diff(first), persistent=False)
        self.item_head = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.item_head.apply(init_weights)

    def rank(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        beam_size: int,
        available: Available | None = None,
    ) -> Ranked:
        hidden = self._last(history, lengths)
        width = max(k, beam_size)
        parts = []
        for rows, of_items in self._item_scores(hidden):
            there = None if available is None else available.rows(rows)
            if there is not None:
                every_item = torch.arange(1, self.catalogue.n_items + 1, device=hidden.device)
                alive = there.items(every_item[None])  # (b or 1, n_items)
                proposed = torch.where(alive, of_items, -torch.inf)
            else:
                proposed = of_items
            if self.duet.decoding == "exact":
                scores = self._mixed(of_items, self._every_code_score(hidden[rows]))
                scores = torch.where(proposed > -torch.inf, scores, -torch.inf)
                items = torch.arange(1, scores.shape[1] + 1, device=scores.device)
                items = items.expand(len(scores), -1)
            else:
                items = self._candidates(hidden[rows], proposed, width, there)
                of_items = of_items.gather(1, items.clamp(min=1) - 1)
                scores = self._mixed(of_items, self._code_scores(hidden[rows], items))
                scores = torch.where(items > 0, scores, -torch.inf)
            parts.append(_best(items, scores, k))
        items, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        return Ranked(items, scores, torch.ones_like(items))

    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        """The scores s(i) of given ``items`` (B, C): (B, C)."""
        hidden = self._last(history, lengths)
        parts = [
            self._mixed(
                of_items.gather(1, items[rows] - 1), self._code_scores(hidden[rows], items[rows])
            )
            for rows, of_items in self._item_scores(hidden)
        ]
        return torch.cat(parts)

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self._duet_loss(hidden, self._table(), targets)

    def _duet_loss(self, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        of_items = full_softmax_loss(self.item_head(hidden), table, targets - 1)
        return super()._cross_entropy(hidden, targets) + self.duet.items_weight * of_items

    def _table(self) -> Tensor:
        """The token (n_items, width) of every item."""

        def make() -> Tensor:
            device = self.user_buckets.device
            tokens, _ = self._items(torch.arange(1, self.catalogue.n_items + 1, device=device))
            return tokens

        return self._kept_items.get(self, self._token_weights(), make)

    def forget(self) -> None:
        super().forget()
        self._kept_items.forget()

    def _item_scores(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """ln p_items (b, n_items) of all items, some rows at a time: at most ``SCORES_AT_ONCE``
        numbers, or one row."""
        table = self._table()
        at_once = max(1, SCORES_AT_ONCE // len(table))
        for start in range(0, max(1, len(hidden)), at_once):
            rows = slice(start, start + at_once)
            yield rows, self._dense_log_probs(hidden[rows], table)

    def _dense_log_probs(self, hidden: Tensor, table: Tensor) -> Tensor:
        """ln p_items (b, n_items) of all items."""
        scores = F.linear(self.item_head(hidden), table)
        return scores.log_softmax(dim=1, dtype=torch.float32)

    @property
    def _dense_share(self) -> float:
        """Share of what is said of items one by one in a score."""
        return self.duet.items_share

    def _code_scores(self, hidden: Tensor, items: Tensor) -> Tensor:
        """ln p_codes (b, C) of ``items`` (b, C), any number for item 0; hidden (b, width)."""
        items = items.clamp(min=1)
        states = hidden[:, None].expand(*items.shape, -1).flatten(0, 1)
        of_sids = self._item_log_probs(states, items.flatten()).view(items.shape)
        return of_sids - self._n_sharing(items).log()

    def _every_code_score(self, hidden: Tensor) -> Tensor:
        """ln p_codes (b, n_items) of all items."""
        assert self.trie_softmax is not None, "the settings see to it"
        tables = self._node_tables(self.trie_softmax)
        of_leaves = self.trie_softmax.leaf_log_probs(self.codebook, tables, hidden, SCORES_AT_ONCE)
        leaf_of_item = self.tied.leaf_of_item[1:]
        return (of_leaves - self._leaf_sizes.float().log())[:, leaf_of_item]

    def _n_sharing(self, items: Tensor) -> Tensor:
        """How many items hold the SID of each of ``items``, itself counted."""
        return self._leaf_sizes[self.tied.leaf_of_item[items]].float()

    def _mixed(self, of_items: Tensor, of_codes: Tensor) -> Tensor:
        share = self._dense_share
        return share * of_items + (1 - share) * of_codes

    def _candidates(
        self, hidden: Tensor, of_items: Tensor, width: int, available: Available | None
    ) -> Tensor:
        """What either head proposes, each item once: (b, C), 0 in empty places.

        Args:
            hidden: (b, width of the states).
            of_items: (b, n_items), -inf where an item is not available.
            width: how many items either may propose.
        """
        found = together(list(self._beams(hidden, width, available)))
        by_codes = rank_items(found, self.tied, width, available).items
        best = of_items.topk(min(width, of_items.shape[1]), dim=1)
        by_items = torch.where(best.values > -torch.inf, best.indices + 1, 0)
        items = torch.cat([by_codes, by_items], dim=1).sort(dim=1).values
        again = F.pad(items[:, 1:] == items[:, :-1], (1, 0))
        return torch.where(again, 0, items)


def _best(items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of ``items`` (b, C): items and scores (b, k); 0 and -inf where fewer are."""
    scores, places = scores.topk(min(k, scores.shape[1]), dim=1)
    items = torch.where(scores > -torch.inf, items.gather(1, places), 0)
    missing = (0, k - scores.shape[1])
    return F.pad(items, missing), F.pad(scores, missing, value=-torch.inf)
