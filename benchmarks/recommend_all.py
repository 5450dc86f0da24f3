"""Recommend for every test history of a run's dataset, and compare with what evaluation ranked.

Usage: python benchmarks/recommend_all.py RUN_FOLDER [K]; exit code 1 where any row differs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import recbole_sid
from recbole_sid.evaluation import HistoryExclusion
from recbole_sid.model.dataset import split_rows
from recbole_sid.model.exclusion import before_targets
from recbole_sid.run_folder import WEIGHTS


def main(run_folder: str, k: int) -> int:
    config, model, data, *loaders = recbole_sid.load_data_and_model(Path(run_folder) / WEIGHTS)
    splits = [loader.dataset for loader in loaders]
    users = data.field2id_token[config["USER_ID_FIELD"]]
    items = data.field2id_token[config["ITEM_ID_FIELD"]]

    # Complete histories: the rows of the three splits together continue each other.
    rows = [split_rows(split, config) for split in splits]
    whole = before_targets(tuple(map(np.concatenate, zip(*rows, strict=True))))
    first = len(whole.ends) - len(rows[-1][0])
    histories = {
        users[user]: items[whole.values[start:end]].tolist()
        for user, start, end in zip(
            rows[-1][0], whole.starts[first:], whole.ends[first:], strict=True
        )
    }
    if len(histories) < len(rows[-1][0]):
        print("a user has several test rows: this check needs a leave-one-out split")
        return 1

    exclusion = HistoryExclusion(config)
    exclusion.start(splits[-1], splits[:-1])
    seen_items, seen_scores = [], []
    with torch.no_grad():
        for interaction, _, _, targets in tqdm(loaders[-1], desc="Evaluation"):
            excluded, _ = exclusion.next_rows(targets, model.device)
            ranked = model.rank(interaction.to(model.device), k, excluded)
            seen_items.append(ranked.items.cpu().numpy())
            seen_scores.append(ranked.scores.cpu().numpy())
    evaluated_items, evaluated_scores = np.concatenate(seen_items), np.concatenate(seen_scores)

    start = time.perf_counter()
    lists = recbole_sid.recommend(run_folder, histories, k)
    seconds = time.perf_counter() - start

    differ = {"items": 0, "scores": 0}
    largest = 0.0
    for row, (_, listed, scores) in enumerate(lists):
        filled = evaluated_items[row] > 0
        same = listed == items[evaluated_items[row][filled]].tolist()
        differ["items"] += not same
        differ["scores"] += not same or not np.array_equal(scores, evaluated_scores[row][filled])
        if same and len(scores):
            largest = max(largest, float(np.abs(scores - evaluated_scores[row][filled]).max()))
    print(f"{len(lists):,} histories, {sum(map(len, histories.values())):,} items, lists of {k}")
    print(f"{len(lists) / seconds:,.0f} users/second, {seconds:.1f} s with loading the run")
    print(f"rows that differ in items: {differ['items']}, in items or scores: {differ['scores']}")
    print(f"largest difference of a score where the items are equal: {largest:.3g}")
    return int(differ["items"] > 0 or differ["scores"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10))
