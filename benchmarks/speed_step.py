"""A training step's time beside the matrix products that the processor does in it, in one run.

Usage: python benchmarks/speed_step.py [--share=0.05] [--threads=1] [--precision=bf16] [--key=value]

For TIGER and IntRR, each with its defaults: the packed step's time and its counted floating-point
operations; the peak rate of matrix products at 2048^3; and the time of the step's own products
alone, each of its shapes run again with the operands' type. Times are process CPU time over the
number of threads, medians of five rounds, taken in turn; other programs on the machine disturb them
less than the clock on the wall.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable

import torch
from packed_speed import subset
from recbole.utils import init_seed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from recbole_sid import compat
from recbole_sid.generator import sequences as seq
from recbole_sid.memory import keep_freed_memory
from recbole_sid.parsing import parse_command_line
from recbole_sid.quick_start import checked_config, trainer_class
from recbole_sid.reading import read_data
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_data import TrainingData

ROUNDS = 5
MODELS = ("TIGER", "IntRR")
ROW = ("model", "threads", "step_ms", "products_ms", "gflops", "peak_gflops_2048", "share_of_peak")
PRODUCTS = ("aten.mm.default", "aten.addmm.default", "aten.bmm.default")


class Recorded:
    """Training data that is drawn once, so that every round has the same batches."""

    def __init__(self, data: TrainingData):
        self.batches = list(data.epoch(0))
        self.steps_per_epoch = len(self.batches)

    def epoch(self, epoch: int):
        return iter(self.batches)


class Products(TorchDispatchMode):
    """Counts the shapes of matrix products, and the type they are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) in PRODUCTS:
            a, b = args[1:] if "addmm" in str(func) else args
            self.shapes[tuple(a.shape), tuple(b.shape), a.dtype] += 1
        return func(*args, **(kwargs or {}))


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds over the number of threads."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / torch.get_num_threads()


def a_trainer(model: str, values: dict, share: float) -> SIDTrainer:
    """A trainer whose data are a random share of the training sequences."""
    config = checked_config(model, config_dict=values | {"show_progress": False})
    init_seed(config["seed"], config["reproducibility"])
    _, (train, *_) = read_data(config)
    network = compat.get_model(model)(config, train.dataset).to(config["device"])
    trainer = trainer_class(config)(config, network)
    trainer.save_state = False
    trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)
    data = TrainingData(train.dataset, config, network)
    some = subset(data.sequences, share, config["seed"])
    data.sequences = some
    data.windows = seq.windows(some, data.window, config["window_stride"])
    trainer.data = Recorded(data)
    return trainer


def gemm_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations a second of one large product, in 10^9."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    a @ b
    taken = statistics.median(seconds(lambda: a @ b) for _ in range(ROUNDS))
    return 2 * size**3 / taken / 1e9


def products_of(trainer: SIDTrainer) -> tuple[list, int]:
    """Operands of every product of one pass with how often it is taken, and its operations."""
    with Products() as products, FlopCounterMode(display=False) as flops:
        trainer._train_epoch(None, 0)
    operands = [
        (torch.randn(a).to(dtype), torch.randn(b).to(dtype), n)
        for (a, b, dtype), n in products.shapes.items()
    ]
    return operands, flops.get_total_flops()


def multiply(operands: list) -> None:
    for a, b, times in operands:
        for _ in range(times):
            a @ b


def measure(trainer: SIDTrainer, model: str) -> dict:
    trainer._train_epoch(None, 0)
    operands, operations = products_of(trainer)
    multiply(operands)
    steps = trainer.data.steps_per_epoch
    rounds = [
        (
            seconds(lambda: trainer._train_epoch(None, 0)),
            seconds(lambda: multiply(operands)),
            gemm_rate(trainer.dtype),
        )
        for _ in range(ROUNDS)
    ]
    step, products, peak = (statistics.median(values) for values in zip(*rounds, strict=True))
    rate = operations / step / 1e9
    return {
        "model": model,
        "threads": torch.get_num_threads(),
        "precision": str(trainer.dtype).removeprefix("torch."),
        "steps": steps,
        "step_ms": round(step / steps * 1e3, 1),
        "products_ms": round(products / steps * 1e3, 1),
        "gflop_per_step": round(operations / steps / 1e9, 2),
        "gflops": round(rate, 1),
        "peak_gflops_2048": round(peak, 1),
        "own_shapes_gflops": round(operations / products / 1e9, 1),
        "share_of_peak": round(rate / peak, 4),
        "share_of_own_shapes": round(products / step, 4),
    }


def main(arguments: list[str]) -> None:
    values, _ = parse_command_line(arguments)
    share = float(values.pop("share", 0.05))
    torch.set_num_threads(int(values.pop("threads", 1)))
    values.setdefault("precision", "bf16")
    keep_freed_memory()
    for model in MODELS:
        result = measure(a_trainer(model, dict(values), share), model)
        print(json.dumps(result), flush=True)
        print("| " + " | ".join(str(result[cell]) for cell in ROW) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
