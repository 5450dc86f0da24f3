"""Behaviour vectors: item vectors of RecBole's own SASRec, trained on the training split alone.

Nothing of the validation or test split is read: the number of epochs is fixed. The vectors are kept
in the cache by all that they depend on; a training that was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import recbole
import torch
from recbole.data.interaction import Interaction
from torch import nn
from tqdm import tqdm

from recbole_sid.checkpoint import Checkpoint
from recbole_sid.compat import import_sequential_models
from recbole_sid.errors import InputError
from recbole_sid.items.vectors import load_item_vectors, save_item_vectors
from recbole_sid.seeds import random_state, set_random_state, stage_seed
from recbole_sid.settings import build, require
from recbole_sid.tokenizer.base import seeded

logger = logging.getLogger("recbole_sid")


@dataclass(frozen=True)
class BehaviourSettings:
    """How behaviour vectors are trained. Defaults and meanings: ``properties/behaviour.yaml``."""

    hidden_size: int
    layers: int
    heads: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "heads", "epochs", "batch_size"):
            value = vars(self)[name]
            require(value >= 1, f"behaviour_{name}", value, "at least 1")
        require(
            self.hidden_size % self.heads == 0,
            "behaviour_hidden_size",
            self.hidden_size,
            f"a multiple of behaviour_heads = {self.heads}",
        )
        require(0 <= self.dropout < 1, "behaviour_dropout", self.dropout, "at least 0, below 1")
        require(self.learning_rate > 0, "behaviour_learning_rate", self.learning_rate, "above 0")


class Histories(NamedTuple):
    """Samples of a split: what a user had, and what came next. Items count from 1; 0 is padding.

    Attributes:
        items: int64 (m, T), left aligned.
        lengths: int64 (m,), at least 1.
        targets: int64 (m,).
    """

    items: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray

    def among(self, rows: np.ndarray, n_items: int) -> Histories:
        """The samples without any other items than those at ``rows`` (from 0), numbered anew.

        Samples whose target goes, or whose whole history, are left out.
        """
        number = np.zeros(n_items + 1, dtype=np.int64)
        number[rows + 1] = np.arange(1, len(rows) + 1)
        items, targets = number[self.items], number[self.targets]
        # A stable sort moves what is gone to the right and leaves the order of the others.
        items = np.take_along_axis(items, np.argsort(items == 0, axis=1, kind="stable"), axis=1)
        lengths = (items > 0).sum(axis=1)
        kept = (targets > 0) & (lengths > 0)
        return Histories(items[kept], lengths[kept], targets[kept])


def behaviour_vectors(config: Any, tokens: tuple[str, ...], histories: Histories) -> np.ndarray:
    """A vector an item, float32 (n, ``behaviour_hidden_size``), from the cache or trained now.

    They do not depend on the order of rows or on how items are numbered.

    Args:
        config: our ``Config``.
        tokens: raw item ids (n,); item i of ``histories`` is ``tokens[i - 1]``.
        histories: of the training split only.

    Returns:
        Rows as in ``tokens``; zeros for items that are neither in a history nor a target.

    Raises:
        InputError: there is no sample, a setting is out of bounds, or the training diverges.
    """
    settings = build(BehaviourSettings, config.final_config_dict, "behaviour_")
    if len(histories.targets) == 0:
        raise InputError(
            "behaviour vectors need training samples (a history and its next item), but there are "
            "none: relax the filters, or hold out fewer items"
        )
    order = np.asarray(sorted(range(len(tokens)), key=tokens.__getitem__))
    by_name = tuple(tokens[row] for row in order)
    histories = _canonical(histories.among(order, len(tokens)))
    seed = stage_seed(config["seed"], "behaviour")
    key = _key(settings, seed, by_name, histories)
    path = config.run.cache_folder / "behaviour" / f"{key}.safetensors"
    if path.is_file():
        logger.info("Behaviour vectors from the cache, %s", path)
    else:
        checkpoint = Checkpoint(path)
        vectors = train(
            settings,
            histories,
            len(tokens),
            seed=seed,
            device=config["device"],
            progress=bool(config["show_progress"]),
            checkpoint=checkpoint,
        )
        _save(path, vectors, by_name)
        checkpoint.finish()
    vectors = load_item_vectors(path, None, tokens)
    absent = int((~vectors.any(axis=1)).sum())
    logger.info(
        "Behaviour vectors: SASRec on %s training samples; %d of %d items have no training "
        "interaction and get zeros",
        f"{len(histories.targets):,}",
        absent,
        len(tokens),
    )
    return vectors


def train(
    settings: BehaviourSettings,
    histories: Histories,
    n_items: int,
    *,
    seed: int,
    device: torch.device,
    progress: bool,
    checkpoint: Checkpoint | None = None,
) -> np.ndarray:
    """Item vectors float32 (n_items, d) of a SASRec trained by RecBole's loss over all items.

    Args:
        histories: the samples; an epoch takes each once, in random order.
        checkpoint: where the state is kept while it trains; None keeps none.
    """
    items, lengths, targets = (torch.from_numpy(array) for array in histories)
    with seeded(seed, device):
        model = _sasrec(settings, n_items, items.shape[1], device).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        done = _restored(checkpoint, model, optimizer, device)

        def state() -> dict[str, Any]:
            return {
                "epoch": done,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(device),
            }

        model.train()
        bar = tqdm(
            range(done, settings.epochs),
            desc="behaviour epochs",
            initial=done,
            total=settings.epochs,
            disable=not progress,
        )
        for _ in bar:
            total = torch.zeros((), device=device)
            for rows in torch.randperm(len(targets)).split(settings.batch_size):
                longest = int(lengths[rows].max())
                batch = Interaction(
                    {
                        model.ITEM_SEQ: items[rows, :longest],
                        model.ITEM_SEQ_LEN: lengths[rows],
                        model.ITEM_ID: targets[rows],
                    }
                ).to(device)
                loss = model.calculate_loss(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
            done += 1
            mean = total.item() / len(targets)
            if not np.isfinite(mean):
                raise InputError(
                    f"the loss of the behaviour vectors is {mean} in epoch {done}: lower "
                    f"behaviour_learning_rate, which is {settings.learning_rate}"
                )
            bar.set_postfix(loss=f"{mean:.4g}")
            if done == settings.epochs:
                logger.info("Behaviour vectors: loss %.4g after %d epochs", mean, done)
            if checkpoint is not None:
                checkpoint.save_when_due(state)
    vectors = model.item_embedding.weight.detach().cpu().numpy()[1:].copy()
    # What no sample holds was only pushed away from everything else.
    seen = np.zeros(n_items + 1, dtype=bool)
    seen[histories.items.ravel()] = True
    seen[histories.targets] = True
    vectors[~seen[1:]] = 0
    return vectors


def _sasrec(settings: BehaviourSettings, n_items: int, window: int, device: torch.device) -> Any:
    """RecBole's model, which asks a config and a dataset for nothing but these."""
    import_sequential_models()
    from recbole.model.sequential_recommender.sasrec import SASRec

    config = {
        "USER_ID_FIELD": "user",
        "ITEM_ID_FIELD": "item",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "length",
        "NEG_PREFIX": "neg_",
        "MAX_ITEM_LIST_LENGTH": window,
        "device": device,
        "n_layers": settings.layers,
        "n_heads": settings.heads,
        "hidden_size": settings.hidden_size,
        "inner_size": 4 * settings.hidden_size,
        "hidden_dropout_prob": settings.dropout,
        "attn_dropout_prob": settings.dropout,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "loss_type": "CE",
    }
    return SASRec(config, SimpleNamespace(num=lambda field: n_items + 1))


def _restored(
    checkpoint: Checkpoint | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> int:
    """The epochs that a killed training had done, whose state goes into the arguments."""
    state = None if checkpoint is None else checkpoint.load(device)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    set_random_state(state["random"], device)
    logger.info("Behaviour vectors: resuming after epoch %d", state["epoch"])
    return int(state["epoch"])


def _canonical(histories: Histories) -> Histories:
    """The samples in an order that follows from what is in them."""
    columns = np.column_stack([histories.items, histories.targets])
    order = np.lexsort(columns.T[::-1])
    return Histories(*(array[order] for array in histories))


def _key(
    settings: BehaviourSettings, seed: int, tokens: tuple[str, ...], histories: Histories
) -> str:
    """sha256 over all that the vectors depend on, the packages and this file among it."""
    identity: list[Any] = [asdict(settings), seed, tokens, histories.items.shape]
    identity += [recbole.__version__, torch.__version__]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    digest.update(Path(__file__).read_bytes())
    for array in histories:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _save(path: Path, vectors: np.ndarray, tokens: tuple[str, ...]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_item_vectors(path, vectors, tokens)
    except OSError as error:
        raise InputError(
            f"the cache file '{path}' cannot be written ({error}): name another --cache_dir"
        ) from error
