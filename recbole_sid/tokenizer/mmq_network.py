"""The network of MMQ-v2 (arXiv 2510.25622): experts, each with a codebook, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from recbole_sid.tokenizer.kmeans import kmeans
from recbole_sid.tokenizer.mmq_inputs import BEHAVIOUR, IMAGE, TEXT, Modalities
from recbole_sid.tokenizer.mmq_losses import alignment_strength, damping_threshold, richness
from recbole_sid.tokenizer.mmq_settings import MMQSettings
from recbole_sid.tokenizer.quantizer import KMEANS_ITERATIONS, KMEANS_MINIBATCH_ABOVE, Codebook
from recbole_sid.tokenizer.vectors import standardization

SHARED = "shared"
# Of these weights the codes are read off; gates and decoder are for the training.
ENCODING = ("scaling.", "projections.", "experts.")


class Encoded(NamedTuple):
    """What the experts make of a batch; dictionaries hold every modality.

    Attributes:
        originals: e, standardised (B, D_m), zero where an item has none.
        present: bool (B,), the items that have it.
        projected: h (B, shared_dim), that of the mean vector where an item has none.
        latents: z (B, L, d).
    """

    originals: dict[str, Tensor]
    present: dict[str, Tensor]
    projected: dict[str, Tensor]
    latents: Tensor


class Mixed(NamedTuple):
    """What :class:`MixtureNetwork` makes of a batch.

    Attributes:
        encoded: see there.
        codes: int64 (B, L).
        chosen: the code vectors (B, L, d).
        seen: bool (B, L), False where the item lacks the modality of the expert.
        rich: N_norm (B,).
        strength: w (B,).
        routed: the router's R (B, behaviour experts).
        decoded: of every modality (B, D_m).
    """

    encoded: Encoded
    codes: Tensor
    chosen: Tensor
    seen: Tensor
    rich: Tensor
    strength: Tensor
    routed: Tensor
    decoded: dict[str, Tensor]


class CosineCodebook(Codebook):
    """A codebook whose code is the vector of the largest cosine (Eq. 5)."""

    @torch.no_grad()
    def nearest(self, residuals: Tensor) -> Tensor:
        """Codes (B,) of the vectors at the largest cosine; the lowest code of a tie."""
        # ‖z‖ is the same for every code of a row.
        return (residuals @ normalize(self.vectors, dim=1).T).argmax(dim=1)

    @torch.no_grad()
    def start_from(self, latents: Tensor, rng: np.random.RandomState) -> None:
        """Place the code vectors in the directions of the k-means centroids of ``latents`` (n, d).

        They get the mean length of the latents. With fewer latents than codes, the codes that are
        left over keep their random start.
        """
        found = kmeans(
            normalize(latents, dim=1).cpu().numpy(),
            len(self.idle),
            restarts=1,
            iterations=KMEANS_ITERATIONS,
            minibatch_above=KMEANS_MINIBATCH_ABOVE,
            rng=rng,
        )
        directions = normalize(torch.from_numpy(found.centroids).to(latents), dim=1)  # (k, d)
        codes = torch.arange(len(directions), device=latents.device)
        self.place(codes, latents.norm(dim=1).mean() * directions)


class Scaling(nn.Module):
    """Centres a modality and divides it by one number; items without it stay zero."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """``vectors`` (B, D), of which the items ``present`` (B,) have some."""
        return (vectors - self.mean) / self.scale * present[:, None]


class MixtureNetwork(nn.Module):
    """Shared and specific experts, each with a codebook of its own, and one decoder.

        z = Σ_l g_l z_l,   z_q = Σ_l g_l e_l[c_l],   e' = decoder(z + sg[z_q - z])  (Eq. 7, 8, 11)

    A shared expert reads [h_t, h_v, h_b], the projections of all modalities, and has weight 1; a
    specific expert reads the vector e_m of its modality (open in what we have of the paper: this
    way the alignment, which is between projections, only shapes the shared codes). The weights of
    text and image experts are a softmax over those of the modality (Eq. 9-10); those of the
    behaviour experts are the router's (Eq. 18)

        R(e_b) = sigmoid(N_norm) · relu(MLP(e_b) + b).

    Ours: modalities are standardised first; where an item lacks one, the mean takes its place in
    what shared experts read, and specific experts weigh 0. The router starts with b = 1, open to
    most items: where it is closed, what an expert makes of an item teaches it nothing.
    """

    least_norm: Tensor
    most_norm: Tensor
    threshold: Tensor
    penalty: Tensor

    def __init__(self, widths: Mapping[str, int], settings: MMQSettings) -> None:
        """
        Args:
            widths: dimensions of every modality: text, image if there is one, behaviour.
        """
        super().__init__()
        self.widths = dict(widths)
        self.slope, self.damped = settings.strength_slope, settings.strength_damped
        hidden, dropout = settings.hidden_sizes, settings.dropout
        asked = {
            SHARED: settings.shared_experts,
            TEXT: settings.text_experts,
            IMAGE: settings.image_experts,
            BEHAVIOUR: settings.behaviour_experts,
        }
        joined = {SHARED: settings.shared_dim * len(widths)}
        # One expert of every level, with the modality that it reads.
        self.levels = [name for name in (SHARED, *widths) for _ in range(asked[name])]
        self.scaling = nn.ModuleDict({name: Scaling(width) for name, width in widths.items()})
        self.projections = nn.ModuleDict(
            {
                name: mlp([width, *hidden, settings.shared_dim], dropout)
                for name, width in widths.items()
            }
        )
        self.experts = nn.ModuleList(
            mlp([(joined | self.widths)[name], *hidden, settings.latent_dim], dropout)
            for name in self.levels
        )
        self.codebooks = nn.ModuleList(
            CosineCodebook(
                settings.codebook_size,
                settings.latent_dim,
                settings.codebook_update,
                settings.ema_decay,
            )
            for _ in self.levels
        )
        self.gates = nn.ModuleDict(
            {
                name: mlp([width, *settings.gate_hidden_sizes, asked[name]], dropout)
                for name, width in widths.items()
                if asked[name] > 0
            }
        )
        if BEHAVIOUR in self.gates:
            nn.init.ones_(last_layer(self.gates[BEHAVIOUR]).bias)
        self.decoder = mlp([settings.latent_dim, *reversed(hidden), sum(widths.values())], dropout)
        self.register_buffer("least_norm", torch.zeros(()))
        self.register_buffer("most_norm", torch.zeros(()))
        self.register_buffer("threshold", torch.tensor(settings.strength_threshold))  # beta
        self.register_buffer("penalty", torch.tensor(settings.penalty_start))  # λ of the router

    @property
    def books(self) -> list[CosineCodebook]:
        """The codebooks, first level first."""
        # ModuleList does not know the type of what it holds.
        return cast(list[CosineCodebook], list(self.codebooks))

    def scale_to(self, vectors: Modalities) -> None:
        """Take means, scales, norms and what they say of beta from the items of the fit, (n, D_m) a
        modality."""
        for name, rows in vectors.items():
            present = rows.any(axis=1)
            if not present.any():
                continue
            found = standardization(rows[present])
            scaling = cast(Scaling, self.scaling[name])
            scaling.mean.copy_(torch.from_numpy(found["mean"]))
            scaling.scale.copy_(torch.from_numpy(found["scale"]))
        norms = np.linalg.norm(vectors[BEHAVIOUR], axis=1)
        known = torch.from_numpy(norms[norms > 0]).to(self.least_norm)
        self.least_norm.copy_(known.min())
        self.most_norm.copy_(known.max())
        if self.damped is not None:
            rich = richness(known, self.least_norm, self.most_norm)
            self.threshold.copy_(damping_threshold(rich, self.slope, self.damped))

    def encode(self, rows: Tensor) -> Encoded:
        """Items as ``rows`` (B, ΣD_m): the raw vectors of all modalities, side by side."""
        parts = dict(zip(self.widths, rows.split(list(self.widths.values()), dim=1), strict=True))
        present = {name: part.any(dim=1) for name, part in parts.items()}
        originals = {name: self.scaling[name](part, present[name]) for name, part in parts.items()}
        projected = {name: self.projections[name](part) for name, part in originals.items()}
        inputs = {SHARED: torch.cat(list(projected.values()), dim=1), **originals}
        latents = [
            expert(inputs[name]) for name, expert in zip(self.levels, self.experts, strict=True)
        ]
        return Encoded(originals, present, projected, torch.stack(latents, dim=1))

    def forward(self, rows: Tensor) -> Mixed:
        """Encode, quantise and decode ``rows``, see :meth:`encode`. Changes nothing."""
        encoded = self.encode(rows)
        latents, present = encoded.latents, encoded.present
        codes = self.nearest(latents)
        chosen = torch.stack(
            [book.vectors[level] for book, level in zip(self.books, codes.T, strict=True)], dim=1
        )
        everyone = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        seen = torch.stack([present.get(name, everyone) for name in self.levels], dim=1)
        behaviour = rows[:, -self.widths[BEHAVIOUR] :]
        rich = richness(behaviour.norm(dim=1), self.least_norm, self.most_norm)
        strength = alignment_strength(rich, self.slope, self.threshold)
        shared = latents.new_ones(len(rows), self.levels.count(SHARED))
        gates = {SHARED: shared} | {
            name: gate(encoded.originals[name]).softmax(dim=1)
            for name, gate in self.gates.items()
            if name != BEHAVIOUR
        }
        routed = latents.new_zeros(len(rows), 0)
        if BEHAVIOUR in self.gates:
            opened = self.gates[BEHAVIOUR](encoded.originals[BEHAVIOUR]).relu()
            routed = rich.sigmoid()[:, None] * opened * present[BEHAVIOUR][:, None]
        weights = torch.cat([*gates.values(), routed], dim=1) * seen  # (B, L)
        mixed = (weights[:, :, None] * latents).sum(dim=1)  # (B, d)
        quantized = (weights[:, :, None] * chosen).sum(dim=1)
        decoded = self.decoder(mixed + (quantized - mixed).detach())
        parts = decoded.split(list(self.widths.values()), dim=1)
        by_name = dict(zip(self.widths, parts, strict=True))
        return Mixed(encoded, codes, chosen, seen, rich, strength, routed, by_name)

    def nearest(self, latents: Tensor) -> Tensor:
        """Codes int64 (B, L) of ``latents`` (B, L, d)."""
        found = [
            book.nearest(level) for book, level in zip(self.books, latents.unbind(1), strict=True)
        ]
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def start_codebooks(self, rows: Tensor, rng: np.random.RandomState) -> None:
        """Place all code vectors by k-means, each over the items that have its modality."""
        encoded = self.encode(rows)
        for level, (name, book) in enumerate(zip(self.levels, self.books, strict=True)):
            latents = encoded.latents[:, level]
            if name != SHARED:
                latents = latents[encoded.present[name]]
            if len(latents) > 0:
                book.start_from(latents, rng)

    @torch.no_grad()
    def follow(self, output: Mixed, restart_after: int | None) -> int:
        """After the optimizer's step: moving averages, and restarts of dead codes.

        Args:
            output: what ``forward`` gave for the batch of this step.
            restart_after: steps without a single item after which a code moves to a random latent
                of the batch; None for never.

        Returns:
            The number of codes that moved.
        """
        restarted = 0
        for level, book in enumerate(self.books):
            seen = output.seen[:, level]
            latents = output.encoded.latents[seen, level].detach()
            book.follow(latents, output.codes[seen, level])
            if restart_after is not None:
                restarted += book.restart_idle(latents, restart_after)
        return restarted

    def output_weights(self) -> list[Tensor]:
        """The last matrix of every expert, (d, …)."""
        return [last_layer(expert).weight for expert in self.experts]

    def encoding_weights(self) -> dict[str, Tensor]:
        """What codes are read off with, by its names in the state."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(ENCODING) or name.endswith(".vectors")
        }


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them; none after the last."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def last_layer(layers: nn.Module) -> nn.Linear:
    """The last one of :func:`mlp`."""
    return cast(nn.Linear, cast(nn.Sequential, layers)[-1])
