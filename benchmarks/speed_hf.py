"""TIGER of this package against transformers' T5 of the same size: a training epoch, and decoding.

Usage: python benchmarks/speed_hf.py [--share=0.02] [--threads=1] [--rounds=5] [--users=64]
[--parts=train,decode] [--key=value …]

Training. T5 as others train it for generative retrieval: one sample a prefix, every history padded
to MAX_ITEM_LIST_LENGTH items of L codes and an end, batches of 256. Ours: packed, at T5's width,
depth and heads, once with codes and once with items as the history's tokens. Both take the same
random share of the training sequences; a whole epoch is extrapolated by the number of samples
(T5) and of windows' targets (ours), which are the same. A round is one random batch of T5 and one
pass over the share of ours, in turn.

Decoding. 20 beams over histories of the test split: ours against ``generate``, without and with
``prefix_allowed_tokens_fn`` over a trie of dicts. The weights are random and not the same: the
networks differ in T5's relative biases and one head a level. Lists of ours hold legal items only.

Times are process CPU time over the number of threads, medians of the rounds after one to warm up.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Iterator

import torch
from packed_speed import subset
from recbole.utils import init_seed
from speed_step import Recorded, seconds
from transformers import T5Config, T5ForConditionalGeneration

from recbole_sid import compat
from recbole_sid.generator import sequences as seq
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.memory import keep_freed_memory
from recbole_sid.parsing import parse_command_line
from recbole_sid.quick_start import checked_config, trainer_class
from recbole_sid.reading import read_data
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_data import TrainingData

SIZE = {
    "hidden_size": 128,
    "inner_size": 1024,
    "n_heads": 6,
    "head_size": 64,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "dropout": 0.1,
}
BATCH = 256
BEAMS = 20
PAD, END = 0, 1
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def t5(n_tokens: int) -> T5ForConditionalGeneration:
    """A T5 of ``SIZE`` over ``n_tokens`` tokens; its decoder starts from the padding."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=n_tokens,
            d_model=SIZE["hidden_size"],
            d_ff=SIZE["inner_size"],
            d_kv=SIZE["head_size"],
            num_heads=SIZE["n_heads"],
            num_layers=SIZE["encoder_layers"],
            num_decoder_layers=SIZE["decoder_layers"],
            dropout_rate=SIZE["dropout"],
            pad_token_id=PAD,
            eos_token_id=END,
            decoder_start_token_id=PAD,
        )
    )


class Tokens:
    """Items as T5's tokens: 0 the padding, 1 the end, then the catalogue's own."""

    def __init__(self, catalogue: Catalogue, window: int):
        self.of_item = torch.where(catalogue.tokens > 0, catalogue.tokens + 1, PAD)
        self.n_tokens = catalogue.n_tokens + 1
        self.length = window * catalogue.n_levels + 1  # and the end

    def inputs(self, history: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """Histories (B, T), left aligned, padded to the whole window, with their mask."""
        codes = self.of_item[history].flatten(1)  # (B, T * L)
        ids = codes.new_full((len(codes), self.length), PAD)
        ids[:, : codes.shape[1]] = codes
        ids.scatter_(1, (lengths * self.of_item.shape[1])[:, None], END)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

    def labels(self, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(self.of_item[targets], (0, 1), value=END)

    def allowed(self, catalogue: Catalogue):
        """The callback of ``generate``: what may follow a prefix, from a dict of all prefixes."""
        following: dict[tuple[int, ...], set[int]] = {}
        for item in self.of_item[1 : catalogue.n_items + 1].tolist():
            for level, token in enumerate([*item, END]):
                following.setdefault(tuple(item[:level]), set()).add(token)
        lists = {prefix: sorted(tokens) for prefix, tokens in following.items()}
        return lambda batch, sent: lists.get(tuple(sent.tolist()[1:]), [END])


def a_trainer(values: dict, history_tokens: str) -> tuple[SIDTrainer, tuple]:
    settings = {"show_progress": False, "history_tokens": history_tokens, "train_batch_size": BATCH}
    config = checked_config("TIGER", config_dict=values | SIZE | settings)
    init_seed(config["seed"], config["reproducibility"])
    _, loaders = read_data(config)
    model = compat.get_model("TIGER")(config, loaders[0].dataset).to(config["device"])
    trainer = trainer_class(config)(config, model)
    trainer.save_state = False
    trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)
    return trainer, loaders


def train(values: dict, share: float, rounds: int) -> Iterator[dict]:
    """One result a precision and kind of history token of ours."""
    trainers = {kind: a_trainer(values, kind) for kind in ("codes", "items")}
    first, loaders = trainers["codes"]
    config, model = first.config, first.model
    whole = TrainingData(loaders[0].dataset, config, model)
    n_samples = whole.sequences.n_targets
    some = subset(whole.sequences, share, config["seed"])
    whole.sequences, whole.windows = some, seq.windows(some, whole.window, config["window_stride"])
    ours = Recorded(whole)
    tokens = Tokens(model.generator.catalogue, whole.window)
    network = t5(tokens.n_tokens).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    whole.packs = False
    batches = [batch for batch in whole.epoch(0) if len(batch[0])]
    joined = _joined(batches)
    t5_float32 = 0.0
    for name, dtype in DTYPES.items():
        taken: dict[str, list[float]] = {"t5": [], "codes": [], "items": []}
        for number in range(rounds + 1):
            rows = torch.randint(len(joined[2]), (BATCH,))
            _, history, lengths, targets = (part[rows] for part in joined)

            def step(history=history, lengths=lengths, targets=targets, dtype=dtype) -> None:
                inputs = tokens.inputs(history, lengths)
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    loss = network(**inputs, labels=tokens.labels(targets)).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            a_round = {"t5": seconds(step) / BATCH * n_samples}
            for kind, (trainer, _) in trainers.items():
                trainer.dtype, trainer.data = dtype, ours
                passed = seconds(lambda trainer=trainer: trainer._train_epoch(None, 0))
                a_round[kind] = passed / some.n_targets * n_samples
            if number:  # the first one warms up
                for key, value in a_round.items():
                    taken[key].append(value)
        medians = {key: statistics.median(value) for key, value in taken.items()}
        t5_float32 = t5_float32 or medians["t5"]  # float32 is measured first
        for kind in trainers:
            yield {
                "part": "train",
                "precision": name,
                "history_tokens": kind,
                "t5_epoch_s": round(medians["t5"], 1),
                "ours_epoch_s": round(medians[kind], 1),
                "ratio": round(medians["t5"] / medians[kind], 1),
                "ratio_to_t5_in_float32": round(t5_float32 / medians[kind], 1),
                "ratio_each_round": _ratios(taken["t5"], taken[kind]),
                "samples_of_epoch": n_samples,
                "samples_measured": {"t5": BATCH, "ours": some.n_targets},
                "parameters": {"t5": _size(network), "ours": _size(trainers[kind][0].model)},
            }


def decode(values: dict, n_users: int, rounds: int) -> Iterator[dict]:
    """One result a way to constrain ``generate``, float32."""
    trainer, loaders = a_trainer(values, "codes")
    model = trainer.model.eval()
    catalogue = model.generator.catalogue
    interaction = loaders[2].dataset[torch.randperm(len(loaders[2].dataset))[:n_users]]
    users, history, lengths = model.history(interaction)
    tokens = Tokens(catalogue, model.max_seq_length)
    inputs = tokens.inputs(history, lengths)
    network = t5(tokens.n_tokens).eval()
    ways = {"none": None, "prefix_allowed_tokens_fn": tokens.allowed(catalogue)}

    def generate(allowed) -> None:
        network.generate(
            **inputs,
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            max_new_tokens=catalogue.n_levels,
            do_sample=False,
            prefix_allowed_tokens_fn=allowed,
        )

    taken: dict[str, list[float]] = {name: [] for name in ("ours", *ways)}
    with torch.inference_mode():
        for number in range(rounds + 1):
            ranking = seconds(
                lambda: model.generator.rank(users, history, lengths, BEAMS, beam_size=BEAMS)
            )
            a_round = {"ours": ranking} | {
                name: seconds(lambda allowed=allowed: generate(allowed))
                for name, allowed in ways.items()
            }
            if number:
                for key, value in a_round.items():
                    taken[key].append(value)
    medians = {key: statistics.median(value) for key, value in taken.items()}
    for name in ways:
        yield {
            "part": "decode",
            "constraint": name,
            "users": n_users,
            "t5_ms_a_user": round(medians[name] / n_users * 1e3, 1),
            "ours_ms_a_user": round(medians["ours"] / n_users * 1e3, 1),
            "ratio": round(medians[name] / medians["ours"], 1),
            "ratio_each_round": _ratios(taken[name], taken["ours"]),
        }


def _joined(batches: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The samples of all batches in one, histories as wide as the widest."""
    width = max(batch[1].shape[1] for batch in batches)
    pad = torch.nn.functional.pad
    padded = [
        [users, pad(history, (0, width - history.shape[1])), lengths, targets]
        for users, history, lengths, targets in batches
    ]
    return [torch.cat(parts) for parts in zip(*padded, strict=True)]


def _ratios(theirs: list[float], ours: list[float]) -> list[float]:
    return [round(a / b, 1) for a, b in zip(theirs, ours, strict=True)]


def _size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main(arguments: list[str]) -> None:
    values, _ = parse_command_line(arguments)
    share = float(values.pop("share", 0.02))
    rounds = int(values.pop("rounds", 5))
    n_users = int(values.pop("users", 64))
    parts = str(values.pop("parts", "train,decode")).split(",")
    threads = int(values.pop("threads", 1))
    torch.set_num_threads(threads)
    keep_freed_memory()
    training = train(values, share, rounds) if "train" in parts else ()
    decoding = decode(values, n_users, rounds) if "decode" in parts else ()
    for result in itertools.chain(training, decoding):
        print(json.dumps(result | {"threads": threads}), flush=True)
        measured = [f"{key} {value}" for key, value in result.items() if not key.startswith("rat")]
        print(f"| {'; '.join(measured)} | {threads} threads | {result['ratio']} x |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
