"""Constrained beam search: exactly L steps over the trie, every result a legal, distinct item.

The search knows nothing of the network: a :class:`StepDecoder` gives the scores of the next level's
codes. A code's score is its log-softmax over the *whole* level; only then are the legal children
gathered, so a returned score is the exact log-likelihood of the item's SID, in float32.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recbole_sid.generator.catalogue import Catalogue


class StepDecoder(Protocol):
    """What beam search asks of a generator, for a batch of B users."""

    batch_size: int
    device: torch.device

    def step(self, level: int, parents: Tensor | None, codes: Tensor | None) -> Tensor:
        """Logits of the codes of ``level``.

        Args:
            level: 0 to L - 1.
            parents: (B, W) for each beam, which beam of the previous level it extends; None at
                level 0, where each user has one beam.
            codes: (B, W) the code of the previous level that each beam has taken.

        Returns:
            (B, W, size of the level), any floating type.
        """
        ...


class Beams(NamedTuple):
    """Leaves of the trie, best first; dead places have leaf 0 and score -inf."""

    leaves: Tensor  # (B, W) int64
    scores: Tensor  # (B, W) float32


class Ranked(NamedTuple):
    """Ranked items, best first. Where fewer than K exist: item 0, score -inf, group size 1."""

    items: Tensor  # (B, K) int64, RecBole's internal ids
    scores: Tensor  # (B, K) float32, log-likelihood of the item's SID
    group_sizes: Tensor  # (B, K) int64, how many items share the SID


def beam_search(decoder: StepDecoder, catalogue: Catalogue, beam_size: int) -> Beams:
    """The ``beam_size`` best leaves of every user, by a beam of that width at every level."""
    device = decoder.device
    nodes = torch.zeros(decoder.batch_size, 1, dtype=torch.int64, device=device)  # (B, W)
    scores = torch.zeros(decoder.batch_size, 1, device=device)  # (B, W)
    parents: Tensor | None = None
    codes: Tensor | None = None
    for level in range(catalogue.n_levels):
        logits = decoder.step(level, parents, codes)
        log_probs = torch.log_softmax(logits.float(), dim=-1)  # (B, W, size)
        first, node_codes = catalogue.branches(level)
        start = first[nodes]
        count = first[nodes + 1] - start  # (B, W)
        place = torch.arange(int(count.max()), device=device)
        legal = (place < count[..., None]) & (scores > -torch.inf)[..., None]
        children = torch.where(legal, start[..., None] + place, 0)  # (B, W, widest)
        child_codes = node_codes[children].long()
        grown = scores[..., None] + log_probs.gather(-1, child_codes)
        grown = torch.where(legal, grown, -torch.inf).flatten(1)  # (B, W * widest)
        scores, chosen = grown.topk(min(beam_size, grown.shape[1]), dim=1)
        parents = chosen // len(place)
        nodes = children.flatten(1).gather(1, chosen)
        codes = child_codes.flatten(1).gather(1, chosen)
        # Where a user has fewer legal continuations than another, dead places fill the row: node 0
        # with score -inf, which no continuation can raise again.
        nodes = torch.where(scores > -torch.inf, nodes, 0)
    return Beams(nodes, scores)


def rank_items(beams: Beams, catalogue: Catalogue, k: int) -> Ranked:
    """Expand leaves to at most ``k`` items, those of one leaf in raw-token order."""
    first, leaf_items = catalogue.leaves()
    alive = beams.scores > -torch.inf
    sizes = torch.where(alive, first[beams.leaves + 1] - first[beams.leaves], 0)  # (B, W)
    ends = sizes.cumsum(dim=1)
    slots = torch.arange(k, device=ends.device).expand(len(ends), k).contiguous()
    beam = torch.searchsorted(ends, slots, right=True)  # (B, K) the beam that fills each slot
    filled = beam < ends.shape[1]
    beam = beam.clamp(max=ends.shape[1] - 1)
    within = slots - (ends - sizes).gather(1, beam)
    index = first[beams.leaves].gather(1, beam) + torch.where(filled, within, 0)
    return Ranked(
        items=torch.where(filled, leaf_items[index], 0),
        scores=torch.where(filled, beams.scores.gather(1, beam), -torch.inf),
        group_sizes=torch.where(filled, sizes.gather(1, beam), 1),
    )
