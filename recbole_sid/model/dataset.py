"""The interactions of a run as RecBole's data set, each user's sequence stored once.

RecBole expands a user of n interactions into n - 1 rows, each with its whole history of every
column, in a Python loop (recbole/data/dataset/sequential_dataset.py:76-156). Here a row holds where
its history begins, and the history is cut out of the sequence when the row is asked for. What reads
a split goes through the functions below, which take either kind of data set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_sid.generator.sequences import Sequences, chain
from recbole_sid.items.pairs import Interactions
from recbole_sid.items.ragged import places_in_row, ranges, starts_of

if TYPE_CHECKING:
    from recbole_sid.config import Config

# Column of a row's place in ``sequence_items``: where its history begins.
START = "history_start"


class SequenceDataset(SequentialDataset):
    """RecBole's sequential data set without its prefix expansion: same rows, same splits.

    A row is a user, a target with its other columns, and the length of its history; ``dataset[i]``
    adds the history of items, and no list of another column. Files that are split already
    (``benchmark_filename``) bring their histories and are read as by RecBole.

    Attributes:
        sequence_items: int64 (interactions,), the items of all users in the order of users and
            times; the target of a row follows its history. None where the files bring histories.
    """

    sequence_items: Tensor | None = None
    inter_feat: Any

    def data_augmentation(self) -> None:
        """Make the rows. Called by RecBole once the columns are tensors."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        first = np.diff(users, prepend=-1) != 0
        begins = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))
        targets = np.flatnonzero(~first)
        lengths = np.minimum(targets - begins[targets], self.max_item_list_len)
        self.sequence_items = self.inter_feat[self.iid_field]
        self.inter_feat = _taken(self.inter_feat, targets)
        self.inter_feat[self.item_list_length_field] = torch.from_numpy(lengths)
        self.inter_feat[START] = torch.from_numpy(targets - lengths)

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        rows = self.inter_feat[index]
        if self.sequence_items is not None:
            lengths = rows[self.item_list_length_field]
            histories = self._histories(rows[START], lengths)
            rows.drop(START)
            rows.update(Interaction({self.item_id_list_field: histories}))
        return self.join(rows) if join else rows

    def _histories(self, starts: Tensor, lengths: Tensor) -> Tensor:
        """int64 (n, W), left aligned, 0 on the right."""
        assert self.sequence_items is not None
        place = torch.arange(self.max_item_list_len)
        held = place < lengths[..., None]  # (n, W)
        index = torch.where(held, starts[..., None] + place, 0)
        return torch.where(held, self.sequence_items[index], 0)

    def leave_one_out(self, group_by: str, leave_one_mode: str) -> list[SequenceDataset]:
        """As RecBole's, in the same order of rows, without its loop over rows and users."""
        if leave_one_mode != "valid_and_test" or group_by is None:
            return super().leave_one_out(group_by, leave_one_mode)
        groups = self.inter_feat[group_by].numpy()
        _, first, group, counts = np.unique(
            groups, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(first[group], kind="stable")  # groups by their first row
        from_the_end = counts[group[order]] - 1 - places_in_row(counts[np.argsort(first)])
        # A group of one row trains, of two rows the second one tests.
        tests = (from_the_end == 0) & (counts[group[order]] >= 2)
        validates = (from_the_end == 1) & (counts[group[order]] >= 3)
        self._drop_unused_col()
        parts = (~tests & ~validates, validates, tests)
        return [self.copy(_taken(self.inter_feat, order[part])) for part in parts]

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """As RecBole's, where the files bring histories.

        Raises:
            NotImplementedError: they do not; RecBole finds a user's first item in the histories.
        """
        if self.sequence_items is not None:
            raise NotImplementedError("take split_sequences: rows hold no histories here")
        return super().inter_matrix(form, value_field)


def _taken(rows: Interaction, index: np.ndarray) -> Interaction:
    """The rows at ``index``; RecBole's own indexing makes a list of it first."""
    places = torch.from_numpy(index)
    return Interaction({field: rows[field][places] for field in rows})


def split_rows(dataset: Any, config: Config) -> tuple[np.ndarray, ...]:
    """Users, histories, lengths and targets of a built split, training or another, as arrays.

    Histories (N, W) take W numbers a row: ask for them of the validation and the test split, and of
    the training split for :func:`split_sequences`.
    """
    rows = dataset.inter_feat
    users, lengths, targets = _columns(rows, config)
    if _is_expanded(dataset):
        histories = rows[config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]].numpy()
    else:
        starts = rows[START]
        histories = dataset._histories(starts, torch.from_numpy(lengths)).numpy()
    return users, histories, lengths, targets


def split_sequences(dataset: Any, config: Config) -> Sequences:
    """The rows of a built split, chained as :func:`.sequences.chain` does."""
    if _is_expanded(dataset):
        return chain(*split_rows(dataset, config))
    users, lengths, _ = _columns(dataset.inter_feat, config)
    starts = dataset.inter_feat[START].numpy()
    order = np.argsort(users, kind="stable")
    users, lengths, starts = users[order], lengths[order], starts[order]
    places = starts + lengths  # of the targets
    continues = np.zeros(len(users), bool)
    continues[1:] = (np.diff(users) == 0) & (np.diff(places) == 1)
    heads = np.flatnonzero(~continues)
    counts = lengths[heads] + np.diff(np.append(heads, len(users)))
    items = dataset.sequence_items.numpy()[ranges(starts[heads], counts)]
    return Sequences(
        items.astype(np.int64), starts_of(counts), users[heads].astype(np.int64), lengths[heads]
    )


def training_interactions(dataset: Any, config: Config) -> Interactions:
    """Every (user, item) of a built split, histories and targets; items count from 0."""
    sequences = split_sequences(dataset, config)
    users = np.repeat(sequences.users, np.diff(sequences.offsets))
    return Interactions(users, sequences.items - 1)


def _is_expanded(dataset: Any) -> bool:
    return not isinstance(dataset, SequenceDataset) or dataset.sequence_items is None


def _columns(rows: Interaction, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, lengths of the histories, and targets."""
    fields = config["USER_ID_FIELD"], config["ITEM_LIST_LENGTH_FIELD"], config["ITEM_ID_FIELD"]
    users, lengths, targets = (rows[field].numpy() for field in fields)
    return users, lengths, targets
