"""RecBole's loader of whole lists for its sequential models, which leaves out what a user had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_sid.errors import InputError
from recbole_sid.model.dataset import split_rows, split_sequences
from recbole_sid.model.exclusion import EarlierItems, contains

logger = logging.getLogger("recbole_sid")

_AT_ONCE = 1024  # rows whose earlier items are laid side by side


class HistoryLeftOut(FullSortEvalDataLoader):
    """Batches of a split that name each row's earlier items, whose scores the trainer then drops.

    RecBole does so for its general models, and gives no such items for sequential ones
    (recbole/data/dataloader/general_dataloader.py:277-284, trainer/trainer.py:538). A target among
    its user's earlier items is dropped with them: it counts as a miss, as under our own models.
    """

    def __init__(self, config: Any, dataset: Any, sampler: Any, before: Sequence[Any]):
        """
        Args:
            config: that of the run.
            dataset: the split that is ranked, with at least one row.
            sampler: of the loader that this one replaces.
            before: the splits before it; all that their users had counts.

        Raises:
            InputError: a user has had so much that no whole list remains.
        """
        super().__init__(config, dataset, sampler)
        rows = split_rows(dataset, config)
        earlier = [split_sequences(split, config) for split in before]
        self._earlier = EarlierItems(rows, earlier, dataset.user_num)
        repeated, most = self._count(rows[3])
        remaining, longest = dataset.item_num - 1 - most, max(config["topk"])
        if remaining < longest:
            # RecBole would fill the list with items that were dropped, the target among them.
            raise InputError(
                f"setting 'exclude_history' is True, but leaves a user {remaining} items, fewer "
                f"than max(topk) = {longest}: shorten topk, or set it to False"
            )
        if repeated:
            logger.info(
                "exclude_history: %s of %s targets are items that their users had before; they "
                "count as misses",
                f"{repeated:,}",
                f"{len(rows[3]):,}",
            )

    def collate_fn(self, index: Sequence[int]) -> tuple[Any, ...]:
        interaction, _, positive_rows, positive_items = super().collate_fn(index)
        excluded = self._earlier.of(np.array(index))  # (B, E)
        rows, places = torch.nonzero(excluded, as_tuple=True)
        return interaction, (rows, excluded[rows, places]), positive_rows, positive_items

    def _count(self, targets: np.ndarray) -> tuple[int, int]:
        """How many targets their users had before, and the most items that a row leaves out."""
        repeated = most = 0
        for begin in range(0, len(targets), _AT_ONCE):
            rows = np.arange(begin, min(begin + _AT_ONCE, len(targets)))
            excluded = self._earlier.of(rows)
            repeated += int(contains(excluded, torch.from_numpy(targets[rows])[:, None]).sum())
            most = max(most, int((excluded > 0).sum(dim=1).max()))
        return repeated, most


def leave_out_histories(config: Any, loaders: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The three loaders, those of validation and test as :class:`HistoryLeftOut`."""
    train, valid, test = loaders
    before = [train.dataset, valid.dataset]
    return train, _replaced(config, valid, before[:1]), _replaced(config, test, before)


def _replaced(config: Any, loader: Any, before: Sequence[Any]) -> Any:
    if not len(loader.dataset):
        return loader
    return HistoryLeftOut(config, loader.dataset, loader._sampler, before)
