"""What stage 2 trains on: packed windows or single prefixes of the users' sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from recbole_sid.errors import InputError
from recbole_sid.generator import sequences as seq
from recbole_sid.model.dataset import split_sequences
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.seeds import stage_seed


class TrainingData:
    """The training split as sequences, and its batches epoch by epoch."""

    def __init__(self, dataset, config, model: SIDRecommender):
        window = config["MAX_ITEM_LIST_LENGTH"]
        self.batch_size: int = config["train_batch_size"]
        self.seed = stage_seed(config["seed"], "generator batches")
        self.window = window
        self.packs = model.generator.packs
        self.sequences = split_sequences(dataset, config)
        if not self.sequences.n_targets:
            raise InputError(f"the training split of '{config['dataset']}' is empty")
        if self.packs:
            self.windows = seq.windows(self.sequences, window, config["window_stride"])
            self.together: int | None = config["window_targets"]
            self.steps_per_epoch = seq.n_packed_batches(
                self.windows, self.batch_size, self.together
            )
        else:
            self.steps_per_epoch = seq.n_prefix_batches(self.sequences, self.batch_size)

    @property
    def fingerprint(self) -> str:
        """sha256 hex of the sequences."""
        digest = hashlib.sha256()
        for array in vars(self.sequences).values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def epoch(self, epoch: int) -> Iterator[list[Tensor]]:
        """Batches of one epoch; their order depends on the seed and the epoch alone."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.packs:
            batches: Iterator[tuple[np.ndarray, ...]] = seq.packed_batches(
                self.sequences, self.windows, self.batch_size, self.together, rng
            )
        else:
            batches = seq.prefix_batches(self.sequences, self.window, self.batch_size, rng)
        for batch in batches:
            yield [torch.from_numpy(array) for array in batch]
