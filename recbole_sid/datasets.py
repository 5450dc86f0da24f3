"""The data set of a run, read and split by RecBole: with every row, and no pickle unasked.

RecBole is subclassed, not patched, but for how its files are read, which is switched for the length
of one call.
"""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pandas as pd
import recbole.data.dataset.dataset
import recbole.data.utils
from pandas._libs.parsers import STR_NA_VALUES
from recbole.utils import ModelType

from recbole_sid import registry
from recbole_sid.items.interactions import check_rows
from recbole_sid.model.dataset import SequenceDataset
from recbole_sid.model.history_loader import leave_out_histories
from recbole_sid.splitting import parse_times, split_at
from recbole_sid.withholding import withhold

_logger = logging.getLogger("recbole_sid")


def create_dataset(config: Any) -> Any:
    """RecBole's dataset for ``config``, with every row, without RecBole's unasked ``pickle.load``.

    Files are read as :func:`texts_as_written`. RecBole also reads the pickle
    ``{checkpoint_dir}/{dataset}-{class}.pth`` whenever that file exists, and a pickle runs code
    (recbole/data/utils.py:52-58). Here a pickle is read only when ``dataset_save_path`` names it.
    ``save_dataset`` writes into the checkpoint folder as before. Under ``split_times`` the dataset
    splits itself at these times (:mod:`recbole_sid.splitting`); ``withheld_items`` drops rows
    before (:mod:`recbole_sid.withholding`).

    Generative models of ours read into a :class:`~recbole_sid.model.dataset.SequenceDataset`, which
    has RecBole's rows without their expansion; with ``dataset_save_path``, which may name one of
    RecBole's, they take what RecBole gives.
    """
    _warn_about_pickle(config, "dataset_save_path")
    with _empty_checkpoint_dir(config, "save_dataset"), texts_as_written():
        if reads_sequences(config):
            dataset = SequenceDataset(config)
        else:
            dataset = recbole.data.utils.create_dataset(config)
    if config["save_dataset"]:
        dataset.save()
    times = parse_times(config["split_times"])
    if config["withheld_items"]:
        withhold(dataset, config["withheld_items"], times)
    return dataset if times is None else split_at(dataset, times)


def reads_sequences(config: Any) -> bool:
    """Whether :func:`create_dataset` reads without RecBole's prefix expansion."""
    spec = registry.model(config["model"])
    generates = spec is not None and spec.generator is not None
    return generates and not config["dataset_save_path"]


def data_preparation(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """RecBole's three loaders, without its unasked ``pickle.load`` (recbole/data/utils.py:113-121).

    A pickle is read only when ``dataloaders_save_path`` names it. Under ``exclude_history`` those
    of RecBole's sequential models leave histories out; our models do so in their search.
    """
    _warn_about_pickle(config, "dataloaders_save_path")
    with _empty_checkpoint_dir(config, "save_dataloaders"):
        loaders = recbole.data.utils.data_preparation(config, dataset)
    if config["save_dataloaders"]:
        # Saving takes the random generators out of the loaders; give them back afterwards.
        generators = [loader.generator for loader in loaders]
        recbole.data.utils.save_split_dataloaders(config, loaders)
        for loader, generator in zip(loaders, generators, strict=True):
            loader.generator = generator
            loader.sampler.generator = generator
    sequential = config["MODEL_TYPE"] is ModelType.SEQUENTIAL
    if config["exclude_history"] and sequential and registry.model(config["model"]) is None:
        return leave_out_histories(config, loaders)
    return loaders


@contextmanager
def texts_as_written() -> Iterator[None]:
    """Datasets that are built in the block keep quotes, and words such as ``NA`` in token columns.

    RecBole reads its files with pandas' defaults (recbole/data/dataset/dataset.py:486-493), so a
    cell that starts with ``"`` swallows the rows up to the next quote or ends the run, and an item
    named ``NA``, ``null`` or ``None`` is dropped as missing. Here quotes have no meaning, and only
    an empty cell is missing. In ``float`` and ``float_seq`` columns pandas' words stay missing.
    """
    module = recbole.data.dataset.dataset
    before = module.pd
    module.pd = SimpleNamespace(**{**vars(pd), "read_csv": _read_atomic_file})
    try:
        yield
    finally:
        module.pd = before


def _read_atomic_file(path: str, *, usecols: list[str], **given: Any) -> pd.DataFrame:
    """``pandas.read_csv`` for columns that are named ``name:type``."""
    check_rows(path, usecols, given["delimiter"])
    missing = {
        column: list(STR_NA_VALUES) if column.endswith((":float", ":float_seq")) else [""]
        for column in usecols
    }
    return pd.read_csv(
        path,
        usecols=usecols,
        quoting=csv.QUOTE_NONE,
        na_values=missing,
        keep_default_na=False,
        index_col=False,  # else, in rows with a separator at the end, the ids become row names
        **given,
    )


def _warn_about_pickle(config: Any, key: str) -> None:
    if config[key]:
        _logger.warning(
            "%s: reading the pickle '%s'; a pickle can run code, read only your own",
            key,
            config[key],
        )


@contextmanager
def _empty_checkpoint_dir(config: Any, save_key: str) -> Iterator[None]:
    """RecBole looks for caches in a new, empty folder, and saves none there."""
    before = config["checkpoint_dir"], config[save_key]
    with tempfile.TemporaryDirectory() as empty:
        config["checkpoint_dir"], config[save_key] = empty, False
        try:
            yield
        finally:
            config["checkpoint_dir"], config[save_key] = before
