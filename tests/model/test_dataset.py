"""RecBole's expanded data set is the oracle: same rows, same splits, same sequences."""

from __future__ import annotations

import numpy as np
import pytest
import recbole.data.utils
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset

from recbole_sid import datasets
from recbole_sid.config import Config
from recbole_sid.generator.sequences import chain
from recbole_sid.model.dataset import (
    START,
    SequenceDataset,
    split_rows,
    split_sequences,
    training_interactions,
)
from recbole_sid.splitting import split_at
from tests.runs import SMALL, write_data
from tests.small_models import uncut

SPLITS = {
    "leave one out": {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}},
    "ratios": {"eval_args": {"split": {"RS": [0.7, 0.2, 0.1]}, "order": "TO", "group_by": "user"}},
    "shuffled ratios": {"eval_args": {"split": {"RS": [0.7, 0.2, 0.1]}, "order": "TO"}},
}


def both(settings: dict, dataset: str = "ml-100k", base: dict = SMALL):
    """The same files as ours, and as RecBole's, neither of them built."""
    config = Config("TIGER", dataset, config_dict={**base, **settings})
    ours = datasets.create_dataset(config)
    with datasets.texts_as_written():
        theirs = recbole.data.utils.create_dataset(config)
    assert type(ours) is SequenceDataset
    assert type(theirs) is SequentialDataset
    return config, ours, theirs


def assert_same_split(ours, theirs, config) -> None:
    assert len(ours) == len(theirs)
    for mine, stock in zip(split_rows(ours, config), split_rows(theirs, config), strict=True):
        np.testing.assert_array_equal(mine, stock)
    expected = chain(*split_rows(theirs, config))
    found = split_sequences(ours, config)
    for name, array in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)
        assert getattr(found, name).dtype == np.int64
    assert START not in ours[[0, 2]]
    mine, stock = ours[[2, 0]], theirs[[2, 0]]
    for field in mine:
        assert torch.equal(mine[field], stock[field]), field
    assert set(stock) - set(mine) == {"rating_list", "timestamp_list"} & set(stock)


@pytest.mark.parametrize("window", [3, 20])
@pytest.mark.parametrize("split", SPLITS)
def test_rows_and_sequences_are_those_of_recboles_expansion(split, window):
    config, ours, theirs = both({**SPLITS[split], "MAX_ITEM_LIST_LENGTH": window})
    for mine, stock in zip(ours.build(), theirs.build(), strict=True):
        assert type(mine) is SequenceDataset
        assert_same_split(mine, stock, config)


def test_a_split_at_times_has_the_same_rows():
    config, ours, theirs = both({"MAX_ITEM_LIST_LENGTH": 5})
    times = (0.3, 0.6)  # RecBole has scaled them to 0 … 1
    parts = split_at(ours, times).build(), split_at(theirs, times).build()
    assert min(map(len, parts[0])) > 100
    for mine, stock in zip(*parts, strict=True):
        assert isinstance(mine, SequenceDataset)
        assert_same_split(mine, stock, config)


def made(tmp_path, lengths: list[int]):
    rows = [
        (f"u{user}", f"i{(7 * user + place) % 5}", 100 * place)
        for user, length in enumerate(lengths)
        for place in range(length)
    ]
    write_data(tmp_path, rows)
    return {"data_path": str(tmp_path), "MAX_ITEM_LIST_LENGTH": 3}


def test_by_hand(tmp_path):
    # u0: i0 i1 i2 i3 i4; u1: i2 i3 i4 (7 * 1 mod 5 is 2). Two rows are too few for three splits:
    # RecBole then takes none for validation.
    config, ours, _ = both(made(tmp_path, [5, 3]), "made", uncut({}))
    train, valid, test = ours.build()
    items = ours.field2id_token["item_id"]

    def spelled(part):
        return [
            (" ".join(items[history[:length]]), items[target])
            for _, history, length, target in zip(*split_rows(part, config), strict=True)
        ]

    assert spelled(train) == [("i0", "i1"), ("i0 i1", "i2"), ("i2", "i3")]
    assert spelled(valid) == [("i0 i1 i2", "i3")]
    assert spelled(test) == [("i1 i2 i3", "i4"), ("i2 i3", "i4")]
    held = training_interactions(train, config)
    assert items[held.items + 1].tolist() == ["i0", "i1", "i2", "i2", "i3"]
    users = [ours.token2id("user_id", name) for name in ("u0", "u1")]
    assert held.users.tolist() == [users[0]] * 3 + [users[1]] * 2


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=3, max_size=8))
def test_any_lengths(lengths, tmp_path_factory):
    lengths = [*lengths, 6]
    given = made(tmp_path_factory.mktemp("made"), lengths)
    config, ours, theirs = both(given, "made", uncut({}))
    for mine, stock in zip(ours.build(), theirs.build(), strict=True):
        for found, expected in zip(
            split_rows(mine, config), split_rows(stock, config), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        found, expected = split_sequences(mine, config), chain(*split_rows(stock, config))
        for name, array in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)


def test_rows_that_leave_one_out_do_not_continue_each_other():
    config, ours, theirs = both({"MAX_ITEM_LIST_LENGTH": 3})
    mine, stock = (each.build()[0] for each in (ours, theirs))
    every_other = torch.arange(0, len(mine), 2)
    mine, stock = (each.copy(each.inter_feat[every_other]) for each in (mine, stock))
    expected = chain(*split_rows(stock, config))
    assert len(expected.users) > len(set(expected.users.tolist()))
    for name, array in vars(expected).items():
        np.testing.assert_array_equal(getattr(split_sequences(mine, config), name), array)


def test_a_matrix_that_would_lack_first_items_is_refused():
    _, ours, _ = both({})
    with pytest.raises(NotImplementedError, match="take split_sequences"):
        ours.build()[0].inter_matrix()


def test_a_saved_data_set_is_read_again(tmp_path):
    config = Config("TIGER", "ml-100k", config_dict={**SMALL, "save_dataset": True})
    config["checkpoint_dir"] = str(tmp_path)
    ours = datasets.create_dataset(config)
    (file,) = tmp_path.glob("*.pth")
    again = Config("TIGER", "ml-100k", config_dict={**SMALL, "dataset_save_path": str(file)})
    found = datasets.create_dataset(again)
    assert type(found) is SequenceDataset
    for mine, stored in zip(ours.build(), found.build(), strict=True):
        for left, right in zip(split_rows(mine, config), split_rows(stored, config), strict=True):
            np.testing.assert_array_equal(left, right)


def test_histories_are_not_stored():
    config, ours, _ = both({"MAX_ITEM_LIST_LENGTH": 20})
    train = ours.build()[0]
    assert all(train.inter_feat[field].dim() == 1 for field in train.inter_feat)
    assert config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"] not in train.inter_feat


def test_recboles_models_read_recboles_data_set():
    config = Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": None})
    assert type(datasets.create_dataset(config)) is SequentialDataset
