"""Codes of items by fitted weights, each process its share of the items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from recbole_sid.distributed import World
from recbole_sid.tokenizer.base import BaseCodes, Items, Tokenizer
from recbole_sid.tokenizer.code_use import code_use

# Beside the weights; none of theirs is called so.
_BEHAVIOUR = "the items' behaviour"


def assign_in_shares(
    tokenizer: Tokenizer, items: Items, weights: Mapping[str, np.ndarray], world: World
) -> BaseCodes | None:
    """:meth:`Tokenizer.assign` for processes that all call this alike.

    Tokenizers that compute a row by itself (:mod:`.blocks`) give the codes of one process; UniSID,
    which reads items in batches, gives them up to the rounding of its network.

    Returns:
        All codes on the first process, with a report on their use alone; None on the others.

    Raises:
        InputError: as ``assign``.
    """
    if world.alone:
        return tokenizer.assign(items, weights)
    rows = world.block(len(items.tokens))
    made = tokenizer.assign(items.take(rows), weights) if rows else None
    space = None if made is None else made.space
    codes = _collected(world, None if made is None else made.codes)
    latents = _collected(world, None if space is None else space.latents)
    embeddings = _collected(world, None if made is None else made.embeddings)
    if codes is None or made is None:
        return None
    if space is not None and latents is not None:
        space = replace(space, latents=latents)
    return BaseCodes(codes, made.sizes, dict(code_use(codes, made.sizes)), space, embeddings)


def assigned_by_all(
    tokenizer: Tokenizer, items: Items, weights: Mapping[str, np.ndarray], world: World
) -> BaseCodes:
    """The same in the first process, which alone has weights; the others :func:`help_to_assign`."""
    if not world.alone:
        behaviour = {} if items.behaviour is None else {_BEHAVIOUR: items.behaviour}
        world.arrays({**weights, **behaviour})
    made = assign_in_shares(tokenizer, items, weights, world)
    assert made is not None, "the first process has all codes"
    return made


def help_to_assign(tokenizer: Tokenizer, items: Items, world: World) -> None:
    """What the others do in :func:`assigned_by_all`; ``items`` as there, but for behaviour."""
    weights = world.arrays()
    items = replace(items, behaviour=weights.pop(_BEHAVIOUR, None))
    assign_in_shares(tokenizer, items, weights, world)


def _collected(world: World, rows: np.ndarray | None) -> np.ndarray | None:
    sent = None if rows is None else torch.from_numpy(np.ascontiguousarray(rows))
    whole = world.collected(sent)
    return None if whole is None else whole.numpy()
