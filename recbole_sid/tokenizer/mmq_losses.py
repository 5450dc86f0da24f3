"""The losses of MMQ-v2 (arXiv 2510.25622, Eq. 11-23), and the penalty between experts of MMQ.

Formulas and their numbers are those of a public transcription of the paper's first versions. All
functions are pure; the network is in :mod:`~recbole_sid.tokenizer.mmq_network`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def richness(norms: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """N_norm, how much is known of what users did with an item (Eq. 13), from 0 to 1.

        (‖e_b‖ - least) / (most - least)

    Ours: the bounds are those of items with behaviour; beyond them it is 0 or 1, and it is 0 where
    they are equal.

    Args:
        norms: ‖e_b‖, (B,).
        least, most: of the fitted items, ().
    """
    share = ((norms - least) / (most - least)).clamp(0, 1)
    return torch.where(most > least, share, torch.zeros_like(share))


def alignment_strength(rich: Tensor, slope: float, threshold: Tensor) -> Tensor:
    """w of every item (Eq. 14), (B,).

        sigmoid(slope · N_norm - threshold) / sigmoid(slope - threshold)

    Args:
        rich: N_norm (B,).
        slope, threshold: alpha and beta, the latter (); 10 and 9 in the paper.
    """
    return torch.sigmoid(slope * rich - threshold) / torch.sigmoid(slope - threshold)


def damping_threshold(rich: Tensor, slope: float, damped: float) -> Tensor:
    """The threshold (beta) with which the share ``damped`` of the items is below the middle of the
    sigmoid in :func:`alignment_strength`: w of the others is above one half, (). Ours.

        slope · (the quantile ``damped`` of N_norm)

    The paper says of its constants that they damp the rarest items, about 40 %; but which constants
    do depends on how the norms are spread.

    Args:
        rich: N_norm of all fitted items with behaviour, (n,).
        damped: 0 to 1.
    """
    return slope * torch.quantile(rich, damped)


def info_nce(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Each anchor finds its target among those of the batch; a loss an anchor, (B,).

        -ln( exp(c_ii / t) / Σ_j exp(c_ij / t) ),   c_ij = cos(anchor_i, target_j)

    Args:
        anchors, targets: (B, d).
    """
    cosines = normalize(anchors, dim=1) @ normalize(targets, dim=1).T  # (B, B)
    own = torch.arange(len(anchors), device=anchors.device)
    return cross_entropy(cosines / temperature, own, reduction="none")


def content_loss(text: Tensor, images: Tensor, temperature: float, present: Tensor) -> Tensor:
    """L_content (Eq. 15): text finds its image, and the image its text; the sum of both means.

    Args:
        text, images: h_t and h_v, (B, d).
        present: bool (B,), the items that have both. The others are neither anchors nor negatives;
            the loss is 0 if there are none.
    """
    text, images = text[present], images[present]
    both = info_nce(text, images, temperature) + info_nce(images, text, temperature)
    return _mean(both)


def alignment_loss(
    behaviour: Tensor, content: Tensor, strength: Tensor, temperature: float, known: Tensor
) -> Tensor:
    """w · L_align (Eq. 16-17): behaviour finds its content, the harder the more is known of it.

    Args:
        behaviour: h_b, (B, d).
        content: h_c = h_t + h_v, (B, d).
        strength: w, (B,).
        known: bool (B,), the items that have behaviour; as ``present`` of :func:`content_loss`.
    """
    losses = info_nce(behaviour[known], content[known], temperature)
    return _mean(strength[known] * losses)


def reconstruction_loss(
    decoded: Sequence[Tensor],
    originals: Sequence[Tensor],
    present: Sequence[Tensor],
    weights: Sequence[float],
) -> Tensor:
    """L_recon (Eq. 11): mean over the batch of Σ_m weight_m · ‖e_m - e'_m‖².

    Args:
        decoded, originals: of every modality m (B, D_m).
        present: bool (B,) of every modality, the items that have it; of the others nothing counts.
        weights: of every modality; ours, all 1 in the paper.
    """
    total = decoded[0].new_zeros(())
    for made, wanted, there, weight in zip(decoded, originals, present, weights, strict=True):
        errors = (made - wanted).square().sum(dim=1)  # (B,)
        total = total + weight * (errors * there).mean()
    return total


def target_sparsity(rich: Tensor, sparsity: float) -> Tensor:
    """s_target = sparsity · (1 - N_norm) (Eq. 22), the mean over items (B,) of at least one.

    The transcription divides N_norm by most - least, which has been done once; here it is not.
    """
    return (sparsity * (1 - rich)).mean()


def current_sparsity(routed: Tensor) -> Tensor:
    """s_current (Eq. 21): share of the weights R (B, N) that are 0."""
    return 1 - (routed > 0).to(routed.dtype).mean()


def sparsity_loss(routed: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of Σ_j f_j |R_j| (Eq. 19), not yet times λ.

    f_j, the share of the items that expert j is open to over 1 - s_target, makes a crowded expert
    dearer. In the transcription (Eq. 23) it is one factor for all experts, summed over them, and no
    expert is dearer than another. Ours is a factor each, as in ReMoE (arXiv 2412.14711), whose
    regularisation this is.

    Args:
        routed: R (B, N) of at least one item, not negative.
        target: s_target, below 1, ().
    """
    load = (routed > 0).to(routed.dtype).mean(dim=0) / (1 - target)  # (N,)
    return (load * routed).sum(dim=1).mean()


def next_penalty(
    penalty: Tensor, target: Tensor, current: Tensor, step: float, least: float, most: float
) -> Tensor:
    """λ ← λ · step^sign(s_target - s_current) (Eq. 20), () each; ours: from least to most."""
    return (penalty * step ** (target - current).sign()).clamp(least, most)


def orthogonality_loss(weights: Sequence[Tensor]) -> Tensor:
    """Σ_{i≠j} ‖W_iᵀ W_j‖²_F over the experts' matrices (d, …) (MMQ, arXiv 2508.15281)."""
    joined = torch.cat(list(weights), dim=1)  # (d, Σ columns)
    # Of the squares of all inner products of columns, those within an expert are taken off again.
    own = torch.stack([(one.T @ one).square().sum() for one in weights]).sum()
    return (joined @ joined.T).square().sum() - own


def _mean(losses: Tensor) -> Tensor:
    """0 for no losses."""
    return losses.sum() / max(1, len(losses))
