"""Which codes may come next: from the trie's arrays, from a Python callback, from a dense mask.

    PYTHONPATH=. python benchmarks/trie_masks.py [--items=12101] [--users=64] [--threads=1]

Beam search of 20 beams over random SIDs of 3 x 256 codes (and a dedup digit), with logits drawn
beforehand, so that nothing but the search is timed. The callback goes through transformers'
``PrefixConstrainedLogitsProcessor``, as ``generate`` calls it; the dense mask has a row of 256 for
every node of the trie. All three must give the same SIDs. CPU time over the number of threads,
medians of the rounds, the three in turn, after one round to warm up.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import numpy as np
import torch
from speed_step import seconds
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor

from recbole_sid.generator.beam import beam_search
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid.trie import Trie

BEAMS = 20
CODES = 256


class Drawn:
    """Logits (B, W, size) that were drawn before, a level each."""

    device = torch.device("cpu")

    def __init__(self, logits: list[Tensor]):
        self.logits, self.batch_size = logits, len(logits[0])

    def step(self, level: int, parents: Tensor | None, codes: Tensor | None) -> Tensor:
        return self.logits[level]


def by_arrays(logits: list[Tensor], catalogue: Catalogue) -> Tensor:
    """The leaves (B, W) that the search of this package finds."""
    return beam_search(Drawn(logits), catalogue, BEAMS).leaves


def plain_search(logits: list[Tensor], allow: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Beam search with ``allow(prefixes (B * W, level), log-probabilities (B * W, size))``, which
    gives -inf where no SID leads: the SIDs (B, W, L)."""
    users = len(logits[0])
    prefixes = torch.zeros(users, 1, 0, dtype=torch.int64)
    scores = torch.zeros(users, 1)
    for of_level in logits:
        log_probs = of_level.log_softmax(dim=-1).flatten(0, 1)
        legal = allow(prefixes.flatten(0, 1), log_probs).view(of_level.shape)
        grown = (scores[..., None] + legal).flatten(1)
        scores, chosen = grown.topk(min(BEAMS, grown.shape[1]), dim=1)
        parents = chosen // of_level.shape[2]
        taken = prefixes.gather(1, parents[..., None].expand(-1, -1, prefixes.shape[2]))
        prefixes = torch.cat([taken, (chosen % of_level.shape[2])[..., None]], dim=2)
    return prefixes


def callback(codes: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """A dict of all prefixes behind transformers' own mask."""
    following: dict[tuple[int, ...], set[int]] = {}
    for sid in codes.tolist():
        for level, code in enumerate(sid):
            following.setdefault(tuple(sid[:level]), set()).add(code)
    lists = {prefix: sorted(after) for prefix, after in following.items()}
    return PrefixConstrainedLogitsProcessor(lambda _, sent: lists[tuple(sent.tolist())], 1)


def dense(catalogue: Catalogue, sizes: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """A row of booleans a node; nodes are found from their parents by a second dense table."""
    child_of = []
    for level, size in enumerate(sizes):
        first, node_codes = catalogue.branches(level)
        parents = torch.repeat_interleave(torch.arange(len(first) - 1), torch.diff(first))
        table = torch.full((len(first) - 1, size), -1)
        table[parents, node_codes.long()] = torch.arange(len(parents))
        child_of.append(table)

    def allow(prefixes: Tensor, log_probs: Tensor) -> Tensor:
        nodes = torch.zeros(len(prefixes), dtype=torch.int64)
        for level in range(prefixes.shape[1]):
            nodes = child_of[level][nodes, prefixes[:, level]]
        return torch.where(child_of[prefixes.shape[1]][nodes] >= 0, log_probs, -torch.inf)

    return allow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("items", 12_101), ("users", 64), ("rounds", 7), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rng = np.random.default_rng(2020)
    codes = rng.integers(0, CODES, (given.items, 3)).astype(np.int32)
    tokens = tuple(map(str, range(given.items)))
    sids = apply_collision(SemanticIDs(tokens, codes, (CODES,) * 3, "none", {}), "dedup")
    catalogue = Catalogue(sids)
    draw = torch.Generator().manual_seed(2020)
    widths = [1, *[BEAMS] * (sids.n_levels - 1)]
    logits = [
        torch.randn(given.users, width, size, generator=draw)
        for width, size in zip(widths, sids.sizes, strict=True)
    ]
    by_dict, by_table = callback(sids.codes), dense(catalogue, sids.sizes)
    ways: dict[str, Callable[[], Tensor]] = {
        "arrays": lambda: by_arrays(logits, catalogue),
        "callback": lambda: plain_search(logits, by_dict),
        "dense": lambda: plain_search(logits, by_table),
    }
    by_leaf = torch.as_tensor(sids.codes[Trie.from_sids(sids).leaf_items])
    found = by_leaf[ways["arrays"]()]
    for name in ("callback", "dense"):
        assert (found == ways[name]()).all(), f"{name} finds other SIDs"
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            taken[name].append(seconds(way) / given.users * 1000)
    for name, times in taken.items():
        ratios = [one / ours for one, ours in zip(times, taken["arrays"], strict=True)]
        line = {"way": name, "ms_a_user": round(statistics.median(times), 3)}
        line["times_ours"] = [round(f(ratios), 2) for f in (statistics.median, min, max)]
        print(json.dumps(line))


if __name__ == "__main__":
    main()
