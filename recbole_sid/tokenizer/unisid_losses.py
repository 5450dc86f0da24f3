"""The loss terms of UniSID (arXiv 2602.10445) on level logits, and ours beside them.

A level's logits are compared as directions: :func:`level_directions` makes these, and
:func:`multi_granularity_loss` takes only inner products of them. All terms are in nats. Call them
outside autocast: half precision is too coarse for a cosine that is divided by a temperature.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recbole_sid.tokenizer.contrastive import contrastive_loss


class LevelLosses(NamedTuple):
    """Result of :func:`multi_granularity_loss`.

    Attributes:
        losses: (L,), the mean at each level; 0 where no anchor has a positive. The paper's loss is
            their mean.
        anchors: int64 (L,), the anchors that have a positive: those that the mean is over.
    """

    losses: Tensor
    anchors: Tensor


def level_directions(
    logits: Tensor, similarity: Literal["logits", "probabilities"], temperature: float
) -> Tensor:
    """Unit vectors whose inner products are the similarity of two items at a level.

    ``logits`` is the paper's cosine of the logits themselves. It does not change when a level's
    logits are rotated, so nothing says which axis is a code. ``probabilities``, ours, is the cosine
    of softmax(logits / temperature): all its entries are above 0, so only items that put their mass
    on different codes are orthogonal, and a rotation changes it.

    Args:
        logits: (N, L, K).
        similarity: which of the two.
        temperature: above 0; for ``probabilities`` only.

    Returns:
        (N, L, K).
    """
    if similarity == "probabilities":
        logits = (logits / temperature).softmax(dim=2)
    return normalize(logits, dim=2)


def multi_granularity_loss(
    directions: Tensor,
    labels: Tensor,
    rows: Tensor,
    temperature: float,
    n_anchors: int,
    targets: slice | None = None,
    pair_levels: int = 0,
    codes: Tensor | None = None,
    apart_weight: float = 1.0,
) -> LevelLosses:
    """Supervised contrast at every level, with positives that tighten from level to level.

    The mean, over the anchors i that have a positive at the level, of

        -1/|P_i| Σ_{p in P_i} ln( exp(s_ip / t) / Σ_{a ≠ i} w_ia exp(s_ia / t) )

    P_i are the other samples with the label of i, or of the same item (its second view). The sum in
    the denominator runs over all samples but i itself, positives too. w_ia is 1 as published; with
    ``codes`` it is ``apart_weight`` (ours) for a negative whose codes of the levels before are not
    those of i: what is told apart already need not be told apart again. The paper leaves open where
    the negatives come from; here they are the batch. It is silent on anchors without positives;
    here they are left out, and negatives for others.

    Args:
        directions: (N, L, K), s is their inner product (:func:`level_directions`).
        labels: integers (N, L), -1 without a positive (``granularity.Granularity``).
        rows: (N,), the item of each sample; one item may be there several times.
        temperature: t, above 0 (open in the paper).
        n_anchors: A; the first A samples are anchors, the others positives and negatives only.
        targets: where each anchor's target stands among the samples, A in a row.
        pair_levels: at so many of the last levels the target of i is in P_i as well (ours).
        codes: int64 (N, L), the codes of the samples.
        apart_weight: 0 to 1.
    """
    n_samples = len(directions)
    others = torch.ones(n_anchors, n_samples, dtype=torch.bool, device=directions.device)
    others.fill_diagonal_(False)
    same_item = rows[:n_anchors, None] == rows  # (A, N)
    paired = torch.zeros_like(others)
    if targets is not None:
        paired[:, targets].fill_diagonal_(True)
    first_paired = labels.shape[1] - pair_levels
    together = torch.ones_like(others)  # the codes of all levels so far are those of the anchor
    losses, counts = [], []
    for level, (vectors, label) in enumerate(
        zip(directions.unbind(1), labels.unbind(1), strict=True)
    ):
        similar = vectors[:n_anchors] @ vectors.T / temperature  # (A, N)
        alike = (label[:n_anchors, None] == label) & (label[:n_anchors, None] >= 0)
        alike = alike | same_item
        if level >= first_paired:
            alike = alike | paired
        positives = alike & others
        n_positives = positives.sum(dim=1)  # (A,)
        counted = similar.masked_fill(~others, -torch.inf)
        if level > 0 and codes is not None and apart_weight < 1:
            before = codes[:, level - 1]
            together = together & (before[:n_anchors, None] == before)
            log_weight = math.log(apart_weight) if apart_weight else -torch.inf
            counted = torch.where(together | positives, counted, counted + log_weight)
        total = counted.logsumexp(dim=1)
        drawn = (similar * positives).sum(dim=1) / n_positives.clamp(min=1)
        has_positive = n_positives > 0
        count = has_positive.sum()
        # where, not a product: without any other sample the total is minus infinity.
        each = torch.where(has_positive, total - drawn, 0)
        losses.append(each.sum() / count.clamp(min=1))
        counts.append(count)
    return LevelLosses(torch.stack(losses), torch.stack(counts))


def balance_loss(logits: Tensor, temperature: float) -> Tensor:
    """How far each level is from using all codes alike: ln K - H(batch mean of the softmax); ours.

    From 0, all codes equally likely over the batch, to ln K, all mass on one code. It looks at
    the mean only: flat probabilities for every item give 0 too, whatever the argmax. A low
    temperature brings it closer to the codes.

    Args:
        logits: (N, L, K).
        temperature: of the softmax, above 0.

    Returns:
        (L,).
    """
    n_samples, _, size = logits.shape
    # In logarithms: a probability that underflows would have an infinite gradient.
    log_mean = (logits / temperature).log_softmax(dim=2).logsumexp(dim=0) - math.log(n_samples)
    return math.log(size) + (log_mean.exp() * log_mean).sum(dim=1)  # (L, K) -> (L,)


def embedding_loss(
    anchors: Tensor,
    positives: Tensor,
    rows: Tensor,
    positive_rows: Tensor,
    temperature: float,
    paired: Tensor,
) -> Tensor:
    """InfoNCE of the dense embeddings: each anchor finds its positive among those of the batch.

    The positive of another anchor is no negative if it is the same item as one's own, or the anchor
    itself.

    Args:
        anchors: (B, d).
        positives: (B, d); row i belongs to anchor i.
        rows: (B,), the items of the anchors.
        positive_rows: (B,), the items of the positives.
        temperature: above 0 (open in the paper).
        paired: bool (B,), the anchors that have a positive; the others are left out of the mean.
    """
    alike = (positive_rows[:, None] == positive_rows) | (rows[:, None] == positive_rows)
    return contrastive_loss(anchors, positives, alike, temperature, paired)
