"""The loss terms of a residual-quantised autoencoder (TIGER, arXiv 2305.05065, section 3.1).

Each term is summed over dimensions (and levels) and averaged over the batch. A mean over the
dimensions of the reconstruction would shrink it by their number, commitment would outweigh it, and
all items would end on one code.
"""

from __future__ import annotations

from torch import Tensor


def reconstruction_loss(decoded: Tensor, original: Tensor) -> Tensor:
    """Mean over the batch of ||x - x'||², both (B, D)."""
    return (decoded - original).square().sum(dim=1).mean()


def mean_squared_length(vectors: Tensor) -> Tensor:
    """Mean over the batch of ||x||², x (B, D): what losses in cosines are measured in beside these.

    It is the reconstruction loss of a decoder that gives zero.
    """
    return vectors.square().sum(dim=1).mean()


def codebook_loss(residuals: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the batch of Σ_l ||sg[r_l] - e_l||²: moves code vectors to their residuals.

    Args:
        residuals: (B, L, d), what each level had to quantise.
        chosen: (B, L, d), the code vectors it chose.
    """
    return (residuals.detach() - chosen).square().sum(dim=(1, 2)).mean()


def commitment_loss(residuals: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the batch of Σ_l ||r_l - sg[e_l]||², not yet weighted: moves the encoder's outputs.

    Arguments as for :func:`codebook_loss`.
    """
    return (residuals - chosen.detach()).square().sum(dim=(1, 2)).mean()
