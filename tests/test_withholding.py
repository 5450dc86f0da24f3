from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid import cli
from recbole_sid.comparison.splits import data_key, read_split
from recbole_sid.errors import InputError
from recbole_sid.model.dataset import split_rows
from recbole_sid.quick_start import checked_config
from recbole_sid.reading import read_data
from recbole_sid.withholding import _last_two, withheld
from tests.comparison.settings import FILE, write
from tests.runs import write_data

# The item w is withheld.
HISTORIES = {
    "u1": "abcwdef",  # w goes
    "u2": "abcdw",  # w is tested
    "u3": "abcwd",  # w is validated, and stands in the history of the test
    "u4": "wwabc",  # three are left: dropped
    "u5": "hgfe",
}


def test_the_smallest_hashes_are_chosen_whatever_the_order():
    tokens = [f"item {n}" for n in range(50)]
    digests = {t: hashlib.sha256(f"withheld {t}".encode()).hexdigest() for t in tokens}
    expected = sorted(tokens, key=digests.get)[:10]
    found = withheld(tokens, 0.2)
    assert {t for t, chosen in zip(tokens, found, strict=True) if chosen} == set(expected)
    assert withheld(tokens[::-1], 0.2).tolist() == found[::-1].tolist()
    assert withheld(tokens, 0.0).sum() == 0
    assert withheld(tokens, 0.001).sum() == 1
    assert withheld(tokens, 0.999).sum() == 49
    # A larger share withholds these too.
    assert (withheld(tokens, 0.4) >= found).all()


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=30),
)
def test_the_last_two_of_each_user(rows):
    users = np.array([user for user, _ in rows], np.int64)
    seconds = np.array([time for _, time in rows], np.float32)
    expected = np.zeros(len(rows), bool)
    for user in set(users.tolist()):
        mine = sorted(np.flatnonzero(users == user), key=lambda row: (seconds[row], row))
        expected[mine[-2:]] = True
    assert _last_two(users, seconds).tolist() == expected.tolist()


@pytest.fixture
def made(tmp_path, monkeypatch):
    rows = [
        (user, item, place) for user, items in HISTORIES.items() for place, item in enumerate(items)
    ]
    monkeypatch.setattr(
        "recbole_sid.withholding.withheld",
        lambda tokens, share: np.array([token == "w" for token in tokens]),
    )
    return write_data(tmp_path, rows) | {"topk": [2], "valid_metric": "NDCG@2"}


def splits(made: dict, model: str = "TIGER", **changes):
    config = checked_config(
        model, "made", config_dict={**made, "withheld_items": 0.1, **changes}, command_line=[]
    )
    data, loaders = read_data(config)
    users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
    if model == "Pop":
        parts = [loader.dataset.inter_feat for loader in loaders]
        return [
            sorted((users[u], items[i]) for u, i in zip(p["user_id"], p["item_id"], strict=True))
            for p in parts
        ]
    return [
        sorted(
            (users[u], "".join(items[h[:n]]), items[t])
            for u, h, n, t in zip(*split_rows(loader.dataset, config), strict=True)
        )
        for loader in loaders
    ]


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_withheld_items_are_targets_of_validation_and_test_alone(made, model):
    changes = {"train_neg_sample_args": None} if model == "SASRec" else {}
    train, valid, test = splits(made, model, **changes)
    assert train == [
        *(("u1", "abcd"[:n], "abcd"[n]) for n in (1, 2, 3)),
        ("u2", "a", "b"), ("u2", "ab", "c"),
        ("u3", "a", "b"), ("u3", "ab", "c"),
        ("u5", "h", "g"),
    ]  # fmt: skip
    assert valid == [
        ("u1", "abcd", "e"), ("u2", "abc", "d"), ("u3", "abc", "w"), ("u5", "hg", "f"),
    ]  # fmt: skip
    assert test == [
        ("u1", "abcde", "f"), ("u2", "abcd", "w"), ("u3", "abcw", "d"), ("u5", "hgf", "e"),
    ]  # fmt: skip


def test_a_comparison_counts_who_is_left_and_builds_each_data_once(made):
    def key(model: str, **changes) -> str:
        given = {**made, "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 20, **changes}
        return data_key(checked_config(model, "made", config_dict=given, command_line=[]))

    config = checked_config(
        "TIGER", "made", config_dict=made | {"withheld_items": 0.1}, command_line=[]
    )
    counts = read_split(config).counts
    assert (counts["users"], counts["test"]) == (4, 4)
    assert key("TIGER") == key("IntRR")
    assert key("TIGER") != key("TIGER", withheld_items=0.1)
    assert key("TIGER") != key("SASRec")  # both kinds of data sets are looked at


def test_general_models_have_the_same_targets(made):
    protocol = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    train, valid, test = splits(made, "Pop", eval_args=protocol | {"mode": "full"})
    assert "w" not in {item for _, item in train}
    assert valid == [("u1", "e"), ("u2", "d"), ("u3", "w"), ("u5", "f")]
    assert test == [("u1", "f"), ("u2", "w"), ("u3", "d"), ("u5", "e")]


def test_under_split_times_they_are_there_from_the_first_time_on(made):
    train, valid, test = splits(made, split_times=[3, 4])
    assert train == [
        ("u1", "a", "b"), ("u1", "ab", "c"), ("u2", "a", "b"), ("u2", "ab", "c"),
        ("u3", "a", "b"), ("u3", "ab", "c"), ("u5", "h", "g"), ("u5", "hg", "f"),
    ]  # fmt: skip
    assert valid == [
        ("u1", "abc", "w"), ("u2", "abc", "d"), ("u3", "abc", "w"), ("u4", "a", "b"),
        ("u5", "hgf", "e"),
    ]  # fmt: skip
    assert ("u2", "abcd", "w") in test


def test_a_comparison_names_their_group(tmp_path):
    write(tmp_path, FILE)
    arguments = ["compare", "--models=TIGER,Pop", "--dataset=ml-100k", "--show_progress=false"]
    arguments += [f"--settings={tmp_path / 'settings.yaml'}", f"--output={tmp_path / 'out'}"]
    arguments += [f"--cache_dir={tmp_path / 'cache'}", "--resamples=200", "--withheld_items=0.2"]
    assert cli.main(arguments) == 0
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    targets = result["targets"]["unseen"]
    assert targets["items"] >= round(0.2 * result["counts"]["items"])
    assert targets["users"] > 5
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "unseen: not one; 0.2 of all items are withheld: " in text


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "share": (
            {"withheld_items": 1},
            "'withheld_items' is 1.0, but must be at least 0 and below",
        ),
        "ratios": (
            {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "user"}},
            "'withheld_items' needs eval_args with .*, but eval_args has {'split': {'RS'",
        ),
        "no order": (
            {
                "model": "Pop",
                "eval_args": {"split": {"LS": "valid_and_test"}, "order": "RO", "mode": "full"},
            },
            "but eval_args has .*'order': 'RO'}",
        ),
        "split already": (
            {"dataloaders_save_path": "loaders.pth"},
            "'withheld_items' and 'dataloaders_save_path' are both given",
        ),
    }.values(),
)
def test_what_cannot_be_withheld_is_refused(made, changes, message):
    with pytest.raises(InputError, match=message):
        splits(made, **changes)


def test_nothing_to_train_on_before_the_first_time_is_refused(made, tmp_path):
    rows = [("u1", item, time) for time, item in enumerate("wwab")]
    settings = write_data(tmp_path / "early", rows) | {"topk": [2], "valid_metric": "NDCG@2"}
    with pytest.raises(InputError, match="which leaves nothing to train on before the first of"):
        splits(settings, split_times=[2, 3])


def test_nothing_left_is_refused(tmp_path):
    rows = [("u1", item, place) for place, item in enumerate("abc")]
    settings = write_data(tmp_path, rows) | {"topk": [2], "valid_metric": "NDCG@2"}
    with pytest.raises(InputError, match=r"leaves no user 4 interactions: lower it"):
        splits(settings, withheld_items=0.9)
