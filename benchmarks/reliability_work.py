"""Finished and unfinished work on a small data set, and every command that reads files of it.

For the measurements of reliability: ``reliability_corrupt.py`` and ``reliability_pickles.py``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import recbole_sid
from recbole_sid import checkpoint, run_folder
from recbole_sid.comparison.outcomes import load_outcomes
from recbole_sid.errors import InputError
from recbole_sid.inference import evaluate, recommend
from recbole_sid.items import encoder
from recbole_sid.page.report import report
from recbole_sid.serving.append import append
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.export import export
from recbole_sid.tokenizer.rqvae import RQVAE
from recbole_sid.tokenizing import tokenize
from recbole_sid.trainer import SIDTrainer
from recbole_sid.tuning import hyper_tuning
from recbole_sid.tuning.journal import Record
from recbole_sid.tuning.tune import tune

N_USERS, N_ITEMS = 24, 40
SETTINGS: dict[str, Any] = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "show_progress": False,
    "epochs": 3,
    "eval_step": 1,
    "tokenizer": "rqvae",
    "tokenizer_levels": 2,
    "tokenizer_codebook_size": 8,
    "tokenizer_epochs": 4,
    "collision": "nearest_free",
    "hidden_size": 16,
    "inner_size": 16,
    "n_heads": 2,
    "head_size": 8,
    "beam_size": 10,
    "precision": "float32",
    "MAX_ITEM_LIST_LENGTH": 5,
    "item_text_fields": ["title"],
}
TIGER: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1}
INTRR: dict[str, Any] = {
    "layers": 1,
    "codebook_inner_size": 8,
    "content_vectors": True,
    "item_embedding": False,
    "available_from_field": "since",
}
HISTORIES = {"u1": ["i3", "i4", "i5"], "u2": ["i9", "i1", "i20", "i7"]}


class _Killed(BaseException):
    """Stands for a kill."""


class Target(NamedTuple):
    """A folder of files, and what reads it: each reader gives something to compare."""

    folder: str
    readers: tuple[Callable[[Path], Any], ...]


class Work:
    """All of it, below one folder. ``make`` needs a minute; ``targets`` say what can be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = {"data_path": str(root / "data"), "dataset": "made"}
        self.scratch = root / "scratch"

    @property
    def targets(self) -> list[Target]:
        return [
            Target("run", (self.recommend, self.again, self.append, self.evaluate, self.page)),
            Target("vectors-run", (self.recommend, self.outcomes)),
            Target("half-run", (self.resume,)),
            Target("export", (self.recommend, self.append)),
            Target("cache", (self.tokenize,)),
            Target("half-cache", (self.tokenize,)),
            Target("search", (self.tune,)),
        ]

    def settings(self, **changes: Any) -> dict[str, Any]:
        """For models of ours."""
        return {**SETTINGS, **self.data, "cache_dir": str(self.root / "cache"), **changes}

    def stock(self, **changes: Any) -> dict[str, Any]:
        """For models of RecBole."""
        common = {key: SETTINGS[key] for key in ("load_col", "show_progress", "eval_step")}
        return {**common, **self.data, **changes}

    def make(self) -> None:
        """Train, interrupt, export and search."""
        self._write_data()
        with random_vectors():
            self._run("TIGER", "run", TIGER)
            self._run("IntRR", "vectors-run", INTRR)
            export(self.root / "vectors-run", self.root / "export")
            with stopped(SIDTrainer, "_valid_epoch", 3):
                self._run("TIGER", "half-run", TIGER)
            with every_state_kept(), stopped(RQVAE, "batches", 4):
                self.tokenize(self.root / "half-cache")
            self.tune(self.root / "search")

    def _run(self, model: str, name: str, changes: dict[str, Any], **more: Any) -> dict[str, Any]:
        with contextlib.suppress(_Killed):
            return recbole_sid.run(
                model, config_dict=self.settings(output=str(self.root / name), **changes, **more)
            )
        return {}

    def _write_data(self) -> None:
        rng = np.random.default_rng(0)
        data = self.root / "data" / "made"
        data.mkdir(parents=True)
        rows = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user in range(N_USERS):
            chosen = rng.permutation(N_ITEMS)[: 6 + user % 8]
            rows += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(chosen)]
        rows += [f"all\ti{item}\t{item}" for item in range(N_ITEMS)]
        (data / "made.inter").write_text("\n".join(rows) + "\n")
        head = "item_id:token\ttitle:token_seq\tsince:float"
        items = [f"i{item}\tThing number {item}\t{item % 3}" for item in range(N_ITEMS)]
        (data / "made.item").write_text("\n".join([head, *items]) + "\n")
        new = [f"n{item}\tA new thing {item}\t1" for item in range(4)]
        (self.root / "new.item").write_text("\n".join([head, *new]) + "\n")

    # -- what reads it ----------------------------------------------------------------------------

    def recommend(self, folder: Path) -> Any:
        lists = recommend(folder, HISTORIES, 5, show_progress=False)
        return [(each.user, each.items, each.scores.tobytes()) for each in lists]

    def again(self, folder: Path) -> Any:
        return recbole_sid.run("TIGER", config_dict=self.settings(output=str(folder), **TIGER))

    def resume(self, folder: Path) -> Any:
        result = recbole_sid.run(
            "TIGER", config_dict=self.settings(output=str(folder), resume=True, **TIGER)
        )
        weights = (folder / run_folder.WEIGHTS).read_bytes()
        return {k: v for k, v in result.items() if k not in ("run_folder", "timing")}, weights

    def append(self, folder: Path) -> Any:
        output = self.scratch / "appended"
        shutil.rmtree(output, ignore_errors=True)
        told = append(
            folder, self.root / "new.item", output,
            cache_dir=str(self.root / "cache"), show_progress=False,
        )  # fmt: skip
        bundle = open_bundle(output)
        weights = {k: v.numpy().tobytes() for k, v in bundle.generator.state_dict().items()}
        kept = {k: v for k, v in told.items() if "second" not in k}
        return kept, bundle.sids.fingerprint(), weights, bundle.columns

    def evaluate(self, folder: Path) -> Any:
        found = evaluate(folder, show_progress=False)
        return {k: v for k, v in found.items() if k != "run_folder"}

    def page(self, folder: Path) -> Any:
        page = self.scratch / "page.html"
        report([folder], page, overwrite=True)
        text = page.read_text(encoding="utf-8")
        # The page names a file that it cannot use, and what it leaves out for it.
        if "checksum" in text or "does not hold" in text:
            raise InputError("the page says which file is damaged")
        return text

    def outcomes(self, folder: Path) -> Any:
        found = load_outcomes(folder / run_folder.OUTCOMES)
        return [value if isinstance(value, tuple) else value.tobytes()
                for value in vars(found).values()]  # fmt: skip

    def tokenize(self, cache: Path) -> Any:
        output = self.scratch / "tokenized"
        shutil.rmtree(output, ignore_errors=True)
        with contextlib.suppress(_Killed):
            tokenize(
                config_dict=self.settings(
                    cache_dir=str(cache),
                    output=str(output),
                    retrieval=False,
                    model="TIGER",
                    **TIGER,
                )
            )
            names = (run_folder.RESULT, run_folder.SIDS, run_folder.TOKENIZER)
            return [(output / name).read_bytes() for name in names]

    def tune(self, folder: Path) -> Any:
        space = self.root / "made.test"
        space.write_text("learning_rate choice [0.01, 0.02]\n")
        changes: dict[str, Any] = {"output": str(folder), "max_trials": 2, **TIGER}
        with mock.patch.object(hyper_tuning, "execute", _trial):
            return tune("TIGER", space=space, config_dict=self.settings(**changes))


def _trial(job: Any, on_evaluation: Callable[[dict[str, Any]], object]) -> Record:
    score = job.params["learning_rate"]
    on_evaluation({"epoch": 0, "current": score})
    return Record(
        job.trial, job.params, "finished", score, {"ndcg@10": score}, [[0, score]], seconds=1.0
    )


@contextlib.contextmanager
def random_vectors() -> Iterator[None]:
    """Texts get random vectors: what counts here is the file that keeps them."""

    def run(texts: list[str], *_: Any) -> np.ndarray:
        seeds = [sum(text.encode()) * 1000 + len(text) for text in texts]
        return np.stack([np.random.default_rng(s).normal(size=12) for s in seeds]).astype("f4")

    with mock.patch.object(encoder, "_run_model", run):
        yield


@contextlib.contextmanager
def every_state_kept() -> Iterator[None]:
    with (
        mock.patch.object(checkpoint, "PAUSE", 0),
        mock.patch.object(checkpoint, "PAUSE_PER_SECOND_OF_WRITING", 0),
    ):
        yield


@contextlib.contextmanager
def stopped(owner: type, name: str, call: int) -> Iterator[None]:
    """The process is as if killed at the given call of a method."""
    seen = 0
    function = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call:
            raise _Killed
        return function(*args, **kwargs)

    with mock.patch.object(owner, name, wrapped):
        yield
