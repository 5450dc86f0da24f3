"""What UniSID's training shows of every epoch: losses, use of the codes, positives, repulsion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_sid.tokenizer.repulsion import Repulsion, describe_figures


class EpochWatch:
    """Sums of an epoch, kept as tensors so that no step waits for them."""

    def __init__(self, levels: int, n_codes: int) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._levels: Tensor | float = 0.0
        self._counts = torch.zeros(levels, n_codes, dtype=torch.int64)
        self._steps = 0

    def levels(self, losses: Tensor) -> None:
        """The contrastive loss of every level, (L,)."""
        self._levels = self._levels + losses

    def see(self, terms: dict[str, Tensor], codes: Tensor, n_anchors: int) -> None:
        """The weighted terms of a step, and the codes (N, L) of which the anchors count."""
        self._steps += 1
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + term.detach()
        for level, column in enumerate(codes[:n_anchors].cpu().T):
            self._counts[level] += torch.bincount(column, minlength=self._counts.shape[1])

    def means(self) -> dict[str, Any]:
        """Means over the steps, and the perplexity of each level over the epoch's anchors."""
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        shares = self._counts / self._counts.sum(dim=1, keepdim=True)
        entropy = -torch.xlogy(shares, shares).sum(dim=1)
        entry: dict[str, Any] = {"loss": sum(means.values()), **means}
        if isinstance(self._levels, Tensor):
            entry["sid_levels"] = (self._levels / self._steps).tolist()
        return entry | {"perplexity": entropy.exp().tolist()}


def describe_epoch(entry: dict[str, Any], repulsion: Repulsion) -> str:
    """The line of the log for an epoch's entry of the history."""
    names = ("sid", "balance", "embedding", "reconstruction", "repulsion_full", "repulsion_partial")
    parts = ", ".join(f"{name} {entry[name]:.4g}" for name in names if name in entry)
    perplexity = "/".join(f"{value:.0f}" for value in entry["perplexity"])
    met = "/".join(f"{100 * share:.0f}" for share in entry["anchors_with_positive"])
    line = f"loss {entry['loss']:.4g} ({parts}); perplexity {perplexity}"
    line += f"; anchors with a positive {met} %"
    figures = repulsion.figures()
    return f"{line}; {describe_figures(figures)}" if figures else line
