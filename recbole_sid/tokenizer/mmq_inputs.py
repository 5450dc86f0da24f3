"""What MMQ-v2 reads of items: a vector of every modality, zero where an item has none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.items.images import ItemImages
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.stored_weights import length, require_input_dim

TEXT, IMAGE, BEHAVIOUR = "text", "image", "behaviour"

Modalities = dict[str, np.ndarray]


def modalities(items: Items) -> Modalities:
    """float32 (n, D_m) of every modality: text, image if any item has one, and behaviour.

    Raises:
        InputError: no item has behaviour.
    """
    assert items.vectors is not None
    if items.behaviour is None or not items.behaviour.any():
        raise InputError(
            "tokenizer mmq needs what users did with the items (Items.behaviour), but there is "
            "nothing: train vectors with recbole_sid.model.behaviour.behaviour_vectors"
        )
    found = {TEXT: items.vectors}
    images = None if items.source is None else items.source.images
    if images is not None and images.mask.any():
        found[IMAGE] = mean_images(images)
    found[BEHAVIOUR] = items.behaviour
    return found


def fitted_modalities(items: Items, weights: Mapping[str, np.ndarray]) -> Modalities:
    """Those of :func:`modalities` that a fit had, of any items; zeros where these have nothing.

    Args:
        weights: of the fit; the first layer of a modality is ``projections.NAME.0.weight``.

    Raises:
        InputError: vectors of other dimensions, images that the fit had not, or none where nobody
            looked for them.
    """
    assert items.vectors is not None
    require_input_dim(items.vectors, weights, first_layer(TEXT))
    found = {TEXT: items.vectors}
    images = None if items.source is None else items.source.images
    if first_layer(IMAGE) in weights:
        if items.source is None:
            raise InputError(
                "the tokenizer was fitted with images, but the items come without their source "
                "(Items.source): read it with ItemSource.read"
            )
        given = None if images is None else mean_images(images)
        found[IMAGE] = _of_fitted_width(given, IMAGE, len(items.tokens), weights)
    elif images is not None and images.mask.any():
        raise InputError(
            f"the items have image vectors of {images.vectors.shape[2]} dimensions, but the "
            "tokenizer was fitted without: give the items what those of the fit had"
        )
    found[BEHAVIOUR] = _of_fitted_width(items.behaviour, BEHAVIOUR, len(items.tokens), weights)
    return found


def first_layer(modality: str) -> str:
    """The name of the weight (…, D_m) that sees a modality."""
    return f"projections.{modality}.0.weight"


def mean_images(images: ItemImages) -> np.ndarray:
    """The mean of each item's images, float32 (n, d); zero without one."""
    total = (images.vectors * images.mask[:, :, None]).sum(axis=1)
    return total / np.maximum(images.mask.sum(axis=1), 1).astype(np.float32)[:, None]


def _of_fitted_width(
    given: np.ndarray | None, modality: str, n_items: int, weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """``given`` (n, D), or zeros for None."""
    width = length(weights, first_layer(modality), 1, 1 if given is None else given.shape[1])
    if given is None:
        return np.zeros((n_items, width), np.float32)
    if given.shape[1] != width:
        raise InputError(
            f"the {modality} vectors have {given.shape[1]} dimensions, but the tokenizer was "
            f"fitted on vectors of {width}: make them as those of the fit were made"
        )
    return given
