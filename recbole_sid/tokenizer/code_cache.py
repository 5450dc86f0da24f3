"""The cache of stage 1: fitted codes, and beside them what else the tokenizer made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_sid import seals
from recbole_sid.checkpoint import DELETE
from recbole_sid.errors import InputError
from recbole_sid.items.vectors import load_item_vectors, save_item_vectors
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.stored_weights import StoredWeights, save_tokenizer_weights


class Fitted(NamedTuple):
    """What a tokenizer made of a catalogue; all rows are those of ``base``.

    Attributes:
        base: codes before the collision rule; its provenance says under ``beside`` which of the
            other three there are.
        space: what every item would pay for every code; None if the tokenizer has none, or if it
            was not asked for.
        embeddings: float32 (n_items, d), None if the tokenizer makes none.
        weights: what ``Tokenizer.assign`` takes, None from tokenizers that cannot. Those from the
            cache are read when they are asked for.
        seconds: that the fit took, when it was made; of one that was killed and went on, the last
            part of it. In a file of its own, so that equal codes make equal files.
    """

    base: SemanticIDs
    space: CodeSpace | None
    embeddings: np.ndarray | None
    weights: Mapping[str, np.ndarray] | None = None
    seconds: float = 0.0


def write_cache(path: Path, fitted: Fitted) -> None:
    """Keep fitted codes in ``path`` and the rest beside them, rows in the order of raw tokens.

    The codes come last: where they are, the rest is.

    Raises:
        InputError: the folder cannot be made.
    """
    base = fitted.base
    order = base.token_order
    tokens = tuple(base.tokens[row] for row in order)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache folder '{path.parent}' cannot be made ({error.strerror}): name another "
            "--cache_dir"
        ) from error
    if fitted.space is not None:
        fitted.space.taken(order).save(_beside(path, "space"))
    if fitted.embeddings is not None:
        save_item_vectors(_beside(path, "embeddings"), fitted.embeddings[order], tokens)
    if fitted.weights is not None:
        save_tokenizer_weights(_beside(path, "weights"), fitted.weights)
    with seals.written_sealed(_timing(path)) as temporary:
        text = json.dumps({"fit_seconds": fitted.seconds, seals.KEY: seals.blank()})
        temporary.write_text(text + "\n", encoding="utf-8")
    base.aligned(tokens).save(path)


def read_cache(path: Path, tokens: tuple[str, ...], with_space: bool) -> Fitted | None:
    """What :func:`write_cache` kept, rows in the order of ``tokens``; None if it must be fitted.

    Args:
        with_space: whether to read the space.

    Raises:
        InputError: a damaged file.
    """
    if not path.is_file():
        return None
    base = SemanticIDs.load(path).aligned(tokens)
    space, embeddings, weights = None, None, None
    beside = base.provenance.get("beside", [])
    if with_space and "space" in beside:
        file = _beside(path, "space")
        if not file.is_file():
            return None
        space = CodeSpace.load(file).taken(np.argsort(base.token_order))
    if "embeddings" in beside:
        file = _beside(path, "embeddings")
        if not file.is_file():
            return None
        embeddings = load_item_vectors(file, None, tokens)
    if "weights" in beside:
        file = _beside(path, "weights")
        if not file.is_file():
            return None
        weights = StoredWeights(file)
    if not _timing(path).is_file():
        return None
    seals.check(_timing(path), DELETE)
    seconds = float(json.loads(_timing(path).read_text(encoding="utf-8"))["fit_seconds"])
    return Fitted(base, space, embeddings, weights, seconds)


def _beside(path: Path, what: str) -> Path:
    return path.with_suffix(f".{what}.safetensors")


def _timing(path: Path) -> Path:
    return path.with_suffix(".timing.json")
