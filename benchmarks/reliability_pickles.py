"""A pickle that leaves a marker when it is read, in the place of every file that a command reads.

``PYTHONPATH=. python benchmarks/reliability_pickles.py``

Four kinds: a bare pickle and torch's archive, each also with a seal that fits, as an attacker would
write it. RecBole reads pickles of the right name in the folder of checkpoints; these are put into
the folder of a run that starts, of ours and of RecBole's models. The marker must never appear.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reliability_corrupt import fresh
from reliability_work import TIGER, Work, random_vectors

import recbole_sid
from recbole_sid import seals
from recbole_sid.checkpoint import save_state
from recbole_sid.errors import InputError

KINDS = ("pickle", "sealed pickle", "archive", "sealed archive")
# Names under which RecBole looks for its pickles, in the folder of checkpoints.
RECBOLE = (
    "made-SequentialDataset.pth", "made-Dataset.pth",
    "made-for-TIGER-dataloader.pth", "made-for-Pop-dataloader.pth",
)  # fmt: skip


class Marker:
    """Makes the folder ``path`` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.mkdir, (self.path, 0o777, True, True)


def plant(path: Path, kind: str, marker: Path) -> None:
    """Write the pickle to ``path``."""
    if kind == "archive":
        torch.save({"state": Marker(marker)}, path)
    elif kind == "sealed archive":
        save_state(path, {"state": Marker(marker)})
    else:
        content = pickle.dumps(Marker(marker))
        path.write_bytes(content)
        if kind == "sealed pickle":
            with seals.written_sealed(path) as temporary:
                temporary.write_bytes(content + seals.blank().encode())


def check_marker(folder: Path) -> None:
    """The marker appears where the pickles are read: else nothing would be shown."""
    for kind in KINDS:
        marker, file = folder / f"marker {kind}", folder / "planted"
        plant(file, kind, marker)
        with file.open("rb") as opened:
            if "archive" in kind:
                torch.load(opened, weights_only=False)
            else:
                pickle.load(opened)
        assert marker.is_dir(), kind


def attempts(work: Work, marker: Path) -> Counter[str]:
    """Plant each kind in each place and run what reads it; how the commands took it."""
    told: Counter[str] = Counter()
    here = work.root / "planted"

    def attempt(what: str, reader: Callable[[], Any]) -> None:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                reader()
            told["not read"] += 1
        except InputError:
            told["error"] += 1
        except Exception as error:
            told["crash"] += 1
            print(f"crash: {what}: {type(error).__name__}: {error}")
        if marker.exists():
            told["ran"] += 1
            print(f"RAN: {what}")
            marker.rmdir()

    for target in work.targets:
        pristine = work.root / target.folder
        for file in sorted(path for path in pristine.rglob("*") if path.is_file()):
            name = file.relative_to(pristine)
            for kind in KINDS:
                fresh(pristine, here)
                plant(here / name, kind, marker)
                for reader in target.readers:
                    attempt(f"{kind} as {target.folder}/{name}", partial(reader, here))
    for kind in KINDS:
        for model in ("TIGER", "Pop"):
            fresh(work.root / "data", here)
            for cached in RECBOLE:
                plant(here / cached, kind, marker)
            ours: dict[str, Any] = {"output": str(here), "epochs": 1}
            given = work.settings(**ours, **TIGER) if model == "TIGER" else work.stock(**ours)
            attempt(f"{kind} for RecBole, {model}", partial(_run, model, given))
        for suffix in (".npy", ".safetensors", ".json"):
            file = work.root / f"own{suffix}"
            plant(file, kind, marker)
            given = work.settings(output=str(here / "own"), **TIGER)
            if suffix != ".json":
                ids = work.root / "own.txt"
                ids.write_text("i1\n")
                own = {"item_embedding_file": str(file), "item_embedding_ids": str(ids)}
                attempt(f"{kind} as vectors{suffix}", partial(_run, "TIGER", given | own))
            if suffix != ".npy":
                given = {k: v for k, v in given.items() if not k.startswith("tokenizer")}
                given |= {"tokenizer": "file", "sid_file": str(file), "collision": "none"}
                attempt(f"{kind} as SIDs{suffix}", partial(_run, "TIGER", given))
    return told


def _run(model: str, settings: dict[str, Any]) -> None:
    recbole_sid.run(model, config_dict=settings)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, random_vectors():
        check_marker(Path(folder))
        work = Work(Path(folder) / "work")
        with contextlib.redirect_stderr(io.StringIO()):
            work.make()
        told = attempts(work, Path(folder) / "marker")
    ran = told.pop("ran", 0)
    print(f"{told.total()} attempts in {time.perf_counter() - began:.0f} s: {dict(told)}")
    print(f"the marker appeared {ran} times")


if __name__ == "__main__":
    main()
