"""A residual quantiser that trains inside a network: codebooks, straight-through, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from recbole_sid.tokenizer.kmeans import kmeans

CodebookUpdate = Literal["ema", "gradient"]

KMEANS_ITERATIONS = 50
KMEANS_MINIBATCH_ABOVE = 100_000


class Quantized(NamedTuple):
    """What :class:`ResidualQuantizer` makes of a batch.

    Attributes:
        codes: int64 (B, L).
        quantized: (B, d), the sum of the chosen code vectors; its gradient goes straight to the
            quantiser's input.
        residuals: (B, L, d), what each level had to quantise; level 1's is the input itself.
        chosen: (B, L, d), the code vectors.
    """

    codes: Tensor
    quantized: Tensor
    residuals: Tensor
    chosen: Tensor


class Codebook(nn.Module):
    """The code vectors of one level, and how they follow the residuals that they stand for.

    ``gradient``: the vectors are trained by the optimizer through the codebook loss. ``ema``: each
    vector is the moving average of its residuals (van den Oord et al., 2017, appendix A.1): with n
    residuals r of a batch on a code,

        mass ← decay·mass + (1 - decay)·n,   moment ← decay·moment + (1 - decay)·Σ r,
        vector = moment / mass.

    A code starts with mass 1.
    """

    mass: Tensor
    moment: Tensor
    idle: Tensor

    def __init__(self, size: int, dim: int, update: CodebookUpdate, ema_decay: float) -> None:
        super().__init__()
        self.ema_decay = ema_decay if update == "ema" else None
        start = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        self.vectors = nn.Parameter(start, requires_grad=update == "gradient")  # (K, d)
        self.register_buffer("idle", torch.zeros(size, dtype=torch.int64))
        if update == "ema":
            self.register_buffer("mass", torch.ones(size))
            self.register_buffer("moment", start.clone())

    @torch.no_grad()
    def nearest(self, residuals: Tensor) -> Tensor:
        """Codes (B,) of the vectors at the least squared distance; the lowest code of a tie."""
        # ||r||² is the same for every code of a row.
        distances = self.vectors.square().sum(dim=1) - 2 * residuals @ self.vectors.T  # (B, K)
        return distances.argmin(dim=1)

    @torch.no_grad()
    def place(self, codes: Tensor, vectors: Tensor) -> None:
        """Put ``vectors`` (m, d) at ``codes`` (m,), as if these codes had just begun."""
        self.vectors[codes] = vectors
        self.idle[codes] = 0
        if self.ema_decay is not None:
            self.mass[codes] = 1.0
            self.moment[codes] = vectors

    @torch.no_grad()
    def follow(self, residuals: Tensor, codes: Tensor) -> None:
        """Take a batch into account: moving averages (if ``ema``) and the idle steps of each code.

        Args:
            residuals: (B, d).
            codes: (B,), the codes that these residuals got.
        """
        counts = torch.bincount(codes, minlength=len(self.idle))  # (K,)
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        if self.ema_decay is None:
            return
        sums = torch.zeros_like(self.moment).index_add_(0, codes, residuals)  # (K, d)
        self.mass.lerp_(counts.to(self.mass.dtype), 1 - self.ema_decay)
        self.moment.lerp_(sums, 1 - self.ema_decay)
        # The mass of an unused code fades to nothing; moment / mass then only adds rounding noise.
        used = (counts > 0).unsqueeze(1)
        self.vectors.copy_(torch.where(used, self.moment / self.mass.unsqueeze(1), self.vectors))

    @torch.no_grad()
    def restart_idle(self, residuals: Tensor, restart_after: int) -> int:
        """Move codes that were idle for ``restart_after`` steps to random residuals (B, d).

        Every moved code gets a row of its own; at most B codes move. Returns how many did.
        """
        dead = torch.nonzero(self.idle >= restart_after).squeeze(1)[: len(residuals)]
        if len(dead) == 0:
            return 0
        rows = torch.randperm(len(residuals), device=residuals.device)[: len(dead)]
        self.place(dead, residuals[rows])
        return len(dead)


class ResidualQuantizer(nn.Module):
    """L codebooks in a row; each quantises what the ones before it left over.

        r_1 = z;   c_l = argmin_k ||r_l - e_l,k||²;   r_{l+1} = r_l - sg[e_l,c_l]

    The papers leave open whether gradients pass from a residual to earlier code vectors. Here they
    do not, so that a code vector answers for its own level only; to the input z they pass at every
    level.

    A training step is: ``forward``, a loss on what it returns, the optimizer's step, ``follow``.
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, update: CodebookUpdate, ema_decay: float
    ) -> None:
        """
        Args:
            sizes: codes per level, (L,).
            dim: dimensions d of the vectors.
            update: how code vectors learn, see :class:`Codebook`.
            ema_decay: share of the moving averages kept at each step; ``gradient`` ignores it.
        """
        super().__init__()
        self.codebooks = nn.ModuleList(Codebook(size, dim, update, ema_decay) for size in sizes)

    @property
    def levels(self) -> list[Codebook]:
        """The codebooks, first level first."""
        # ModuleList does not know the type of what it holds.
        return cast(list[Codebook], list(self.codebooks))

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise ``latents`` (B, d). Changes nothing in the module."""
        codes, residuals, chosen = [], [], []
        residual = latents
        for book in self.levels:
            code = book.nearest(residual)  # (B,)
            vector = book.vectors[code]  # (B, d)
            codes.append(code)
            residuals.append(residual)
            chosen.append(vector)
            residual = residual - vector.detach()
        vectors = torch.stack(chosen, dim=1)  # (B, L, d)
        straight_through = latents + (vectors.sum(dim=1) - latents).detach()
        return Quantized(
            torch.stack(codes, dim=1), straight_through, torch.stack(residuals, dim=1), vectors
        )

    @torch.no_grad()
    def follow(self, output: Quantized, restart_after: int | None) -> int:
        """After the optimizer's step: moving averages, and restarts of dead codes.

        Args:
            output: what ``forward`` gave for the batch of this step.
            restart_after: steps without a single item after which a code moves to a random
                residual of the batch; None for never.

        Returns:
            The number of codes that moved.
        """
        restarted = 0
        for level, book in enumerate(self.levels):
            residuals = output.residuals[:, level].detach()  # (B, d)
            book.follow(residuals, output.codes[:, level])
            if restart_after is not None:
                restarted += book.restart_idle(residuals, restart_after)
        return restarted

    @torch.no_grad()
    def start_from(self, latents: Tensor, rng: np.random.RandomState) -> None:
        """Place the code vectors of each level at the k-means centroids of its residuals.

        With fewer latents than codes, the codes that are left over keep their random start.

        Args:
            latents: (n, d): the first batch in TIGER, all items just as well.
            rng: for the k-means++ starts.
        """
        residual = latents
        for book in self.levels:
            found = kmeans(
                residual.cpu().numpy(),
                len(book.idle),
                restarts=1,
                iterations=KMEANS_ITERATIONS,
                minibatch_above=KMEANS_MINIBATCH_ABOVE,
                rng=rng,
            )
            centroids = torch.from_numpy(found.centroids).to(latents)  # (k, d)
            book.place(torch.arange(len(centroids), device=latents.device), centroids)
            residual = residual - book.vectors[book.nearest(residual)]
