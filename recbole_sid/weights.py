"""Weights of a recommender as safetensors, with what they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_sid import seals
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender

WEIGHTS_FORMAT = "recbole-sid-weights"


def save_weights(model: SIDRecommender, path: str | Path, epoch: int) -> None:
    """Write the weights as safetensors, with what they belong to; an existing file is replaced.

    Raises:
        CannotWrite: the file system refuses it.
    """
    metadata = {"sids": model.sids.fingerprint(), "epoch": str(epoch)}
    write_weights(Path(path), model.state_dict(), metadata)


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by the names that they have in a recommender, as :func:`load_weights` reads.

    Raises:
        CannotWrite: the file system refuses it.
    """
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    told = {"format": WEIGHTS_FORMAT, "version": "1", **metadata, seals.KEY: seals.blank()}
    with seals.written_sealed(path) as temporary:
        try:
            save_file(tensors, temporary, told)
        except SafetensorError as error:  # as the library reports a full disk
            raise OSError(str(error)) from error


def load_weights(model: SIDRecommender, path: str | Path) -> None:
    """Load weights that ``save_weights`` wrote for the same SIDs.

    Raises:
        InputError: no such file, a damaged one, not ours, of other SIDs (another dataset), or of
            another shape.
    """
    if not Path(path).is_file():
        raise InputError(f"checkpoint {path} does not exist: train the run first")
    seals.check(Path(path), "train the run again, with --overwrite")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        weights = load_file(path, device=str(model.device))
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {path} cannot be read: {error}") from error
    if metadata.get("format") != WEIGHTS_FORMAT:
        raise InputError(f"checkpoint {path} was not written by recbole_sid")
    if metadata.get("sids") != model.sids.fingerprint():
        raise InputError(
            f"checkpoint {path} belongs to other items or other SIDs than this dataset's: use the "
            "run folder's own dataset and sids.json, or train anew"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"checkpoint {path} does not fit the model's settings: {error}. Use the run folder's "
            "own config.yaml"
        ) from error
