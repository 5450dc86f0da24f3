"""IntRR's recursive codebook network: a vector to codes, one level after the other.

A level's logits depend on the vector and on the code taken at the level before alone. So all pairs
of neighbouring codes can be scored at once, and with them every item.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.dropout import Dropout


class RecursiveCodebook(nn.Module):
    """Codebooks C_l of one width, and a small network between two levels (arXiv 2602.20704).

    Level 1 scores ``u_1 = v``; level l > 1 scores ``u_l = MLP_l([e_{l-1}; v])``, where ``e`` is the
    embedding of the code before; logits are ``u_l C_l^T``.
    """

    def __init__(self, sizes: tuple[int, ...], width: int, inner_size: int, dropout: float):
        """
        Args:
            sizes: codes per level.
            width: of vectors and codes.
            inner_size: hidden units of the networks between levels.
            dropout: on those hidden units.
        """
        super().__init__()
        self.inner_size = inner_size
        self.codebooks = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        # The first linear map of [e; v], cut in two: scoring all codes shares the part of v.
        later = range(len(sizes) - 1)
        self.from_code = nn.ModuleList(nn.Linear(width, inner_size, bias=False) for _ in later)
        self.from_vector = nn.ModuleList(nn.Linear(width, inner_size) for _ in later)
        self.outer = nn.ModuleList(nn.Linear(inner_size, width) for _ in later)
        self.dropout = Dropout(dropout)

    @property
    def n_levels(self) -> int:
        return len(self.codebooks)

    @property
    def weights(self) -> list[Tensor]:
        """(size, width) of every level."""
        return [cast(nn.Embedding, book).weight for book in self.codebooks]

    def embed(self, codes: Tensor) -> Tensor:
        """Sum of the embeddings of whole SIDs; codes (..., L), result (..., width)."""
        vectors = [book(codes[..., level]) for level, book in enumerate(self.codebooks)]
        return torch.stack(vectors).sum(dim=0)

    def query(self, level: int, vectors: Tensor, before: Tensor | None) -> Tensor:
        """``u_l``, what the codes of ``level`` are compared with.

        Args:
            vectors: (..., width).
            before: (..., width) embeddings of the codes of the level before, of a shape that
                broadcasts with ``vectors``; None at level 0.

        Returns:
            (..., width).
        """
        if before is None:
            return vectors
        link = level - 1
        inner = self.from_code[link](before) + self.from_vector[link](vectors)
        return self.outer[link](self.dropout(F.relu(inner)))

    def logits(self, level: int, vectors: Tensor, before: Tensor | None) -> Tensor:
        """Logits (..., size of the level) of the codes of ``level``; arguments as ``query``."""
        return F.linear(self.query(level, vectors, before), self.weights[level])

    def teacher_forced(self, vectors: Tensor, codes: Tensor) -> list[Tensor]:
        """Logits of every level where each level knows the true code before.

        Args:
            vectors: (..., width).
            codes: (..., L).

        Returns:
            L tensors (..., size of the level).
        """
        before = [None, *(book(codes[..., i]) for i, book in enumerate(self.codebooks[:-1]))]
        return [self.logits(level, vectors, code) for level, code in enumerate(before)]

    def quantise(self, vectors: Tensor, temperature: float) -> tuple[Tensor, list[Tensor]]:
        """Sum of the codes that the network itself takes, and the logits it took them by.

        Straight-through: forward the code of highest logit, backward the softmax mixture.

        Args:
            vectors: (..., width).
            temperature: of the softmax.
        """
        total = torch.zeros_like(vectors)
        before: Tensor | None = None
        all_logits = []
        for level, codes in enumerate(self.weights):
            logits = self.logits(level, vectors, before)
            soft = torch.softmax(logits.float() / temperature, dim=-1).to(logits) @ codes
            hard = codes[logits.argmax(dim=-1)]
            before = soft + (hard - soft).detach()
            total = total + before
            all_logits.append(logits)
        return total, all_logits

    def pair_log_probs(self, vectors: Tensor) -> list[Tensor]:
        """Log-probabilities of every code after every code, float32.

        Args:
            vectors: (B, width).

        Returns:
            for level 0 (B, 1, size); for level l (B, size of level l - 1, size of level l).
        """
        tables = []
        for level in range(self.n_levels):
            before = self.weights[level - 1] if level else None
            logits = self.logits(level, vectors[:, None], before)
            tables.append(torch.log_softmax(logits.float(), dim=-1))
        return tables
