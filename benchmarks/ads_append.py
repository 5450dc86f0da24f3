"""What appending costs, and whether lists find ads that came after training.

Usage: python benchmarks/ads_append.py split DATA OUTPUT [--share=0.08] [--seed=0]
       python benchmarks/ads_append.py measure RUN NEW_ITEMS EVENTS OLD_ITEMS [--k=20]
              [--cases=2000] [--beam_size=N] [--cache_dir=FOLDER]

``split`` takes a data set (the folder DATA with NAME.item and NAME.inter) apart: OUTPUT/NAME has
the old items and their events, to train a run on; OUTPUT/new.item the held-out items, and
OUTPUT/events.inter all events. A data set that has new items anyway needs no split.

``measure`` appends NEW_ITEMS to the run, into a temporary folder, and prints JSON: whether any
published SID moved (tokens and codes, byte by byte), the report of ``append``, and recall@k of cold
items. A case is a user's last event with a new item; the history is all that the user had before,
from the event file. The model ranks old and new items together, without those of the history. So do
the two baselines: chance, exactly; and content neighbours, by the cosine of an item's vector with
the mean of those that the model sees of the history. Where the run leaves out what is not available
(``filter_unavailable``), all three rank the items that are there at the time of the case. The
vectors are those that the run encodes
texts to (OLD_ITEMS is the .item file that it was trained on), or the user's own files.

Later events of the same users may have been in training: they hold old items alone.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.serving.append import append, reading
from recbole_sid.serving.bundle import Bundle, open_bundle
from recbole_sid.serving.recommender import Recommender
from recbole_sid.serving.rules import Rules
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.pipeline import item_vectors

ROWS = 256
FILES = ("item_embedding_file", "item_embedding_ids", "item_image_file", "item_image_ids")


def split(data: Path, output: Path, share: float, seed: int) -> None:
    name, old = data.name, output / data.name
    old.mkdir(parents=True)
    header, *rows = (data / f"{name}.item").read_text(encoding="utf-8").splitlines()
    place = column(header, "item_id")
    tokens = sorted(row.split("\t")[place] for row in rows)
    n_new = round(share * len(tokens))
    new = set(np.random.default_rng(seed).permutation(tokens)[:n_new].tolist())
    for path, wanted in ((old / f"{name}.item", False), (output / "new.item", True)):
        write(path, header, (row for row in rows if (row.split("\t")[place] in new) == wanted))
    header, *rows = (data / f"{name}.inter").read_text(encoding="utf-8").splitlines()
    place = column(header, "item_id")
    write(output / "events.inter", header, rows)
    write(old / f"{name}.inter", header, (r for r in rows if r.split("\t")[place] not in new))


def write(path: Path, header: str, rows: Any) -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def column(header: str, name: str) -> int:
    return [cell.partition(":")[0] for cell in header.split("\t")].index(name)


def cases_of(
    events: Path, settings: dict[str, Any], known: set[str], new: set[str], most: int
) -> list[tuple[list[str], str, float]]:
    """Histories, their cold next item, the last one of every user, and its time; at most ``most``
    users."""
    fields = [settings[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME")]
    users: dict[str, list[tuple[float, int, str]]] = {}
    with events.open(encoding="utf-8") as file:
        header = next(file).rstrip("\n")
        places = [column(header, field) for field in fields]
        for number, line in enumerate(file):
            cells = line.rstrip("\n").split("\t")
            user, item, time = (cells[place] for place in places)
            users.setdefault(user, []).append((float(time), number, item))
    cases = []
    for user in sorted(users):
        items = [item for _, _, item in sorted(users[user])]
        last = max((at for at, item in enumerate(items) if item in new), default=0)
        history = [item for item in items[:last] if item in known]
        if history and items[last] not in history:
            cases.append((history, items[last], sorted(users[user])[last][0]))
    chosen = np.random.default_rng(0).permutation(len(cases))[:most]
    return [cases[row] for row in np.sort(chosen)]


def all_vectors(
    bundle: Bundle, sids: SemanticIDs, paths: list[Path], cache_dir: str | None
) -> np.ndarray:
    """Unit vectors (n, d) of old and new items, in the order of ``sids``."""
    n_old = bundle.sids.n_items
    parts = []
    for path, tokens in zip(paths, (sids.tokens[:n_old], sids.tokens[n_old:]), strict=True):
        files = {key: bundle.settings.get(key) for key in FILES}
        parts.append(item_vectors(reading(bundle, path, files, cache_dir, True), tokens))
    vectors = np.concatenate(parts)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def live(rules: Rules | None, seconds: float, n_items: int) -> np.ndarray:
    """The items that are there at a time, bool (n_items,); all of them without rules."""
    there = np.ones(n_items, bool)
    if rules is not None and rules.since is not None:
        there &= ~(rules.since > seconds)  # NaN is no bound
    if rules is not None and rules.until is not None:
        there &= ~(rules.until < seconds)
    return there


def neighbours(
    vectors: np.ndarray,
    histories: list[list[int]],
    times: list[float],
    rules: Rules | None,
    window: int,
    k: int,
) -> np.ndarray:
    """The rows (n, k) nearest to the mean of each history's last ``window``, without its own, of
    the items that are there."""
    found = []
    for start in range(0, len(histories), ROWS):
        some = histories[start : start + ROWS]
        means = np.stack([vectors[rows[-window:]].mean(axis=0) for rows in some])
        scores = means @ vectors.T  # (rows, items)
        for row, own in enumerate(some):
            scores[row, own] = -np.inf
            scores[row, ~live(rules, times[start + row], len(vectors))] = -np.inf
        found.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
    return np.concatenate(found)


def mean(values: Any) -> float:
    return float(np.mean(values))


def measure(given: argparse.Namespace, output: Path) -> dict[str, Any]:
    bundle = open_bundle(given.run)
    files: dict[str, Any] = {key: bundle.settings.get(key) for key in FILES}
    report = append(given.run, given.new_items, output, cache_dir=given.cache_dir, **files)
    recommender = Recommender.load(output, max_history=10**6)
    sids, n_old = recommender.bundle.sids, bundle.sids.n_items
    unmoved = (
        sids.tokens[:n_old] == bundle.sids.tokens
        and sids.codes[:n_old].tobytes() == bundle.sids.codes.tobytes()
    )
    new = set(sids.tokens[n_old:])
    cases = cases_of(given.events, bundle.settings, set(sids.tokens), new, given.cases)
    if not cases:
        raise SystemExit("no user has an event with a new item after others")
    histories, targets, times = (list(each) for each in zip(*cases, strict=True))
    rules = recommender.rules if bundle.settings.get("filter_unavailable") else None
    beam_size = given.beam_size or max(bundle.beam_size, given.k)
    if rules is None:
        answers = recommender.recommend_many(
            histories, given.k, exclude_history=True, beam_size=beam_size
        )
    else:
        answers = [
            recommender.recommend(
                history, given.k, exclude_history=True, now=time, beam_size=beam_size
            )
            for history, time in zip(histories, times, strict=True)
        ]
    row_of = {token: row for row, token in enumerate(sids.tokens)}
    rows = [[row_of[token] for token in dict.fromkeys(history)] for history in histories]
    vectors = all_vectors(bundle, sids, [given.old_items, given.new_items], given.cache_dir)
    nearest = neighbours(vectors, rows, times, rules, bundle.window, given.k)
    there = [live(rules, time, sids.n_items) for time in times]
    n_ranked = [each.sum() - each[own].sum() for each, own in zip(there, rows, strict=True)]
    hits = {
        "model": [each in answer.items for each, answer in zip(targets, answers, strict=True)],
        "content": [row_of[each] in near for each, near in zip(targets, nearest, strict=True)],
        "chance": [min(1.0, given.k / max(1, n)) for n in n_ranked],
    }
    recall = {name: mean(each) for name, each in hits.items()}
    error = {name: float(np.std(each) / math.sqrt(len(cases))) for name, each in hits.items()}
    hit, last = np.array(hits["model"]), sids.codes[[row_of[each] for each in targets], -1]
    digits = last if sids.collision == "dedup" else np.zeros_like(last)
    listed = [item in new for answer in answers for item in answer.items]
    return {
        "no_published_sid_moved": unmoved,
        "cases": len(cases),
        "mean_items_ranked": mean(n_ranked),
        "k": given.k,
        "beam_size": beam_size,
        "cold_recall": recall,
        "standard_error": {name: error[name] for name in ("model", "content")},
        "model_to_content": recall["model"] / recall["content"] if recall["content"] else None,
        # Digits that no item had in training were never learned.
        "recall_by_digit": {
            digit: {"cases": int((digits == digit).sum()), "recall": mean(hit[digits == digit])}
            for digit in np.unique(digits).tolist()
        },
        "new_share_of_lists": mean(listed),
        "new_share_of_items": len(new) / sids.n_items,
        "append": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split")
    one.add_argument("data", type=Path)
    one.add_argument("output", type=Path)
    one.add_argument("--share", type=float, default=0.08)
    one.add_argument("--seed", type=int, default=0)
    two = commands.add_parser("measure")
    for name in ("run", "new_items", "events", "old_items"):
        two.add_argument(name, type=Path)
    two.add_argument("--k", type=int, default=20)
    two.add_argument("--cases", type=int, default=2000)
    two.add_argument("--beam_size", type=int)
    two.add_argument("--cache_dir")
    given = parser.parse_args()
    if given.command == "split":
        split(given.data, given.output, given.share, given.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(given, Path(folder) / "appended"), indent=2))


if __name__ == "__main__":
    main()
