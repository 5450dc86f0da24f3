"""Where ``reliability_kill.py`` kills which command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

WRITES = "write *"
# Taken in turn; most kills in life are the first one.
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGKILL", "SIGINT")

ENCODE = "sentence_transformers:SentenceTransformer.encode"
STAGE_2 = (
    ("recbole_sid.trainer:SIDTrainer._check_finite", 4),
    ("recbole_sid.trainer:SIDTrainer._full_sort_batch_eval", 3),
    ("recbole_sid.trainer:SIDTrainer._save_state", 2),
)
# Where a command is killed, and how often; `write NAME` is the moment when a file gets its name.
PLACES: dict[str, tuple[tuple[str, int], ...]] = {
    "TIGER": (
        (ENCODE, 2),
        ("recbole_sid.tokenizer.quantizer:ResidualQuantizer.follow", 3),
        *STAGE_2,
        (WRITES, 9),
    ),
    "QuaSID": (
        (ENCODE, 1),
        ("recbole_sid.tokenizer.quasid:QuaSID.losses_between", 3),
        *STAGE_2,
        (WRITES, 9),
    ),
    "UniSID": (
        (ENCODE, 1),
        ("recbole_sid.tokenizer.unisid:UniSID._step", 4),
        *STAGE_2,
        (WRITES, 9),
    ),
    "IntRR": (
        (ENCODE, 1),
        ("recbole_sid.tokenizer.rqkmeans:_take_nearest", 2),
        *STAGE_2,
        (WRITES, 9),
    ),
    "tokenize": (("recbole_sid.tokenizer.quantizer:ResidualQuantizer.follow", 2), (WRITES, 5)),
    "export": ((WRITES, 5), ("recbole_sid.serving.export:_copy", 1)),
    "append": ((ENCODE, 1), (WRITES, 6), ("recbole_sid.serving.append:append_codes", 1)),
    "summarize": (("recbole_sid.items.summaries:_generate", 2), (WRITES, 4)),
    "make-ads": (("recbole_sid.ads.world:_append", 3), (WRITES, 6)),
    "prepare": (("recbole_sid.preparing.store:Store.run", 3), (WRITES, 5)),
    "tune": (("recbole_sid.tuning.journal:Journal.end", 2), (WRITES, 6)),
    "compare": (("recbole_sid.comparison.compare:_write", 2), (WRITES, 5)),
}
# In the processes of a search and a comparison, which end together with it.
IN_CHILDREN: dict[str, tuple[tuple[str, int, str], ...]] = {
    "tune": (
        ("write */codes/*.training.pt", 2, "after"),
        ("write */0001/training.pt", 2, "before"),
        ("write */0001/validation.json", 1, "after"),
        ("write */0002/model.safetensors", 1, "after"),
        ("write */0002/validation.json", 1, "before"),
    ),
    "compare": (
        ("write */codes/*.safetensors", 1, "after"),
        ("write */TIGER-2020/training.pt", 2, "after"),
        ("write */IntRR-2020/model.safetensors", 1, "before"),
        ("write */IntRR-2020/result.json", 1, "after"),
    ),
}


class Point(NamedTuple):
    """A kill: where, at which call there, ``before`` or ``after`` it, by which signal.

    ``child``: in a process that the command has started; the command is killed with it.
    """

    where: str
    call: int
    when: str
    signal: str
    child: bool = False


def spread(counted: dict[str, int], name: str) -> Iterator[Point]:
    """The points of a command: at each place, calls at even distances."""
    number = 0
    for where, wanted in PLACES[name]:
        calls = {int((i + 0.5) * counted[where] / wanted) + 1 for i in range(wanted)}
        for call in sorted(calls):
            when = ("before", "after")[number % 2]
            yield Point(where, call, when, SIGNALS[number % len(SIGNALS)])
            number += 1
    for where, call, when in IN_CHILDREN.get(name, ()):
        yield Point(where, call, when, "SIGKILL", child=True)
