"""Confidence-guided parallel decoding: SIDs filled digit by digit, in any order, one beam a user.

A state is a SID of which some digits are filled, any of them; it is legal when an item has these
codes. L times, every legal way to fill one more digit of a state is weighed, and the best ``width``
states are kept; a state that is reached in two orders is one state, with the better order's score.
What a trie is to codes in a fixed order would here be a graph of all subsets of digits, 2^L nodes
an item. Instead the items of each code are listed (L + 1 numbers an item, any number of digits):
the items of a state are among the shortest of its codes' lists, and the codes that they have in the
open digits are the legal ones. So every state that is kept can be completed, and since the list's
items are at hand, what is available is known exactly, for every time. States that users share are
looked up once. The search holds a number for each code of each state, and never users times items.

A code's probability is shared out among the codes of its digit that are legal in the state, or
among all of the digit (:class:`Steps`). In the first way the last digits of a SID that the
others determine cost nothing, as the last codes in a trie; in the second they cost what the network
lost on codes that no item has there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.beam import Beams, children_log_softmax
from recbole_sid.generator.catalogue import Catalogue

# Items of states that are looked at in one go.
_ITEMS_AT_ONCE = 2**20


class PartialSIDs(nn.Module):
    """The states of a catalogue, as tokens (..., L): 0 where a digit is open.

    Attributes:
        digits: (n_codes,) the digit of each code, counted over all digits; its token is one more.
    """

    digits: Tensor
    _first: Tensor
    _items: Tensor
    _keys: Tensor

    def __init__(self, catalogue: Catalogue):
        super().__init__()
        self.catalogue = catalogue
        tokens = catalogue.tokens[1:]  # (n, L)
        everything = torch.arange(1, len(tokens) + 1, device=tokens.device)
        # Token 0, an open digit, stands for any code: its list is that of all items.
        every_token = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1).flatten()
        order = every_token.argsort(stable=True)
        lengths = torch.bincount(every_token, minlength=catalogue.n_tokens)
        sizes = torch.tensor(catalogue.sizes, device=tokens.device)
        drawn = torch.Generator().manual_seed(0)
        keys = torch.randint(-(2**63), 2**63 - 1, (catalogue.n_tokens,), generator=drawn)
        keys[0] = 0
        for name, tensor in (
            ("digits", torch.repeat_interleave(sizes)),
            ("_first", torch.nn.functional.pad(lengths.cumsum(0), (1, 0))),
            ("_items", everything.repeat_interleave(tokens.shape[1] + 1)[order]),
            ("_keys", keys.to(tokens.device)),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def keys(self, states: Tensor) -> Tensor:
        """A number for each of ``states`` (..., L): int64 (...), the same for equal states, and for
        two different ones with a probability of 2^-64."""
        return self._keys[states].sum(dim=-1)

    def legal(self, states: Tensor, alive: Tensor, available: Available | None = None) -> Tensor:
        """Which codes may fill an open digit next, so that an available item has all of them.

        Args:
            states: (B, W, L).
            alive: bool (B, W) which of the states are asked about.

        Returns:
            bool (B, W, n_codes), False where a state is not alive.
        """
        held = alive.flatten().nonzero()[:, 0]  # (N,)
        some = states.flatten(0, 1)[held]
        same_for_all = available is None or available.times is None
        place = torch.arange(len(some), device=held.device)
        if same_for_all:
            distinct, found_at = torch.unique(self.keys(some), return_inverse=True)
            some = some[torch.zeros_like(distinct).scatter(0, found_at, place)]
            place = found_at
        n_tokens = self.catalogue.n_tokens
        legal = torch.zeros(len(some), n_tokens, dtype=torch.bool, device=held.device)
        for rows, items in self._matches(some):
            if available is not None:
                users = held[rows] // states.shape[1]
                of_rows = available if same_for_all else available.rows(users)
                there = of_rows.items(items)
                rows, items = rows[there], items[there]
            tokens = torch.where(some[rows] == 0, self.catalogue.tokens[items], 0)  # (M, L)
            legal.view(-1)[(rows[:, None] * n_tokens + tokens).flatten()] = True
        result = legal.new_zeros(alive.numel(), n_tokens - 1)
        result[held] = legal[place, 1:]
        return result.view(*alive.shape, -1)

    def leaves(self, states: Tensor, alive: Tensor) -> Tensor:
        """The catalogue's leaves of full ``states`` (B, W, L): (B, W), 0 where not alive."""
        held = alive.flatten().nonzero()[:, 0]
        leaves = torch.zeros(alive.numel(), dtype=torch.int64, device=alive.device)
        for rows, items in self._matches(states.flatten(0, 1)[held]):
            leaves[held[rows]] = self.catalogue.leaf_of_item[items].long()
        return leaves.view(alive.shape)

    def _matches(self, states: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """All items that ``states`` (N, L) may become: rows (M,) and items (M,), part by part."""
        if not len(states):
            return
        lengths = self._first[states + 1] - self._first[states]  # (N, L)
        length, digit = lengths.min(dim=1)
        start = self._first[states.gather(1, digit[:, None])[:, 0]]
        end = length.cumsum(0)
        part = (end - 1) // _ITEMS_AT_ONCE
        sizes = torch.unique_consecutive(part, return_counts=True)[1].tolist()
        for some in torch.arange(len(states), device=states.device).split(sizes):
            rows = some.repeat_interleave(length[some])
            number = torch.arange(len(rows), device=rows.device) + (end - length)[some[0]]
            items = self._items[start[rows] + number - (end - length)[rows]]
            wanted = states[rows]
            fits = ((wanted == 0) | (wanted == self.catalogue.tokens[items])).all(dim=1)
            yield rows[fits], items[fits]


@dataclass(frozen=True)
class Steps:
    """What :func:`fill` asks for, from a network's logits.

    Attributes:
        logits: of states (B, W, L), one (B, W, size) a digit, float32.
        sids: the catalogue's states.
        softmax: ``legal``: a digit's probabilities are over the codes that are legal in the whole
            catalogue, whatever may be next; ``digit``: over all codes of the digit.
        may: as :meth:`PartialSIDs.legal`, the legal codes that may be next; None: all of them.
    """

    logits: Callable[[Tensor], list[Tensor]]
    sids: PartialSIDs
    softmax: Literal["legal", "digit"]
    may: Callable[[Tensor, Tensor], Tensor] | None

    def __call__(self, states: Tensor, alive: Tensor) -> Tensor:
        """Log-probabilities float32 (B, W, n_codes) of the codes that may fill an open digit of
        ``states`` (B, W, L) next, -inf of all others and where not ``alive`` (B, W)."""
        logits = self.logits(states)
        if self.softmax == "digit":
            of_digits = [torch.log_softmax(digit, dim=-1) for digit in logits]
            allowed = (self.may or self.sids.legal)(states, alive)
        else:
            legal = self.sids.legal(states, alive)
            parts = legal.split(self.sids.catalogue.sizes, dim=-1)
            of_digits = list(map(children_log_softmax, logits, parts))
            allowed = legal if self.may is None else self.may(states, alive)
        return torch.where(allowed, torch.cat(of_digits, dim=-1), -torch.inf)


class Filled(NamedTuple):
    """Full states, best first; dead ones have score -inf."""

    states: Tensor  # (B, W, L)
    scores: Tensor  # (B, W) float32
    cut: Tensor  # (B,) bool, whether states were left out that a wider search would have kept


def fill(
    step: Callable[[Tensor, Tensor], Tensor],
    sids: PartialSIDs,
    batch_size: int,
    width: int,
) -> Filled:
    """Fill all digits of every user's states, one a step.

    Args:
        step: as :class:`Steps`.
        sids: the catalogue's states.
        batch_size: B.
        width: states of each user that are kept.
    """
    n_digits, n_codes = sids.catalogue.n_levels, len(sids.digits)
    device = sids.digits.device
    states = torch.zeros(batch_size, 1, n_digits, dtype=torch.int64, device=device)
    scores = torch.zeros(batch_size, 1, device=device)
    cut = torch.zeros(batch_size, dtype=torch.bool, device=device)
    for n_filled in range(1, n_digits + 1):
        grown = (scores[..., None] + step(states, scores > -torch.inf)).flatten(1)
        # A state is reached from as many states as it has filled digits, at most: among so many
        # there are ``width`` different ones, and one more if there is one.
        enough = min(n_filled * width + 1, grown.shape[1])
        scores, chosen = grown.topk(enough, dim=1)
        parents, codes = chosen // n_codes, chosen % n_codes
        states = states.gather(1, parents[..., None].expand(-1, -1, n_digits))
        states = states.scatter(2, sids.digits[codes][..., None], codes[..., None] + 1)
        kept = (scores > -torch.inf) & first_of_each(sids.keys(states))
        cut |= kept.sum(dim=1) > width
        front = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        scores = torch.where(kept, scores, -torch.inf).gather(1, front)
        states = states.gather(1, front[..., None].expand(-1, -1, n_digits))
    return Filled(states, scores, cut)


def first_of_each(keys: Tensor) -> Tensor:
    """Where a key stands in its row of ``keys`` (B, M) for the first time: bool (B, M)."""
    ordered, order = keys.sort(dim=1, stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(first).scatter(1, order, first)


def rank_states(found: Filled, sids: PartialSIDs) -> Beams:
    """The leaves of what :func:`fill` found."""
    return Beams(sids.leaves(found.states, found.scores > -torch.inf), found.scores)
