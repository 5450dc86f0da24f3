"""Small models on small data, ready to train."""

from pathlib import Path

import torch

from recbole_sid.config import Config
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.reading import read_data
from tests.runs import SMALL


def build(cache: str | Path, dataset: str = "ml-100k", **changes):
    base = SMALL if dataset == "ml-100k" else uncut({})
    config = Config("TIGER", dataset, config_dict={**base, "cache_dir": str(cache), **changes})
    _, loaders = read_data(config)
    torch.manual_seed(0)
    return config, loaders, SIDRecommender(config, loaders[0].dataset)


def uncut(settings: dict) -> dict:
    """The small settings for a data set of a few rows."""
    kept = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    return kept | {"topk": [2], "valid_metric": "NDCG@2"} | settings
