"""Constrained beam search: exactly L steps over the trie, every result a legal, distinct item.

The search knows nothing of the network: a :class:`StepDecoder` gives the logits of the next level's
codes, a :class:`Scorer` the log-probabilities of a beam's children themselves. A returned score is
the exact log-likelihood of the item's SID, in float32.

Where only some items are available, children that lead to none of them are cut; the probabilities
are those of all codes all the same, so that an item's score does not depend on what is available.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sid.generator.availability import Available
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


class Step(NamedTuple):
    """Where a search stands when it goes down one level; C is the widest beam's children."""

    level: int
    parents: Tensor | None  # (B, W) the beam before that each beam extends; None at level 0
    codes: Tensor | None  # (B, W) the code that each beam has taken last; None at level 0
    nodes: Tensor  # (B, W) nodes of depth ``level``
    children: Tensor  # (B, W, C) nodes of depth ``level + 1``, 0 where there is none
    child_codes: Tensor  # (B, W, C)
    legal: Tensor  # (B, W, C) True where there is a child


class Scorer(Protocol):
    """What :func:`search` asks of a generator, for a batch of B users."""

    batch_size: int
    device: torch.device

    def log_probs(self, step: Step) -> Tensor:
        """Log-probabilities (B, W, C) of the children, float32; any value where none is."""
        ...


class Beams(NamedTuple):
    """Leaves of the trie, best first; dead places have leaf 0 and score -inf."""

    leaves: Tensor  # (B, W) int64
    scores: Tensor  # (B, W) float32


class Ranked(NamedTuple):
    """Ranked items, best first. Where fewer than K exist: item 0, score -inf, group size 1."""

    items: Tensor  # (B, K) int64, RecBole's internal ids
    scores: Tensor  # (B, K) float32, log-likelihood of the item's SID
    group_sizes: Tensor  # (B, K) int64, how many available items share the SID


def beam_search(
    decoder: StepDecoder,
    catalogue: Catalogue,
    beam_size: int,
    softmax: Literal["level", "children"] = "level",
    available: Available | None = None,
) -> Beams:
    """The ``beam_size`` best leaves of every user, by a beam of that width at every level.

    Args:
        softmax: ``level``: a code's probability is its softmax over all codes of the level, also
            those that lead nowhere; ``children``: over the codes that lead on from the beam.
        available: what the users may be given; None: everything.
    """
    return search(_StepScorer(decoder, softmax), catalogue, beam_size, available)


def search(
    scorer: Scorer, catalogue: Catalogue, beam_size: int, available: Available | None = None
) -> Beams:
    """As :func:`beam_search`, from log-probabilities."""
    device = scorer.device
    nodes = torch.zeros(scorer.batch_size, 1, dtype=torch.int64, device=device)  # (B, W)
    scores = torch.zeros(scorer.batch_size, 1, device=device)  # (B, W)
    parents: Tensor | None = None
    codes: Tensor | None = None
    for level in range(catalogue.n_levels):
        first, node_codes = catalogue.branches(level)
        start = first[nodes]
        count = first[nodes + 1] - start  # (B, W)
        place = torch.arange(int(count.max()), device=device)
        legal = (place < count[..., None]) & (scores > -torch.inf)[..., None]
        children = torch.where(legal, start[..., None] + place, 0)  # (B, W, C)
        child_codes = node_codes[children].long()
        log_probs = scorer.log_probs(
            Step(level, parents, codes, nodes, children, child_codes, legal)
        )
        if available is not None:
            legal = legal & available.nodes(level + 1, children)
        grown = torch.where(legal, scores[..., None] + log_probs, -torch.inf)
        scores, chosen = grown.flatten(1).topk(min(beam_size, grown[0].numel()), dim=1)
        parents = chosen // len(place)
        nodes = children.flatten(1).gather(1, chosen)
        codes = child_codes.flatten(1).gather(1, chosen)
        # Where a user has fewer legal continuations than another, dead places fill the row: node 0
        # with score -inf, which no continuation can raise again.
        nodes = torch.where(scores > -torch.inf, nodes, 0)
    return Beams(nodes, scores)


def children_log_softmax(logits: Tensor, legal: Tensor) -> Tensor:
    """Log-softmax over the last axis where ``legal``, float32; 0 where no place is."""
    masked = torch.where(legal, logits.float(), -torch.inf)
    return torch.where(legal, torch.log_softmax(masked, dim=-1), 0.0)


class _StepScorer:
    """Log-probabilities from a :class:`StepDecoder`'s logits."""

    def __init__(self, decoder: StepDecoder, softmax: Literal["level", "children"]):
        self.decoder, self.softmax = decoder, softmax
        self.batch_size, self.device = decoder.batch_size, decoder.device

    def log_probs(self, step: Step) -> Tensor:
        logits = self.decoder.step(step.level, step.parents, step.codes)  # (B, W, size)
        if self.softmax == "children":
            return children_log_softmax(logits.gather(-1, step.child_codes), step.legal)
        return torch.log_softmax(logits.float(), dim=-1).gather(-1, step.child_codes)


def rank_items(
    beams: Beams, catalogue: Catalogue, k: int, available: Available | None = None
) -> Ranked:
    """Expand leaves to at most ``k`` items, those of one leaf in raw-token order.

    With ``available`` all others are left out, and a group of items that share a SID is what
    remains of it.
    """
    first, leaf_items = catalogue.leaves()
    alive = beams.scores > -torch.inf
    sizes = torch.where(alive, first[beams.leaves + 1] - first[beams.leaves], 0)  # (B, W)
    ends = sizes.cumsum(dim=1)
    width = k if available is None else int(ends[:, -1].max()) if len(ends) else 0
    slots = torch.arange(width, device=ends.device).expand(len(ends), -1).contiguous()
    beam = torch.searchsorted(ends, slots, right=True)  # (B, K) the beam that fills each slot
    filled = beam < ends.shape[1]
    beam = beam.clamp(max=ends.shape[1] - 1)
    within = slots - (ends - sizes).gather(1, beam)
    index = first[beams.leaves].gather(1, beam) + torch.where(filled, within, 0)
    items = torch.where(filled, leaf_items[index], 0)
    if available is not None:
        filled = available.items(items)
        sizes = torch.zeros_like(sizes).scatter_add(1, beam, filled.to(sizes.dtype))
        order = (~filled).to(torch.int8).argsort(dim=1, stable=True)  # available ones to the front
        items, beam, filled = (
            F.pad(field.gather(1, order)[:, :k], (0, max(0, k - width)))
            for field in (items, beam, filled)
        )
    return Ranked(
        items=torch.where(filled, items, 0),
        scores=torch.where(filled, beams.scores.gather(1, beam), -torch.inf),
        group_sizes=torch.where(filled, sizes.gather(1, beam), 1),
    )
