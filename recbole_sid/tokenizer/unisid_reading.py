"""How UniSID reads a catalogue: in batches for its training, and item by item for the codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_sid.items.schema import ItemInputs
from recbole_sid.precision import resolve_precision
from recbole_sid.sid.space import CodeSpace
from recbole_sid.tokenizer.sid_reader import Content, Images
from recbole_sid.tokenizer.unisid_network import Encoded, UniSIDNetwork

# Items that go through the backbone at a time in training.
READ_ROWS = 64
# And exactly so many when codes are read off.
CODE_ROWS = 16
# The type in which states of frozen layers are kept, see SidReader.content.
KEPT = torch.float16


class Catalogue(NamedTuple):
    """What the batches of a training are drawn from.

    Attributes:
        content: of all items.
        images: vectors (n, m, d), mask (n, m) and position (n,), or None.
        lengths: tokens of every item, (n,).
        labels: of every item and level, see :mod:`.granularity`.
    """

    content: Content
    images: tuple[Tensor, Tensor, Tensor] | None
    lengths: np.ndarray
    labels: Tensor


class CodesRead(NamedTuple):
    """What is read off n items: int32 (n, L), their space, and dense vectors float32 (n, d)."""

    codes: np.ndarray
    space: CodeSpace
    embeddings: np.ndarray


def image_tensors(inputs: ItemInputs) -> tuple[Tensor, Tensor, Tensor] | None:
    """:attr:`Catalogue.images`."""
    if inputs.images is None or inputs.image_mask is None:
        return None
    return (
        torch.from_numpy(inputs.images),
        torch.from_numpy(inputs.image_mask),
        torch.from_numpy(inputs.image_position.astype(np.int64)),
    )


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Where matrices are multiplied in bfloat16, if ``precision`` asks for it here."""
    dtype = resolve_precision(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16)


def read_batch(
    network: UniSIDNetwork,
    catalogue: Catalogue,
    rows: np.ndarray,
    precision: str,
    device: torch.device,
) -> Encoded:
    """The items at ``rows`` (B,); those of like length are read together: little is padding."""
    order = catalogue.lengths[rows].argsort(kind="stable")
    parts: list[Encoded] = []
    for some in np.array_split(rows[order], -(-len(rows) // READ_ROWS)):
        content, lengths = catalogue.content.batch(some, device)
        images = None
        if catalogue.images is not None:
            images = Images(*(part[some].to(device) for part in catalogue.images))
        with autocast(precision, device):
            parts.append(network(content, lengths, images))
    back = torch.from_numpy(order.argsort()).to(device)
    return Encoded(*(torch.cat(values)[back] for values in zip(*parts, strict=True)))


@torch.no_grad()
def read_codes(
    network: UniSIDNetwork,
    inputs: ItemInputs,
    precision: str,
    device: torch.device,
    progress: bool,
) -> CodesRead:
    """Codes, space and vectors of all items, without dropout; no item depends on another.

    The items of a batch have as many tokens and as many images as each other, and there are always
    ``CODE_ROWS``: one item fills up what the others leave free. With padding, or in a batch of
    another size, sums are rounded in other ways, and now and then a code is another one.

    States of frozen layers are gone with their batch; they are rounded as those that a training
    keeps.
    """
    network.eval()
    reader = network.reader
    n_items = len(inputs.offsets) - 1
    content = Content(torch.from_numpy(inputs.token_ids), inputs.offsets, reader.backbone)
    counts = np.zeros(n_items, np.int64)
    if inputs.image_mask is not None:
        counts = inputs.image_mask.sum(axis=1)
    codes = np.empty((n_items, reader.levels), np.int32)
    latents = np.empty((n_items, reader.levels, reader.backbone.width + 1), np.float32)
    embeddings = np.empty((n_items, network.embedding.out_features), np.float32)
    with tqdm(total=n_items, desc="unisid codes", disable=not progress) as bar:
        for rows, size in _alike(np.diff(inputs.offsets), counts):
            ids, lengths = content.tokens(rows)
            with autocast(precision, device):
                states = reader.entering(ids.long().to(device), KEPT)
                images = _present_images(inputs, rows, int(counts[rows[0]]), device)
                encoded = network(states, lengths.to(device), images)
            rows = rows[:size]
            latents[rows, :, :-1] = encoded.states[:size, :-1].float().cpu().numpy()
            codes[rows] = encoded.codes[:size].cpu().numpy()
            embeddings[rows] = encoded.embedding[:size].cpu().numpy()
            bar.update(size)
    latents[:, :, -1] = 1
    books = tuple(book.float().cpu().numpy() for book in network.code_vectors())
    return CodesRead(codes, CodeSpace(latents, books, residual=False), embeddings)


def _alike(lengths: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Rows (CODE_ROWS,) of equal length and count, longest first, and how many are no fillers."""
    order = np.lexsort((counts, -lengths))
    changes = np.diff(lengths[order]) | np.diff(counts[order])
    for group in np.split(order, np.flatnonzero(changes) + 1):
        for start in range(0, len(group), CODE_ROWS):
            rows = group[start : start + CODE_ROWS]
            fillers = np.full(CODE_ROWS - len(rows), rows[0])
            yield np.concatenate([rows, fillers]), len(rows)


def _present_images(
    inputs: ItemInputs, rows: np.ndarray, count: int, device: torch.device
) -> Images | None:
    """The images of items that have ``count`` each, without the empty places of others."""
    if inputs.images is None or inputs.image_mask is None or count == 0:
        return None
    mask = inputs.image_mask[rows]  # (B, m)
    places = np.argsort(~mask, axis=1, kind="stable")[:, :count]
    vectors = np.take_along_axis(inputs.images[rows], places[:, :, None], axis=1)  # (B, count, d)
    position = torch.from_numpy(inputs.image_position[rows].astype(np.int64))
    present = torch.ones(places.shape, dtype=torch.bool)
    return Images(*(part.to(device) for part in (torch.from_numpy(vectors), present, position)))
