"""What is logged of a training of MMQ-v2, epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sid.sid.groups import group
from recbole_sid.sid.quality import entropy
from recbole_sid.tokenizer.base import logger
from recbole_sid.tokenizer.blocks import in_blocks
from recbole_sid.tokenizer.code_use import code_use, describe
from recbole_sid.tokenizer.mmq_inputs import BEHAVIOUR
from recbole_sid.tokenizer.mmq_losses import current_sparsity, target_sparsity
from recbole_sid.tokenizer.mmq_network import MixtureNetwork
from recbole_sid.tokenizer.mmq_settings import MMQSettings


@torch.no_grad()
def diagnosed(
    network: MixtureNetwork,
    rows: Tensor,
    settings: MMQSettings,
    epoch: int,
    means: dict[str, float],
) -> dict[str, Any]:
    """The entry of the history for an epoch; also logged.

    Args:
        network: as it is after the epoch.
        rows: of all items (n, ΣD_m), see :meth:`.MixtureNetwork.encode`.
        means: of every term of the loss, over the epoch.
    """
    network.eval()

    def read(block: np.ndarray) -> tuple[np.ndarray, ...]:
        output = network(torch.from_numpy(block).to(rows.device))
        known = output.encoded.present[BEHAVIOUR]
        parts = (output.codes, output.rich, output.strength, output.routed, known)
        return tuple(part.cpu().numpy() for part in parts)

    codes, rich, strength, routed, known = in_blocks(read, rows.cpu().numpy())
    use = code_use(codes, [settings.codebook_size] * codes.shape[1])
    loss = sum(means.values())
    entry = {
        "epoch": epoch,
        "loss": loss,
        **means,
        **use,
        "entropy": entropy(group(codes).sizes(codes.shape[1])),
        "entropy_ceiling": float(np.log(len(codes))),
        # Of w, over the items with behaviour.
        "strength_mean": float(strength[known].mean()),
        "strength_above_half": float((strength[known] > 0.5).mean()),
    }
    parts = [f"loss {loss:.4g} ({', '.join(f'{k} {mean:.4g}' for k, mean in means.items())})"]
    parts += [describe(use)]
    parts += [f"SID entropy {entry['entropy']:.3f} of {entry['entropy_ceiling']:.3f}"]
    parts += [
        f"alignment strength {entry['strength_mean']:.2f} in the mean, above one half for "
        f"{entry['strength_above_half']:.0%} of the items"
    ]
    if routed.shape[1] > 0:
        target = float(target_sparsity(torch.from_numpy(rich[known]), settings.sparsity))
        current = float(current_sparsity(torch.from_numpy(routed[known])))
        penalty = float(network.penalty)
        entry |= {"sparsity_target": target, "sparsity_current": current, "penalty": penalty}
        parts += [f"router sparsity {current:.2f} of {target:.2f}, lambda {penalty:.2g}"]
    logger.info("mmq epoch %d: %s", epoch, "; ".join(parts))
    return entry
