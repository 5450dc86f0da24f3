"""The data set of a run, read and split by RecBole; what it cannot read is told as bad input."""

from __future__ import annotations

import logging
from typing import Any

from recbole.data.dataset import Dataset
from recbole.utils import EvaluatorType

from recbole_sid import datasets
from recbole_sid.config import Config
from recbole_sid.errors import InputError

logger = logging.getLogger("recbole_sid")


def read_data(config: Config) -> tuple[Dataset, tuple[Any, Any, Any]]:
    """RecBole's dataset, and its loaders of the training, validation and test split.

    Raises:
        InputError: RecBole cannot read or split the files, nothing is left to train on, or the
            lists that are scored are longer than the catalogue.
    """
    try:
        data = datasets.create_dataset(config)
        loaders = datasets.data_preparation(config, data)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"RecBole cannot read or split the data in '{config['data_path']}': "
            f"{type(error).__name__}: {str(error).rstrip('.')}. Look at the columns and their "
            "types, and at the settings that filter and split (val_interval, "
            "user_inter_num_interval, item_inter_num_interval, eval_args)"
        ) from error
    if len(loaders[0].dataset) == 0:
        raise InputError(
            f"the training split of '{config['dataset']}' is empty: no user has enough "
            "interactions after filtering. Relax user_inter_num_interval, item_inter_num_interval "
            "or val_interval"
        )
    n_items = data.item_num - 1
    if config["eval_type"] is EvaluatorType.RANKING and max(config["topk"]) > n_items:
        raise InputError(
            f"setting 'topk' is {config['topk']}, but must be at most {n_items}, the number of "
            f"items in '{config['dataset']}'"
        )
    for name, loader in zip(("validation", "test"), loaders[1:], strict=True):
        if len(loader.dataset) == 0:
            logger.warning("The %s split is empty: it is not measured", name)
    return data, loaders
