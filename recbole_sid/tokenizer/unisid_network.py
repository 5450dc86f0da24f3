"""The network of UniSID: one backbone reads an item, linear heads give its codes and its vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from recbole_sid.tokenizer.sid_reader import Images, SidReader
from recbole_sid.tokenizer.stored_weights import length, require_shapes


class Encoded(NamedTuple):
    """What the network makes of a batch of items.

    Attributes:
        states: (B, L + 1, width), last states of the SID tokens and of the EMB token.
        logits: (B, L, K); the code of a level is the largest one's place.
        embedding: (B, d).
    """

    states: Tensor
    logits: Tensor
    embedding: Tensor

    @property
    def codes(self) -> Tensor:
        """int64 (B, L), the lowest code of a tie."""
        return self.logits.argmax(dim=2)


class UniSIDNetwork(nn.Module):
    """[content ; SID_1 … SID_L ; EMB] through one backbone, a linear head behind every place.

    UniSID (arXiv 2602.10445): z_l = f_SID(Z_SID) split into L vectors of K logits, z_EMB =
    f_EMB(Z_EMB), code = argmax z_l. Whether the levels share f_SID is open in the paper; here every
    level has a head of its own.
    """

    def __init__(self, reader: SidReader, n_codes: int, embedding_dim: int) -> None:
        """
        Args:
            reader: the backbone with its learned SID and EMB vectors.
            n_codes: K, codes of every level.
            embedding_dim: d.
        """
        super().__init__()
        self.reader = reader
        width = reader.backbone.width
        self.heads = nn.ModuleList(nn.Linear(width, n_codes) for _ in range(reader.levels))
        self.embedding = nn.Linear(width, embedding_dim)

    @property
    def level_heads(self) -> list[nn.Linear]:
        """The heads of the codes, first level first."""
        return cast(list[nn.Linear], list(self.heads))

    def forward(self, content: Tensor, lengths: Tensor, images: Images | None) -> Encoded:
        """Read a batch; arguments as for :meth:`.sid_reader.SidReader.forward`."""
        states = self.reader(content, lengths, images)  # (B, L + 1, width)
        logits = [head(states[:, level]).float() for level, head in enumerate(self.heads)]
        embedding = self.embedding(states[:, -1]).float()
        return Encoded(states, torch.stack(logits, dim=1), embedding)

    @torch.no_grad()
    def rotate(self, generator: torch.Generator) -> None:
        """Turn every level's logits by a random orthogonal matrix (K, K).

        Cosines between logit vectors stay as they are, and so does every loss on them, while the
        codes become others: the control of how much the objective says of the codes.
        """
        for head in self.level_heads:
            n_codes = len(head.weight)
            turn = random_rotation(n_codes, generator).to(head.weight)
            head.weight.copy_(turn @ head.weight)
            head.bias.copy_(turn @ head.bias)

    @torch.no_grad()
    def code_vectors(self) -> list[Tensor]:
        """Each level's weights and bias, (K, width + 1): times (state, 1) they are the logits."""
        return [torch.cat([head.weight, head.bias[:, None]], dim=1) for head in self.level_heads]

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name; all others come with the backbone."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def trained_weights(self) -> dict[str, np.ndarray]:
        """What :meth:`load_trained` takes, float32."""
        return {name: p.detach().float().cpu().numpy() for name, p in self.trained().items()}

    def load_trained(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take the weights of another training over.

        Raises:
            InputError: they are those of another network.
        """
        shapes = {name: tuple(p.shape) for name, p in self.trained().items()}
        require_shapes(weights, shapes)
        self.load_state_dict({name: torch.from_numpy(weights[name]) for name in shapes}, False)

    def parameter_groups(
        self, others: Sequence[nn.Module], learning_rate: float, head_learning_rate: float
    ) -> list[dict]:
        """The backbone's own weights learn at one rate, all that is new at another."""
        own = [p for p in self.reader.backbone.parameters() if p.requires_grad]
        known = {id(p) for p in own}
        new = [
            parameter
            for module in (self, *others)
            for parameter in module.parameters()
            if parameter.requires_grad and id(parameter) not in known
        ]
        groups = [{"params": new, "lr": head_learning_rate}]
        return [{"params": own, "lr": learning_rate}, *groups] if own else groups


def image_dim_of(weights: Mapping[str, np.ndarray]) -> int | None:
    """Dimensions of the images that the network of ``weights`` reads; None if it reads none."""
    return length(weights, "reader.project.weight", 1, 0) or None


def random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (size, size), evenly distributed (QR of a Gaussian matrix)."""
    gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * torch.sign(torch.diagonal(r))
