"""Check that RecBole splits Beauty as published: its counts, and leave-one-out by file order.

Usage: python benchmarks/beauty_split.py DATA_PATH; exit code 1 where anything differs.
where DATA_PATH/beauty holds beauty.inter (rows in per-user order, days with ties) and beauty.item.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from recbole_sid import datasets
from recbole_sid.config import Config
from recbole_sid.model.dataset import split_rows

PUBLISHED = {"users": 22_363, "items": 12_101, "interactions": 198_502}


def published_order(path: Path) -> dict[str, list[str]]:
    """Each user's items in file order, which is the published order."""
    sequences: dict[str, list[str]] = defaultdict(list)
    with path.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            user, item = line.split("\t")[:2]
            sequences[user].append(item)
    return sequences


def main(data_path: str) -> int:
    config = Config("TIGER", "beauty", config_dict={"data_path": data_path})
    dataset = datasets.create_dataset(config)
    loaders = datasets.data_preparation(config, dataset)
    sequences = published_order(Path(data_path) / "beauty" / "beauty.inter")
    window = config["MAX_ITEM_LIST_LENGTH"]
    users = dataset.field2id_token["user_id"]
    items = dataset.field2id_token["item_id"]
    counts = {
        "users": dataset.user_num - 1,
        "items": dataset.item_num - 1,
        "interactions": sum(map(len, sequences.values())),
    }
    print(counts, "as published" if counts == PUBLISHED else f"but published are {PUBLISHED}")
    failed = counts != PUBLISHED
    for name, loader, back in (("valid", loaders[1], 2), ("test", loaders[2], 1)):
        wrong = 0
        for user, history, length, target in zip(*split_rows(loader.dataset, config), strict=True):
            sequence = sequences[users[user]]
            expected = sequence[: len(sequence) - back][-window:]
            same = items[history[:length]].tolist() == expected and items[target] == sequence[-back]
            wrong += not same
        failed |= wrong > 0
        n_users = len(loader.dataset)
        print(f"{name}: {n_users} users, {wrong} differ from the published leave-one-out split")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
