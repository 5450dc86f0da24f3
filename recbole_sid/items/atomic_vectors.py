"""Item vectors as an atomic file of RecBole, for its own models and the user's.

RecBole joins further files to the items by ``alias_of_item_id`` and hands their columns to a model
by ``preload_weight``: ``dataset.get_preload_weight(ID)`` is then a row an item, in the order of its
internal ids, for ``nn.Embedding.from_pretrained`` or as features. RecBole numbers the ids of all
joined files together: give the data settings of the run that made the vectors, else items that
these leave out are in the catalogue again. An item without a vector has zeros. Cells are separated
by tabs and numbers by spaces, RecBole's defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.files import written_whole

# Of the files that RecBole reads unasked.
ATOMIC_SUFFIXES = ("inter", "item", "user", "kg", "link", "net")
ID, VECTOR = "vector_id", "vector"


def write_atomic_vectors(
    path: str | Path, vectors: np.ndarray, tokens: list[str], overwrite: bool = False
) -> dict[str, Any]:
    """Write ``DATASET.SUFFIX`` with the columns ``vector_id:token`` and ``vector:float_seq``.

    Args:
        path: in the folder of the data set, named as its other files: ``beauty/beauty.unisid``.
        vectors: float (n, d), finite.
        tokens: their raw item ids (n,).
        overwrite: whether a file that exists may be replaced.

    Returns:
        The settings with which RecBole reads it, ``load_col`` for this file alone.

    Raises:
        InputError: the name is not the folder's with a suffix, or has one of RecBole's own; the
            file exists; or an id has a tab or a line feed, which no atomic file holds.
        CannotWrite: the file system refuses it.
    """
    path = Path(path)
    suffix, dataset = path.suffix.removeprefix("."), path.absolute().parent.name
    if not suffix or suffix in ATOMIC_SUFFIXES or path.stem != dataset:
        raise InputError(
            f"output '{path}' must be named as the data set's files, with an ending of its own: "
            f"'{path.parent / dataset}.vectors'"
        )
    if not path.parent.is_dir():
        raise InputError(f"output '{path}': there is no folder '{path.parent}'. Make it first")
    if path.exists() and not overwrite:
        raise InputError(f"output '{path}' exists: name another file, or replace it by --overwrite")
    odd = [token for token in tokens if any(sign in token for sign in "\t\r\n")]
    if odd:
        raise InputError(f"item id {odd[0]!r} does not fit in '{path}', whose cells tabs separate")
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.write(f"{ID}:token\t{VECTOR}:float_seq\n")
        for token, vector in zip(tokens, vectors, strict=True):
            # The shortest digits that give the float32 back.
            file.write(f"{token}\t{' '.join(map(str, vector.astype(np.float32)))}\n")
    return {
        "additional_feat_suffix": [suffix],
        "load_col": {suffix: [ID, VECTOR]},
        "alias_of_item_id": [ID],
        "preload_weight": {ID: VECTOR},
    }
