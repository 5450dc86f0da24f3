"""The SID and EMB tokens behind every item's content, and the content of all items, in batches.

Behind an item's own content stand L learned SID vectors and one learned EMB vector (UniSID,
arXiv 2602.10445); the backbone's last states at these L + 1 places are what the heads look at. The
sequences are packed: content, images in their place, SID, EMB, and all padding at the end, so that
positions, left or right padding and batch neighbours make no difference to an item.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_sid.errors import InputError
from recbole_sid.items.ragged import ranges
from recbole_sid.tokenizer.backbone import Backbone, visibility
from recbole_sid.tokenizer.last_layer import take

logger = logging.getLogger("recbole_sid")


class Images(NamedTuple):
    """Image vectors of a batch: vectors (B, m, d), mask (B, m) true where there is one, and
    position int64 (B,): after how many tokens of the content they stand."""

    vectors: Tensor
    mask: Tensor
    position: Tensor


class SidReader(nn.Module):
    """The backbone with L learned SID vectors and one EMB vector behind every item's content.

    The learned vectors start as random draws around what enters the backbone at their place (mean
    and deviation of each dimension over a sample of the vocabulary); the paper does not say.
    """

    def __init__(self, backbone: Backbone, levels: int, image_dim: int | None) -> None:
        """
        Args:
            backbone: its settings say what is trained and where the vectors enter. Still on the
                processor that loaded it.
            levels: SID tokens L.
            image_dim: dimensions of the image vectors; None without images.
        """
        super().__init__()
        self.backbone = backbone
        self.levels = levels
        mean, deviation = _entering(backbone)
        self.vectors = nn.Parameter(mean + deviation * torch.randn(levels + 1, backbone.width))
        self.project = None if image_dim is None else nn.Linear(image_dim, backbone.width)

    def forward(self, content: Tensor, lengths: Tensor, images: Images | None = None) -> Tensor:
        """The last states of the SID tokens and of the EMB token.

        Args:
            content: (B, T, width) from :meth:`Content.batch`; what is behind an item's own length
                does not matter.
            lengths: int64 (B,), tokens of each item's content.
            images: absent ones (mask false) take no place: as if the item had none.

        Returns:
            (B, L + 1, width): levels 1 … L, then EMB.

        Raises:
            InputError: the sequence is longer than the model's positions.
        """
        sources = [content]
        if images is not None:
            if self.project is None:
                raise ValueError("this reader was made without image_dim")
            sources.append(self.project(images.vectors).to(content.dtype))  # (B, m, h)
        own = self.vectors.to(content.dtype)
        sources.append(own.expand(len(content), -1, -1))
        bank = torch.cat(sources, dim=1)  # (B, N, h)
        order, filled = self._packing(content.shape[1], lengths, images)  # (B, N), (B,)
        size = int(filled.max())
        self._require_room(size)
        order = order[:, :size]  # (B, S)
        states = take(bank, order)  # (B, S, h)

        present = torch.arange(size, device=order.device) < filled.unsqueeze(1)  # (B, S)
        mask = present
        if self.backbone.prefix_mask:
            first = bank.shape[1] - self.levels - 1
            # 0 content, 1 SID, 2 EMB; padding only looks at content, and nobody looks at padding.
            rank = (order >= first).long() + (order == bank.shape[1] - 1).long()  # (B, S)
            mask = visibility(rank.masked_fill(~present, 0), present)
        last = torch.arange(-self.levels - 1, 0, device=order.device)
        return self.backbone(states, mask, filled.unsqueeze(1) + last)  # (B, L + 1, h)

    def content(
        self,
        token_ids: np.ndarray,
        offsets: np.ndarray,
        dtype: torch.dtype,
        batch_size: int,
        progress: bool,
    ) -> Content:
        """All items' content, ready to be drawn in batches.

        With ``backbone_insert: top`` the lower layers run here, once, without dropout, and what
        they give is kept: width times the size of ``dtype`` bytes a token.

        Args:
            token_ids: (total,), the items' tokens one after the other.
            offsets: int64 (n + 1,), where each item begins; every item has a token.
            dtype: type of the states that are kept, such as float16; only for ``top``.
            batch_size: items that are run at a time.
            progress: show a progress bar.

        Raises:
            InputError: an item is too long, or a state is not finite in ``dtype``.
        """
        backbone = self.backbone
        self._require_known(int(token_ids.max()))
        kept = Content(torch.from_numpy(token_ids.astype(np.int64)), offsets, backbone)
        if not backbone.from_top:
            return kept
        lengths = np.diff(offsets)
        self._require_room(int(lengths.max()) + self.levels + 1)
        states = torch.empty(len(token_ids), backbone.width, dtype=dtype)
        device = backbone.word_vectors.device
        with tqdm(total=len(lengths), desc="item content", disable=not progress) as bar:
            for rows in bucketed(lengths, batch_size):
                ids, sizes = kept.tokens(rows)
                present = torch.arange(ids.shape[1]) < sizes.unsqueeze(1)  # (B, T)
                found = backbone.lower(ids.to(device), present.to(device)).cpu()
                places = torch.from_numpy(ranges(offsets[rows], lengths[rows]))
                states[places] = found[present].to(dtype)
                bar.update(len(rows))
        self._require_finite(states)
        size = states.numel() * states.element_size()
        logger.info(
            "Item content: %d MB of states kept, %d bytes an item", size >> 20, size // len(lengths)
        )
        return Content(states, offsets, None)

    @torch.no_grad()
    def entering(self, token_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The content of items of one length, as :meth:`content` gives it: (B, T) -> (B, T, width).

        Args:
            token_ids: int64.
            dtype: as for :meth:`content`: to what type states of the lower layers are rounded.

        Raises:
            InputError: as :meth:`content`.
        """
        self._require_known(int(token_ids.max()))
        if not self.backbone.from_top:
            return self.backbone.embed(token_ids)
        self._require_room(token_ids.shape[1] + self.levels + 1)
        mask = torch.ones_like(token_ids, dtype=torch.bool)
        states = self.backbone.lower(token_ids, mask).to(dtype)
        self._require_finite(states)
        return states.float()

    def _packing(self, width: int, lengths: Tensor, images: Images | None) -> tuple[Tensor, Tensor]:
        """The order (B, N) of [content, images, SID, EMB] that leaves no gap, and its end (B,)."""
        device = lengths.device
        token = torch.arange(width, device=device)
        absent = width + self.levels + 1 + (0 if images is None else images.mask.shape[1])
        keys = token.expand(len(lengths), -1)  # (B, T)
        filled = lengths
        parts: list[Tensor] = []
        if images is not None:
            m = images.mask.shape[1]
            place = images.position.unsqueeze(1)  # (B, 1)
            keys = keys + m * (token >= place)
            image_keys = place + torch.arange(m, device=device)
            parts.append(image_keys.masked_fill(~images.mask, absent))  # (B, m)
            filled = filled + images.mask.sum(dim=1)
        keys = keys.masked_fill(token >= lengths.unsqueeze(1), absent)
        own = torch.arange(absent - self.levels - 1, absent, device=device)
        order = torch.cat([keys, *parts, own.expand(len(lengths), -1)], dim=1)  # (B, N)
        return order.argsort(dim=1, stable=True), filled + self.levels + 1

    def _require_known(self, token: int) -> None:
        size = len(self.backbone.word_vectors)
        if token >= size:
            raise InputError(
                f"token {token} is unknown to backbone {self.backbone.name!r}, which has {size} "
                "token vectors: tokenize with its own tokenizer, or name a folder where both fit"
            )

    def _require_finite(self, states: Tensor) -> None:
        if not states.isfinite().all():
            raise InputError(
                f"backbone {self.backbone.name!r}: states of the content do not fit into "
                f"{states.dtype}: keep them in torch.float32 or set tokenizer_backbone_insert to "
                "'bottom'"
            )

    def _require_room(self, size: int) -> None:
        bound = self.backbone.max_positions
        if bound is not None and size > bound:
            raise InputError(
                f"an item takes {size} tokens with its images, {self.levels} SID tokens and the "
                f"EMB token, but backbone {self.backbone.name!r} reads at most {bound}: lower "
                f"schema_max_length by at least {size - bound}"
            )


class Content:
    """The content of all items, in one flat array: token ids, or states of the lower layers."""

    def __init__(self, values: Tensor, offsets: np.ndarray, embedder: Backbone | None) -> None:
        """
        Args:
            values: int64 (total,) token ids, with ``embedder``, or (total, width) states, without.
            offsets: int64 (n + 1,).
            embedder: looks the tokens' vectors up.
        """
        self.values = values
        self.offsets = offsets
        self.embedder = embedder

    def tokens(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The values of some items, (B, T, …) with zeros behind the end, and lengths (B,)."""
        return padded(self.values, self.offsets, rows)

    def batch(self, rows: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """What :class:`SidReader` takes: (B, T, width) float, and lengths int64 (B,)."""
        values, lengths = (tensor.to(device) for tensor in self.tokens(rows))
        states = values.float() if self.embedder is None else self.embedder.embed(values)
        return states, lengths


def padded(values: Tensor, offsets: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows of a flat array side by side: (B, longest, …), zeros behind the end; lengths (B,)."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    sizes = torch.from_numpy(lengths.astype(np.int64))
    present = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)  # (B, T)
    out = values.new_zeros(*present.shape, *values.shape[1:])
    out[present] = values[torch.from_numpy(ranges(starts, lengths))]
    return out, sizes


def bucketed(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows in batches of like length, longest first: int64 (at most ``batch_size``,) each."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@torch.no_grad()
def _entering(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Mean and deviation (width,) of what enters where the learned vectors do."""
    size = len(backbone.word_vectors)
    rows = torch.linspace(0, size - 1, min(size, 1024)).long()
    sample = backbone.embed(rows)  # (n, h)
    if backbone.from_top:
        ids = rows[: len(rows) // 8 * 8].view(-1, 8)  # eight words a sequence
        sample = backbone.lower(ids, torch.ones_like(ids, dtype=torch.bool)).flatten(0, 1)
    return sample.mean(dim=0), sample.std(dim=0)
