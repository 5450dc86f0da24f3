"""Hamming-guided margin repulsion: items that share codes and should not are pushed apart.

QuaSID (arXiv 2603.00632) calls the loss HaMR and the choice of its pairs CVPM. Any tokenizer that
trains by gradient can have it. Its settings derive from :class:`RepulsionSettings`, it keeps a
:class:`Repulsion`, tells it of each epoch, and adds one line to its loss:

    terms |= self.repulsion(latents, codes, rows)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recbole_sid.errors import InputError
from recbole_sid.settings import require
from recbole_sid.tokenizer.base import LevelSettings

# Rows that are compared with all others at once.
BLOCK = 512


@dataclass(frozen=True)
class RepulsionSettings(LevelSettings):
    """Settings of :class:`Repulsion`; what they mean stands with the functions that use them."""

    repulsion: Literal["none", "hamr"]
    repulsion_margin_full: float
    repulsion_margin_partial: float
    repulsion_weight_full: float
    repulsion_weight_partial: float
    repulsion_radius: int
    repulsion_masking: bool
    repulsion_exempt_cosine: list[float] | None
    repulsion_exempt_by: Literal["content", "latent"]
    repulsion_severity: float
    repulsion_schedule: list[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.repulsion_margin_partial <= 2,
            "tokenizer_repulsion_margin_partial",
            self.repulsion_margin_partial,
            "0 to 2, the range of a cosine distance",
        )
        require(
            self.repulsion_margin_partial <= self.repulsion_margin_full <= 2,
            "tokenizer_repulsion_margin_full",
            self.repulsion_margin_full,
            f"tokenizer_repulsion_margin_partial = {self.repulsion_margin_partial} to 2",
        )
        for name in ("repulsion_weight_full", "repulsion_weight_partial"):
            value = vars(self)[name]
            require(value >= 0, f"tokenizer_{name}", value, "at least 0")
        require(
            self.repulsion == "none" or 0 <= self.repulsion_radius < self.levels,
            "tokenizer_repulsion_radius",
            self.repulsion_radius,
            f"at least 0 and below tokenizer_levels = {self.levels}",
        )
        thresholds = self.repulsion_exempt_cosine
        require(
            thresholds is None
            or (len(thresholds) == self.levels and all(-1 <= value <= 1 for value in thresholds)),
            "tokenizer_repulsion_exempt_cosine",
            thresholds,
            f"empty (~), or tokenizer_levels = {self.levels} numbers from -1 to 1",
        )
        severity = self.repulsion_severity
        require(severity >= 1, "tokenizer_repulsion_severity", severity, "at least 1")
        require_schedule("tokenizer_repulsion_schedule", self.repulsion_schedule)


def require_schedule(key: str, schedule: Sequence[float]) -> None:
    """Unless ``schedule`` is two numbers of at least 0: an InputError that names ``key``."""
    require(
        len(schedule) == 2 and min(schedule) >= 0,
        key,
        schedule,
        "two numbers of at least 0, the share of the weight in the first epoch and in the last",
    )


def share(schedule: Sequence[float], epoch: int, epochs: int) -> float:
    """The share of a weight in ``epoch`` (from 1) of ``epochs``: linear from first to last."""
    first, last = schedule
    return first + (last - first) * (epoch - 1) / max(epochs - 1, 1)


def valid_pairs(rows: Tensor, n_pairs: int) -> Tensor:
    """The pairs of a batch that are in conflict when they share codes (CVPM, Eq. 8).

    No conflict: samples of one item, wherever they stand, and a trigger with its own target.

    Args:
        rows: (N,), the item of each sample.
        n_pairs: B when the samples are B triggers followed by their B targets, so that i and i + B
            belong together; 0 when they are no pairs.

    Returns:
        bool (N, N), symmetric.
    """
    valid = rows.unsqueeze(1) != rows  # (N, N)
    if n_pairs:
        triggers = torch.arange(n_pairs, device=rows.device)
        valid[triggers, triggers + n_pairs] = False
        valid[triggers + n_pairs, triggers] = False
    return valid


class RepulsionTerms(NamedTuple):
    """What :func:`hamming_repulsion` gives; a scalar tensor each, and each pair counted once.

    Attributes:
        full: mean loss of the pairs that share all codes, not yet times its weight; 0 without any.
        partial: the same of the pairs that differ in 1 to ``repulsion_radius`` codes.
        n_full, n_partial: pairs in these means.
        masked_full, masked_partial: pairs as close that are no conflict.
        exempt: conflicts left out since the items are alike.
        distance_full, distance_partial: mean D of the pairs in the means; 0 without any.
    """

    full: Tensor
    partial: Tensor
    n_full: Tensor
    n_partial: Tensor
    masked_full: Tensor
    masked_partial: Tensor
    exempt: Tensor
    distance_full: Tensor
    distance_partial: Tensor


def hamming_repulsion(
    latents: Tensor,
    codes: Tensor,
    valid: Tensor | None,
    settings: RepulsionSettings,
    content: Tensor | None = None,
) -> RepulsionTerms:
    """Margin losses on the pairs of a batch whose codes are the same or nearly so (Eq. 9-13).

    With H the number of levels in which two samples differ and D = 1 - cos(latents), a pair loses
    max(0, margin_full - D) if H = 0 and max(0, margin_partial - D) if 0 < H <= radius. The two sets
    are averaged on their own. Codes are constants: the gradient goes through D only.

    All is symmetric, so the pairs i < j alone give the means that the paper takes over both orders.
    Only close pairs get a distance; these are few unless the codes have collapsed.

    AdaSID (arXiv 2604.23522) relaxes this in two ways, both off by default:

    - With ``repulsion_exempt_cosine`` [eta_1 … eta_L], a pair with o equal levels is spared when
      its cosine is at least eta_o. AdaSID takes the cosine of the latents. They are what the loss
      moves, and at its thresholds nearly all that is inside the margins would be spared, so that
      ``repulsion_exempt_by: content`` looks at the input vectors instead.
    - With ``repulsion_severity`` s above 1, a pair weighs 1 + (s - 1)·share, where share is the
      part of the batch's conflicts that have its pattern of equal levels. AdaSID's weights reach 3
      and grow with the number of these; the form is open.

    Args:
        latents: (N, d), what the codes were made from.
        codes: integers (N, L).
        valid: bool (N, N), symmetric, from :func:`valid_pairs`; None when every pair of two samples
            counts.
        content: (N, D), input vectors; needed for ``repulsion_exempt_by: content`` only.

    Raises:
        InputError: input vectors are needed and not given.
    """
    n_levels = codes.shape[1]
    first, second, overlap = _close_pairs(codes, n_levels - settings.repulsion_radius)
    masked_full = masked_partial = exempt = overlap.new_zeros(())
    if valid is not None:
        conflict = valid[first, second]  # (P,)
        masked_full = (~conflict & (overlap == n_levels)).sum()
        masked_partial = (~conflict & (overlap < n_levels)).sum()
        first, second, overlap = first[conflict], second[conflict], overlap[conflict]
    if settings.repulsion_exempt_cosine is not None:
        compared = latents if settings.repulsion_exempt_by == "latent" else content
        if compared is None:
            raise InputError(
                "tokenizer_repulsion_exempt_by is 'content', but this tokenizer compares codes "
                "without its input vectors: choose 'latent', or leave "
                "tokenizer_repulsion_exempt_cosine empty (~)"
            )
        thresholds = latents.new_tensor(settings.repulsion_exempt_cosine)  # (L,)
        cosine = 1 - _distances(compared.detach(), first, second)
        unlike = cosine < thresholds[overlap - 1]  # (P,)
        exempt = (~unlike).sum()
        first, second, overlap = first[unlike], second[unlike], overlap[unlike]
    distance = _distances(latents, first, second)  # (P,)
    full = overlap == n_levels
    margin = torch.where(full, settings.repulsion_margin_full, settings.repulsion_margin_partial)
    loss = (margin - distance).clamp(min=0)
    if settings.repulsion_severity > 1:
        pattern_shares = _pattern_shares(codes[first] == codes[second])
        loss = loss * (1 + (settings.repulsion_severity - 1) * pattern_shares)
    n_full, n_partial = full.sum(), (~full).sum()
    # The paper adds a small number to the counts; a floor of 1 leaves other means as they are.
    per_full, per_partial = n_full.clamp(min=1), n_partial.clamp(min=1)
    constant = distance.detach()
    return RepulsionTerms(
        loss[full].sum() / per_full,
        loss[~full].sum() / per_partial,
        n_full,
        n_partial,
        masked_full,
        masked_partial,
        exempt,
        constant[full].sum() / per_full,
        constant[~full].sum() / per_partial,
    )


def _close_pairs(codes: Tensor, at_least: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples i < j that share ``at_least`` codes: i, j and the number they share, each (P,).

    Each block of rows is compared with itself and with what follows, so that half of the matrix is
    never made and the rest stays in the processor's cache.
    """
    # Narrow numbers are compared faster, and comparing is most of the work.
    levels = codes.T.to(torch.int32).contiguous()  # (L, N)
    firsts, seconds, overlaps = [], [], []
    for start in range(0, len(codes), BLOCK):
        columns = levels[:, start:]
        overlap = columns.new_zeros(len(columns[0, :BLOCK]), columns.shape[1], dtype=torch.uint8)
        for level in columns:
            overlap += level[:BLOCK].unsqueeze(1) == level
        first, second = (overlap >= at_least).triu_(1).nonzero(as_tuple=True)
        firsts.append(first + start)
        seconds.append(second + start)
        overlaps.append(overlap[first, second].long())
    return torch.cat(firsts), torch.cat(seconds), torch.cat(overlaps)


def _distances(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Cosine distances (P,) of the rows ``first`` from the rows ``second`` of ``vectors`` (N, d).

    When codes have collapsed the pairs are many. Where the two vectors of each would take more room
    than all cosines, these are made instead.
    """
    unit = normalize(vectors, dim=1)
    if 2 * len(first) * vectors.shape[1] <= len(vectors) ** 2:
        return 1 - (unit[first] * unit[second]).sum(dim=1)
    return 1 - (unit @ unit.T).flatten().index_select(0, first * len(vectors) + second)


def _pattern_shares(equal: Tensor) -> Tensor:
    """For each row of ``equal``, bool (P, L), the share of rows that are the same: (P,)."""
    bits = 1 << torch.arange(equal.shape[1], device=equal.device)
    pattern = (equal * bits).sum(dim=1)
    _, place, count = pattern.unique(return_inverse=True, return_counts=True)
    return count[place] / max(len(equal), 1)


class Repulsion:
    """The repulsion within one training: its loss terms, and what it met in an epoch.

    The weights are scaled by ``repulsion_schedule``: AdaSID lets them fall linearly from 1 to an
    open number, others start late ([0, 1]).
    """

    def __init__(self, settings: RepulsionSettings) -> None:
        self.settings = settings
        self.begin_epoch(1, 1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the share of the weights for ``epoch`` (from 1) of ``epochs``; forget the last."""
        self._share = share(self.settings.repulsion_schedule, epoch, epochs)
        self._totals: dict[str, Tensor] = {}

    def __call__(
        self,
        latents: Tensor,
        codes: Tensor,
        rows: Tensor,
        n_pairs: int = 0,
        content: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted loss terms by name; none with ``repulsion: none``.

        Args:
            latents: (N, d), what the codes were made from.
            codes: integers (N, L).
            rows: (N,), the item of each sample.
            n_pairs: see :func:`valid_pairs`.
            content: see :func:`hamming_repulsion`.
        """
        settings = self.settings
        if settings.repulsion == "none":
            return {}
        valid = valid_pairs(rows, n_pairs) if settings.repulsion_masking else None
        terms = hamming_repulsion(latents, codes, valid, settings, content)
        self._count(terms)
        return {
            "repulsion_full": self._share * settings.repulsion_weight_full * terms.full,
            "repulsion_partial": self._share * settings.repulsion_weight_partial * terms.partial,
        }

    def _count(self, terms: RepulsionTerms) -> None:
        sums = {
            "pairs_full": terms.n_full,
            "pairs_partial": terms.n_partial,
            "masked_full": terms.masked_full,
            "masked_partial": terms.masked_partial,
            "exempt": terms.exempt,
            "distance_full": terms.distance_full.double() * terms.n_full,
            "distance_partial": terms.distance_partial.double() * terms.n_partial,
        }
        for name, value in sums.items():
            self._totals[name] = self._totals.get(name, 0) + value

    def figures(self) -> dict[str, Any]:
        """What the batches since :meth:`begin_epoch` held; empty if there was no repulsion.

        ``pairs_full``, ``pairs_partial``: conflicts; ``masked_full``, ``masked_partial``: pairs as
        close that are none; ``exempt``: conflicts of like items; ``distance_full``,
        ``distance_partial``: mean D of the conflicts, None without any. A pair of items counts in
        every batch that holds it.
        """
        if not self._totals:
            return {}
        totals: dict[str, Any] = {name: total.item() for name, total in self._totals.items()}
        for kind in ("full", "partial"):
            n = totals[f"pairs_{kind}"]
            totals[f"distance_{kind}"] = totals[f"distance_{kind}"] / n if n else None
        return totals


def describe_figures(figures: dict[str, Any]) -> str:
    """For the log: ``pairs full 12 + 3 masked at D 0.41, partial 90 + 0 masked at D 0.63``."""
    parts = []
    for kind in ("full", "partial"):
        distance = figures[f"distance_{kind}"]
        at = "" if distance is None else f" at D {distance:.2f}"
        parts.append(f"{kind} {figures[f'pairs_{kind}']} + {figures[f'masked_{kind}']} masked{at}")
    exempt = f", {figures['exempt']} exempt" if figures["exempt"] else ""
    return f"pairs {', '.join(parts)}{exempt}"
