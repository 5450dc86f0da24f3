"""A training epoch in one process of one thread, in two of one thread each, in one of two threads.

Usage: python benchmarks/speed_two_processes.py [--model=TIGER] [--share=0.05] [--rounds=5]
       [--key=value …]

Every kind of process lives through the whole benchmark and trains by the trainer's own step on the
same random share of the training sequences. They take turns, so that all meet the same machine; the
first turn of each warms up. What is printed are seconds of an epoch on the wall, and the medians
with their ratio to one process of one thread. A machine that does other things says nothing here.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

KINDS = {
    "1 process, 1 thread": (1, 1),
    "2 processes, 1 thread": (2, 1),
    "1 process, 2 threads": (1, 2),
}
_WORKER = "--worker="


def work(values: dict[str, Any], share: float, threads: int) -> None:
    """Train an epoch for every line on standard input; the first process answers with seconds."""
    import torch
    from packed_speed import subset
    from recbole.utils import init_seed

    from recbole_sid import compat, distributed
    from recbole_sid.generator import sequences as seq
    from recbole_sid.memory import keep_freed_memory
    from recbole_sid.quick_start import checked_config, trainer_class
    from recbole_sid.reading import read_data
    from recbole_sid.training_data import TrainingData

    torch.set_num_threads(threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, distributed.joined() as world:
        config = checked_config(config_dict={**values, "output": folder, "show_progress": False})
        init_seed(config["seed"], config["reproducibility"])
        _, (train, *_) = read_data(config)
        network = compat.get_model(config["model"])(config, train.dataset)
        config["checkpoint_dir"] = folder
        trainer = trainer_class(config)(config, network)
        trainer.save_state = False
        trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)
        data = TrainingData(train.dataset, config, network)
        data.sequences = subset(data.sequences, share, config["seed"])
        if data.packs:
            data.windows = seq.windows(data.sequences, data.window, config["window_stride"])
            data.steps_per_epoch = seq.n_packed_batches(
                data.windows, data.batch_size, data.together
            )
        trainer.data = data
        world.agree(list(network.parameters()))
        epoch = 0
        while world.first(lambda: sys.stdin.readline() != ""):
            world.meet()
            start = time.perf_counter()
            loss = trainer._train_epoch(None, epoch)
            world.meet()
            epoch += 1
            answer = {"seconds": time.perf_counter() - start, "loss": loss}
            if world.leads:
                print(json.dumps(answer), flush=True)


class Kind:
    """The processes of one kind; the first of them is asked, and answers."""

    def __init__(self, processes: int, threads: int, arguments: list[str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = []
        for rank in range(processes):
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            if processes > 1:
                named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
                named |= {"LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
                environment |= {name: str(value) for name, value in named.items()}
                environment["MASTER_ADDR"] = "127.0.0.1"
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, f"{_WORKER}{threads}", *arguments],
                    stdin=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    env=environment,
                    text=True,
                )
            )

    def epoch(self) -> dict[str, float]:
        first = self.processes[0]
        assert first.stdin is not None
        assert first.stdout is not None
        print(file=first.stdin, flush=True)
        return json.loads(first.stdout.readline())

    def close(self) -> None:
        first = self.processes[0]
        assert first.stdin is not None
        first.stdin.close()
        for process in self.processes:
            process.wait()


def main(arguments: list[str]) -> None:
    from recbole_sid.parsing import parse_command_line

    threads = None
    if arguments and arguments[0].startswith(_WORKER):
        threads = int(arguments[0].removeprefix(_WORKER))
    values, _ = parse_command_line(arguments if threads is None else arguments[1:])
    values.setdefault("model", "TIGER")
    share, rounds = float(values.pop("share", 0.05)), int(values.pop("rounds", 5))
    if threads is not None:
        work(values, share, threads)
        return
    kinds = {name: Kind(*kind, arguments) for name, kind in KINDS.items()}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        answers = {name: kind.epoch() for name, kind in kinds.items()}
        print(json.dumps({"turn": turn, "load": os.getloadavg()[0], **answers}), flush=True)
        for name, answer in answers.items():
            taken[name] += [answer["seconds"]] if turn else []
    for kind in kinds.values():
        kind.close()
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    alone = next(iter(medians.values()))
    print("| kind | seconds an epoch | times as fast |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {alone / median:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
