from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_sid
from recbole_sid.model.dataset import split_rows
from recbole_sid.training_data import TrainingData
from tests.runs import write_data
from tests.small_models import build, uncut

DAY = 86_400


def rows_as_triples(dataset, config) -> list[tuple]:
    columns = (array.tolist() for array in split_rows(dataset, config))
    window = config["MAX_ITEM_LIST_LENGTH"]
    return [
        (user, tuple(history[:length][-window:]), target)
        for user, history, length, target in zip(*columns, strict=True)
    ]


def trained_triples(data: TrainingData) -> list[tuple]:
    """What an epoch's batches train on."""
    found = []
    for batch in data.epoch(0):
        if data.packs:
            users, history, places, targets = batch
            for row, number in torch.nonzero(targets).tolist():
                items = tuple(history[row, : places[row, number] + 1].tolist())
                found.append((users[row].item(), items, targets[row, number].item()))
        else:
            for user, history, length, target in zip(*(b.tolist() for b in batch), strict=True):
                found.append((user, tuple(history[:length]), target))
    return found


@pytest.mark.parametrize(
    "training",
    [{"training": "packed", "window_targets": None}, {"window_targets": 3}, {"training": "prefix"}],
)
def test_trained_triples_are_those_of_recboles_training_split(cache, training):
    changes = {"window_stride": 1, "MAX_ITEM_LIST_LENGTH": 8}
    config, loaders, model = build(cache, **changes, **training)
    data = TrainingData(loaders[0].dataset, config, model)
    expected = rows_as_triples(loaders[0].dataset, config)
    found = trained_triples(data)
    assert len(expected) > 1000
    assert max(len(history) for _, history, _ in expected) == 8
    assert Counter(found) == Counter(expected)
    assert sum(1 for _ in data.epoch(0)) == data.steps_per_epoch
    held_out = set()
    for loader in loaders[1:]:
        held_out |= set(rows_as_triples(loader.dataset, config))
    assert len(held_out) == 2 * len({user for user, _, _ in found})
    assert not held_out & set(found)


def test_a_wider_stride_trains_each_target_once_with_less_history(cache):
    config, loaders, model = build(cache, window_stride=5, MAX_ITEM_LIST_LENGTH=8)
    data = TrainingData(loaders[0].dataset, config, model)
    expected = rows_as_triples(loaders[0].dataset, config)
    found = trained_triples(data)
    assert Counter((u, t) for u, _, t in found) == Counter((u, t) for u, _, t in expected)
    assert Counter(found) != Counter(expected)


def test_batches_follow_seed_and_epoch_alone(cache):
    config, loaders, model = build(cache)
    data = TrainingData(loaders[0].dataset, config, model)
    torch.manual_seed(1)
    first = [batch[1].tolist() for batch in data.epoch(3)]
    torch.manual_seed(2)
    assert [batch[1].tolist() for batch in data.epoch(3)] == first
    assert [batch[1].tolist() for batch in data.epoch(4)] != first


def benchmark(folder: Path) -> dict:
    """Pre-augmented files: a chain of three rows, a row alone, histories beyond the window."""
    files = {
        "train": ["u\ta b\tc", "u\ta b c\td", "u\ta b c d\te", "v\tc a\tb"],
        "valid": ["u\ta b c d e\tf", "v\tc a b\td"],
        "test": ["u\ta b c d e f\tg", "v\tc a b d\te"],
    }
    (folder / "pre").mkdir()
    for name, lines in files.items():
        head = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (folder / "pre" / f"pre.{name}.inter").write_text("\n".join([head, *lines]) + "\n")
    (folder / "pre" / "pre.item").write_text(
        "\n".join(["item_id:token\ttitle:token", *(f"{item}\tThing {item}" for item in "abcdefg")])
    )
    return {
        "data_path": str(folder),
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "MAX_ITEM_LIST_LENGTH": 3,
        "window_stride": 1,
    }


def test_pre_augmented_files_are_trained_row_by_row(tmp_path):
    given = uncut(benchmark(tmp_path))
    config, loaders, model = build(tmp_path, "pre", **given)
    dataset = loaders[0].dataset
    found = trained_triples(TrainingData(dataset, config, model))
    items, users = dataset.field2id_token["item_id"], dataset.field2id_token["user_id"]
    named = sorted((users[u], "".join(items[list(h)]), items[t]) for u, h, t in found)
    assert named == [("u", "ab", "c"), ("u", "abc", "d"), ("u", "bcd", "e"), ("v", "ca", "b")]
    result = recbole_sid.run("TIGER", "pre", config_dict=given | {"output": str(tmp_path / "run")})
    assert result["test_result"]["generated@2"] == 1


def test_leave_one_out_keeps_the_order_of_the_file_within_a_day(tmp_path):
    """Unix seconds of whole days around 1.3e9, users interleaved, days out of order."""
    day = {n: 1_300_000_000 // DAY * DAY + n * DAY for n in range(4)}
    rows = [
        ("u", "d", day[2]), ("v", "a", day[0]), ("u", "b", day[1]), ("u", "a", day[0]),
        ("v", "c", day[3]), ("u", "c", day[1]), ("v", "b", day[3]), ("u", "f", day[2]),
        ("w", "a", day[0]), ("v", "d", day[3]), ("u", "e", day[2]), ("v", "e", day[3]),
    ]  # fmt: skip
    config, loaders, model = build(tmp_path, "made", **uncut(write_data(tmp_path, rows)))
    items = loaders[0].dataset.field2id_token["item_id"]
    users = loaders[0].dataset.field2id_token["user_id"]

    def named(triples):
        return sorted((users[u], "".join(items[list(h)]), items[t]) for u, h, t in triples)

    # In time, ties as in the file: u is a bc dfe, v is a cbde; w has one item and no sample.
    valid, test = (rows_as_triples(loader.dataset, config) for loader in loaders[1:])
    assert named(test) == [("u", "abcdf", "e"), ("v", "acbd", "e")]
    assert named(valid) == [("u", "abcd", "f"), ("v", "acb", "d")]
    found = trained_triples(TrainingData(loaders[0].dataset, config, model))
    assert named(found) == [
        ("u", "a", "b"), ("u", "ab", "c"), ("u", "abc", "d"), ("v", "a", "c"), ("v", "ac", "b"),
    ]  # fmt: skip


def test_sequences_hold_only_what_is_trained(cache):
    config, loaders, model = build(cache)
    data = TrainingData(loaders[0].dataset, config, model)
    counts = Counter(user for user, _, _ in rows_as_triples(loaders[0].dataset, config))
    per_user = dict(
        zip(data.sequences.users.tolist(), np.diff(data.sequences.offsets).tolist(), strict=True)
    )
    assert per_user == {user: count + 1 for user, count in counts.items()}
