"""What the repulsion adds to an epoch of the tokenizer ``rqvae`` in batches of 2,048 items.

Usage: python benchmarks/repulsion_cost.py [--rounds=5] [--items=12101] [--dimensions=384]

Trainings of a few epochs with and without it take turns in one process, equal but for that one
setting. Seconds are of the processor, on one thread, so that other programs count little. The
vectors are synthetic, with a spectrum that decays as that of texts does; the default size is that
of Amazon Beauty under all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.rqvae import RQVAE, RQVAESettings

EPOCHS = 6
ROWS = 2048


class Timed(RQVAE):
    """Notes when each epoch begins."""

    def __init__(self, settings: RQVAESettings) -> None:
        self.begins: list[float] = []
        super().__init__(settings, seed=0, device=torch.device("cpu"), progress=False)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.begins.append(time.process_time())

    def seconds(self, items: Items) -> list[float]:
        """Of each epoch but the last, at whose end the codes are looked at."""
        self.begins.clear()
        self.fit(items)
        return [end - begin for begin, end in zip(self.begins, self.begins[1:], strict=False)]


def synthetic(n_items: int, dimensions: int) -> Items:
    rng = np.random.RandomState(0)
    spread = np.arange(1, dimensions + 1) ** -0.5
    vectors = spread * rng.standard_t(5, size=(n_items, dimensions))
    return Items(tuple(f"item{row}" for row in range(n_items)), vectors.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--dimensions", type=int, default=384)
    given = parser.parse_args()
    torch.set_num_threads(1)
    values = read_yaml(resource_dir("properties") / "tokenizer" / "rqvae.yaml")
    for name, value in (("epochs", EPOCHS), ("log_every", EPOCHS), ("batch_size", ROWS)):
        values[RQVAE.prefix + name] = value
    items = synthetic(given.items, given.dimensions)
    seconds: dict[str, list[float]] = {"none": [], "hamr": []}
    for _ in range(given.rounds):
        for name, found in seconds.items():
            chosen = values | {"tokenizer_repulsion": name}
            found += Timed(build(RQVAESettings, chosen, RQVAE.prefix)).seconds(items)
            print(f"{name}: {statistics.median(found):.3f} s an epoch", flush=True)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"with / without: {medians['hamr'] / medians['none']:.3f} (medians)")
    print(f"with / without: {min(seconds['hamr']) / min(seconds['none']):.3f} (fastest epochs)")


if __name__ == "__main__":
    main()
