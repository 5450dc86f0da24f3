"""Runs that are killed, at points spread over both stages, end as if nothing had happened."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recbole
from safetensors import safe_open
from safetensors.numpy import load_file

from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.sid.table import SemanticIDs
from tests.killing import Runs
from tests.runs import SAMPLED, SMALL

SETTINGS: dict[str, Any] = {
    **SMALL,
    "tokenizer": "rqvae",
    "tokenizer_levels": 2,
    "tokenizer_hidden_sizes": [16],
    "tokenizer_latent_dim": 8,
    "tokenizer_dropout": 0.1,
    "tokenizer_epochs": 5,
    "tokenizer_batch_size": 32,
    "tokenizer_restart_after": 2,
    "tokenizer_log_every": 1,
    "text_encoder_batch_size": 4,
    "train_batch_size": 128,
    "window_targets": 4,
    "learning_rate": 0.005,
    "dropout": 0.3,
    "epochs": 6,
    "history_tokens": "codes",
    "decoder_start": "learned",
    "softmax": "level",
    "stopping_step": 1,
}
TOKENIZER = "recbole_sid.tokenizer."
TRAINER = "recbole_sid.trainer:SIDTrainer."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("runs") / "log")
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings that read ml-100k, of which only the users that are used are left in the file."""
    whole = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    folder = tmp_path_factory.mktemp("data")
    (folder / "few").mkdir()
    shutil.copy(whole / "ml-100k.item", folder / "few" / "few.item")
    header, *rows = (whole / "ml-100k.inter").read_text().splitlines()
    count = Counter(row.split("\t")[0] for row in rows)
    kept = [row for row in rows if 20 <= count[row.split("\t")[0]] <= 30]
    (folder / "few" / "few.inter").write_text("\n".join([header, *kept]) + "\n")
    fields = read_yaml(resource_dir("dataset_configs") / "ml-100k.yaml")
    fields.pop("generative")
    return {**fields, "model": "TIGER", "dataset": "few", "data_path": str(folder), **SETTINGS}


@pytest.fixture(scope="module")
def undisturbed(runs: Runs, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that nobody killed, and its cache."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert runs.run({**data, **within(folder)}) == 0, runs.log.read_text()
    return folder


def within(folder: Path) -> dict[str, str]:
    return {"output": str(folder / "run"), "cache_dir": str(folder / "cache")}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tfevents" not in path.name
    }


def weights(folder: Path) -> dict[str, Any]:
    """The tensors as bytes and what is said of them; its order in the file is left to chance."""
    path = folder / "run" / "model.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    return metadata | {name: tensor.tobytes() for name, tensor in load_file(path).items()}


def last_epoch(folder: Path) -> int:
    log = (folder / "run" / "run.log").read_text()
    return max(int(epoch) for epoch in re.findall(r"epoch (\d+) training", log))


def assert_same(folder: Path, undisturbed: Path) -> None:
    ours, theirs = files(folder), files(undisturbed)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        if not name.endswith(("run.log", "timing.json", "config.yaml", "model.safetensors")):
            assert ours[name] == theirs[name], name
    assert weights(folder) == weights(undisturbed)
    assert last_epoch(folder) == last_epoch(undisturbed)


def test_the_undisturbed_run_is_worth_killing(undisturbed: Path) -> None:
    codes, *beside = sorted((undisturbed / "cache" / "codes").iterdir())
    names = [f"{codes.stem}.{what}" for what in ("space.safetensors", "timing.json")]
    assert [file.name for file in beside] == [*names, f"{codes.stem}.weights.safetensors"]
    assert (undisturbed / "run" / "tokenizer.safetensors").is_file()
    assert SemanticIDs.load(codes).provenance["report"]["restarted"] > 0
    # It improves at first and then stops early; processors differ in where. Counted from 0.
    best = int(weights(undisturbed)["epoch"])
    assert best >= 1
    assert last_epoch(undisturbed) == best + 2 < SETTINGS["epochs"]


# Where, at which call there, before or after it, and what the log says of the part that is kept.
WHILE_ENCODING = [  # 89 texts in parts of 32
    ("sentence_transformers:SentenceTransformer.encode", 3, "before", "resuming after 64 texts"),
    ("write text-*.training.pt", 2, "before", "resuming after 32 texts"),
    ("write text-*.safetensors", 1, "before", "resuming after 89 texts"),
]
WHILE_TOKENIZING = [  # 5 epochs of 3 batches
    (TOKENIZER + "rqvae:RQVAE.batches", 1, "before", None),
    (TOKENIZER + "quantizer:ResidualQuantizer.follow", 8, "after", "resuming after epoch 2"),
    ("write *.training.pt", 4, "before", "resuming after epoch 3"),
    ("write *.training.pt", 4, "after", "resuming after epoch 4"),
    ("write *.safetensors", 1, "before", "resuming after epoch 5"),
    ("write *.space.safetensors", 1, "after", "resuming after epoch 5"),
    ("write *.weights.safetensors", 1, "after", "resuming after epoch 5"),
    ("write *.timing.json", 1, "after", "resuming after epoch 5"),
    ("write *.safetensors", 3, "after", "SIDs from the cache"),
]
TESTING = -1  # the call that evaluates the test split: one comes before it for every epoch
WHILE_GENERATING = [  # two epochs or more that improve, two that do not, then an early stop
    ("write config.yaml", 1, "before", None),
    ("write config.yaml", 1, "after", None),
    ("write sids.json", 1, "before", None),
    (TRAINER + "_check_finite", 2, "before", None),
    (TRAINER + "_full_sort_batch_eval", 1, "before", None),
    ("write model.safetensors", 1, "after", None),
    ("write training.pt", 1, "before", None),
    ("write training.pt", 1, "after", "Resuming from epoch 1"),
    ("write model.safetensors", 2, "after", "Resuming from epoch 1"),
    ("write training.pt", 2, "before", "Resuming from epoch 1"),
    (TRAINER + "_valid_epoch", 3, "after", "Resuming from epoch 2"),
    (TRAINER + "_full_sort_batch_eval", TESTING, "after", "Resuming from epoch {last}"),
    ("write result.json", 1, "before", "Resuming from epoch {last}"),
    ("write result.json", 1, "after", None),
]


@pytest.mark.parametrize(
    ("cached", "where", "call", "when", "resumed"),
    [
        *(([], *point) for point in WHILE_ENCODING),
        *((["vectors"], *point) for point in WHILE_TOKENIZING),
        *((["vectors", "codes"], *point) for point in WHILE_GENERATING),
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(
    cached: list[str],
    where: str,
    call: int,
    when: str,
    resumed: str | None,
    runs: Runs,
    data: dict[str, Any],
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    here = {**data, **within(tmp_path)}
    for name in cached:
        shutil.copytree(undisturbed / "cache" / name, tmp_path / "cache" / name)
    last = last_epoch(undisturbed)
    at = last + 2 if call == TESTING else call
    assert runs.run(here, (where, at, when)) == -9, runs.log.read_text()
    assert runs.run({**here, "resume": True}) == 0, runs.log.read_text()
    assert_same(tmp_path, undisturbed)
    log = (tmp_path / "run" / "run.log").read_text()
    if resumed is None:
        assert "esuming" not in log
    else:
        assert resumed.format(last=last) in log


def test_candidates_drawn_for_validation_are_those_of_the_undisturbed_run(
    runs: Runs, data: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    for name in ("whole", "killed"):
        shutil.copytree(undisturbed / "cache", tmp_path / name / "cache")
    whole, killed = (
        {**data, **within(tmp_path / name), "eval_args": SAMPLED} for name in ("whole", "killed")
    )
    assert runs.run(whole) == 0, runs.log.read_text()
    assert runs.run(killed, ("write training.pt", 2, "after")) == -9
    assert runs.run({**killed, "resume": True}) == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")
