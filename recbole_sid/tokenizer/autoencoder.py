"""The autoencoder of an RQ-VAE, and how codes are read off its bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recbole_sid.tokenizer.blocks import in_blocks
from recbole_sid.tokenizer.quantizer import Quantized, ResidualQuantizer
from recbole_sid.tokenizer.rqvae_settings import RQVAESettings


class Autoencoded(NamedTuple):
    """What :class:`Autoencoder` makes of a batch.

    Attributes:
        latents: (B, d), encoder outputs before quantisation.
        quantized: see :class:`~recbole_sid.tokenizer.quantizer.Quantized`.
        decoded: (B, D), the vectors as reconstructed.
    """

    latents: Tensor
    quantized: Quantized
    decoded: Tensor


class Autoencoder(nn.Module):
    """Encoder, residual quantiser, and a decoder with the encoder's layers mirrored."""

    def __init__(self, input_dim: int, settings: RQVAESettings) -> None:
        super().__init__()
        widths = [input_dim, *settings.hidden_sizes, settings.latent_dim]
        self.encoder = _mlp(widths, settings.dropout)
        self.quantizer = ResidualQuantizer(
            settings.sizes, settings.latent_dim, settings.codebook_update, settings.ema_decay
        )
        self.decoder = _mlp(widths[::-1], settings.dropout)

    def forward(self, vectors: Tensor) -> Autoencoded:
        """Encode, quantise and decode ``vectors`` (B, D)."""
        latents = self.encoder(vectors)  # (B, d)
        quantized = self.quantizer(latents)
        return Autoencoded(latents, quantized, self.decoder(quantized.quantized))

    def encoding_weights(self) -> dict[str, Tensor]:
        """What codes are read off with, by its names in the state: encoder and code vectors."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith("encoder.") or name.endswith(".vectors")
        }

    def code_vectors(self) -> tuple[np.ndarray, ...]:
        """Each level's, float32 (K, d)."""
        return tuple(book.vectors.detach().cpu().numpy() for book in self.quantizer.levels)


@torch.no_grad()
def read(model: Autoencoder, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 (B, L) and latents float32 (B, d) of ``vectors`` (B, D), without dropout."""
    model.eval()
    device = next(model.parameters()).device
    latents = model.encoder(torch.from_numpy(vectors).to(device))  # (B, d)
    codes = model.quantizer(latents).codes
    return codes.cpu().numpy().astype(np.int32), latents.cpu().numpy()


def encode(model: Autoencoder, vectors: Tensor) -> np.ndarray:
    """Codes int32 (n, L) of prepared ``vectors`` (n, D), each row by itself."""
    codes, _ = in_blocks(lambda block: read(model, block), vectors.cpu().numpy())
    return codes


def _mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them; none after the last."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
