"""Every long command on 60 users of MovieLens, and what must be the same whenever it is done again.

For the measurements of reliability: ``reliability_kill.py`` and ``reliability_concurrent.py``.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import recbole
import yaml

from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir

N_USERS = 60
NAME = "few"
COMMON: dict[str, Any] = {
    "item_inter_num_interval": "[4,inf)",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "show_progress": False,
    "hidden_size": 16,
    "inner_size": 16,
    "n_heads": 2,
    "head_size": 8,
    "beam_size": 10,
    "eval_step": 1,
    "warmup_steps": 5,
    "precision": "float32",
    "dropout": 0.3,
    "learning_rate": 0.005,
    "train_batch_size": 128,
    "epochs": 5,
    "stopping_step": 2,
    "text_encoder_batch_size": 4,
    "tokenizer_levels": 2,
    "tokenizer_codebook_size": 8,
}
TIGER: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "window_targets": 4}
AUTOENCODER: dict[str, Any] = {
    "tokenizer_hidden_sizes": [16],
    "tokenizer_latent_dim": 8,
    "tokenizer_dropout": 0.1,
    "tokenizer_epochs": 5,
    "tokenizer_batch_size": 32,
    "tokenizer_restart_after": 2,
}
# What only these models say; the folder of UniSID's backbone is added.
MODELS: dict[str, dict[str, Any]] = {
    "TIGER": {**TIGER, **AUTOENCODER, "tokenizer": "rqvae"},
    "QuaSID": {**TIGER, **AUTOENCODER},
    "UniSID": {
        **TIGER,
        "tokenizer_epochs": 4,
        "tokenizer_batch_size": 32,
        "tokenizer_embedding_dim": 6,
        "tokenizer_precision": "float32",
        "tokenizer_granularity_min_categories": 1,
        "schema_max_length": 40,
    },
    "IntRR": {"layers": 1, "codebook_inner_size": 8, "content_vectors": True},
}
WORLD = ("--items=120", "--users=60", "--events=4000", "--days=6", "--seed=1")
# Of no two runs the same: logs, times, and settings that say whether a run was resumed.
_LEFT_OUT = (".lock", "run.log", "*/logs/*", "*.log", "*tfevents*", "timing.json", "config.yaml",
             "comparison.md", "comparison.csv", "comparison.tex")  # fmt: skip
_TIMED = ("comparison.json", "append_report.json", "trials/*.json")
_TIMES = {"seal", "seconds", "items_per_second", "peak_memory_mb", "test_ms_per_user"}
_TIMES |= {"tokenize_seconds", "train_seconds"}


class Command(NamedTuple):
    """A command: its arguments, whose outputs and cache are relative to the working folder.

    ``resume``: whether it has ``--resume``; all others go on, or begin anew, by themselves.
    """

    name: str
    arguments: tuple[str, ...]
    resume: bool = False

    def again(self) -> tuple[str, ...]:
        """What is typed after it was killed."""
        return (*self.arguments, "--resume=True") if self.resume else self.arguments


class Commands:
    """All commands; their inputs lie below ``root``, and finished work in ``root/undisturbed``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        """Write data set, settings and small language models."""
        data = self.root / "data" / NAME
        data.mkdir(parents=True)
        whole = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
        header, *rows = (whole / "ml-100k.inter").read_text().splitlines()
        count = Counter(row.split("\t")[0] for row in rows)
        users = [user for user, n in sorted(count.items()) if 20 <= n <= 30][:N_USERS]
        kept = [row for row in rows if row.split("\t")[0] in users]
        (data / f"{NAME}.inter").write_text("\n".join([header, *kept]) + "\n")
        items = (whole / "ml-100k.item").read_text()
        (data / f"{NAME}.item").write_text(items)
        head, *lines = items.splitlines()
        new = [f"new{line}" for line in lines[:12]]
        (self.root / "new.item").write_text("\n".join([head, *new]) + "\n")
        self._write_models(items)
        fields = read_yaml(resource_dir("dataset_configs") / "ml-100k.yaml")
        fields.pop("generative")
        shared = {**fields, "dataset": NAME, "data_path": str(self.root / "data"), **COMMON}
        backbone = {"tokenizer_backbone": str(self.root / "bert")}
        for name, own in MODELS.items():
            own = own | backbone if name == "UniSID" else own
            self._write(name, {**shared, "model": name, **own})
        self._write("of-all", shared)
        self._write("compare", {"all": shared, "models": {
            "TIGER": MODELS["TIGER"], "IntRR": MODELS["IntRR"]}})  # fmt: skip
        (self.root / "space.test").write_text("learning_rate choice [0.002, 0.005]\n")

    def _write(self, name: str, values: dict[str, Any]) -> None:
        (self.root / f"{name}.yaml").write_text(yaml.safe_dump(values))

    def _write_models(self, text: str) -> None:
        """An encoder for UniSID and a language model for summaries; weights are random."""
        import torch
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace
        from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
        from transformers import PreTrainedTokenizerFast as Fast

        found = Whitespace().pre_tokenize_str(text)
        words = ["[PAD]", "[UNK]", "[SEP]", *sorted({word for word, _ in found})]
        torch.manual_seed(0)
        bert = BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=64, initializer_range=0.3,
        )  # fmt: skip
        gpt2 = GPT2Config(
            vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=256,
            bos_token_id=2, eos_token_id=2, initializer_range=0.3,
        )  # fmt: skip
        models = {"bert": BertModel(bert), "gpt2": GPT2LMHeadModel(gpt2)}
        for name, model in models.items():
            model.save_pretrained(self.root / name)
            of_words = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
            of_words.pre_tokenizer = Whitespace()
            special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
            Fast(tokenizer_object=of_words, **special).save_pretrained(self.root / name)

    def all(self) -> dict[str, Command]:
        """By name, in an order in which each finds the finished work that it reads."""
        run = self.root / "undisturbed" / "TIGER" / "out"
        world = self.root / "undisturbed" / "make-ads" / "out"
        out, cache, hidden = "--output=out", "--cache_dir=cache", "--show_progress=False"

        def settings(name: str) -> str:
            return f"--config_files={self.root / name}.yaml"

        found = [
            *(Command(name, ("run", settings(name), out, cache), True) for name in MODELS),
            Command("tokenize", ("tokenize", settings("TIGER"), out, cache)),
            Command("export", ("export", f"--run={run}", out)),
            Command("append", ("append", f"--run={run}", f"--items={self.root / 'new.item'}",
                               out, cache, hidden)),
            Command("summarize", ("summarize", settings("of-all"), f"--dataset={NAME}",
                                  "--model=TIGER", "--output=out.item",
                                  f"--summary_model={self.root / 'gpt2'}",
                                  "--summary_max_tokens=4")),
            Command("make-ads", ("make-ads", out, *WORLD, "--progress=False",
                                 "--image_dimensions=4")),
            Command("prepare", ("prepare", f"--mapping={world / 'synthetic-ads.yaml'}", out)),
            Command("tune", ("tune", settings("TIGER"), f"--space={self.root / 'space.test'}",
                             "--max_trials=2", "--algo=exhaustive", out, cache, hidden)),
            Command("compare", ("compare", "--models=TIGER,IntRR", "--seeds=1", "--resamples=100",
                                f"--settings={self.root / 'compare.yaml'}", out, cache, hidden)),
        ]  # fmt: skip
        return {command.name: command for command in found}


def result_of(folder: Path) -> dict[str, Any]:
    """Every file that a command left in its working folder, but for what says how long it took."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or any(fnmatch(f"/{name}", f"*/{what}") for what in _LEFT_OUT):
            continue
        found[name] = path.read_bytes()
        if any(fnmatch(name, f"*{what}") for what in _TIMED):
            found[name] = _without_times(json.loads(path.read_text()))
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in _TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def emptied(folder: Path) -> Path:
    """A working folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
