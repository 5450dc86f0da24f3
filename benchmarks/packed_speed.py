"""A training epoch packed against the same model one sample a prefix, padded to the maximum.

Usage: python benchmarks/packed_speed.py [--share=0.1] [--key=value …]

Both train TIGER on the same random share of the training sequences, turn by turn in one process,
by the trainer's own step: equal weights, precision, optimizer and number of samples in a batch.
``bucketed`` is per-prefix training as this package does it: batches of similar length.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import numpy as np
import torch
from recbole.utils import init_seed

from recbole_sid import compat
from recbole_sid.generator import sequences as seq
from recbole_sid.memory import keep_freed_memory
from recbole_sid.parsing import parse_command_line
from recbole_sid.quick_start import checked_config, trainer_class
from recbole_sid.reading import read_data
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_data import TrainingData

ROUNDS = 3


def subset(sequences: seq.Sequences, share: float, seed: int) -> seq.Sequences:
    """A random share of the sequences."""
    n = len(sequences.users)
    chosen = np.sort(np.random.default_rng(seed).choice(n, round(n * share), replace=False))
    items = [sequences.items[sequences.offsets[i] : sequences.offsets[i + 1]] for i in chosen]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in items])])
    return seq.Sequences(
        np.concatenate(items), offsets, sequences.users[chosen], sequences.first_target[chosen]
    )


class Padded(TrainingData):
    """Single samples, each history padded to the whole window."""

    def epoch(self, epoch):
        for users, history, lengths, targets in super().epoch(epoch):
            width = self.window - history.shape[1]
            yield [users, torch.nn.functional.pad(history, (0, width)), lengths, targets]


def seconds(trainer: SIDTrainer, data: TrainingData, training: str) -> float:
    """One epoch over ``data``."""
    generator = trainer.model.generator
    generator.settings = dataclasses.replace(generator.settings, training=training)
    trainer.data = data
    start = time.perf_counter()
    trainer._train_epoch(None, 0)
    return time.perf_counter() - start


def main(arguments: list[str]) -> None:
    values, _ = parse_command_line(arguments)
    share = float(values.pop("share", 0.1))
    config = checked_config("TIGER", config_dict=values | {"show_progress": False})
    init_seed(config["seed"], config["reproducibility"])
    keep_freed_memory()
    _, (train, *_) = read_data(config)
    model = compat.get_model("TIGER")(config, train.dataset).to(config["device"])
    trainer = trainer_class(config)(config, model)
    trainer.save_state = False
    trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)

    ways = {"packed": TrainingData, "padded": Padded, "bucketed": TrainingData}
    data = {}
    for name, kind in ways.items():
        training = "packed" if name == "packed" else "prefix"
        model.generator.settings = dataclasses.replace(model.generator.settings, training=training)
        data[name] = kind(train.dataset, config, model)
        some = subset(data[name].sequences, share, config["seed"])
        data[name].sequences = some
        if name == "packed":
            data[name].windows = seq.windows(some, data[name].window, config["window_stride"])
    n_samples = data["packed"].sequences.n_targets
    print(f"{n_samples} samples, {torch.get_num_threads()} threads, {trainer.dtype}", flush=True)
    for _ in range(ROUNDS):
        taken = {
            name: round(seconds(trainer, part, "packed" if name == "packed" else "prefix"), 2)
            for name, part in data.items()
        }
        ratios = {name: round(taken[name] / taken["packed"], 2) for name in taken}
        print(json.dumps({"seconds": taken, "ratio": ratios}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
