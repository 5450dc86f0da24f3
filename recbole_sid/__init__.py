"""Semantic IDs and generative recommendation for RecBole.

The names below load on first use, so that the NumPy core (``recbole_sid.sid``) works without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from recbole_sid.version import __version__
from recbole_sid.versions import check_versions

check_versions()

_HOME = {
    "Config": "config",
    "InputError": "errors",
    "Recommendation": "inference",
    "Recommender": "serving.recommender",
    "SemanticIDs": "sid.table",
    "append": "serving.append",
    "compare": "comparison.compare",
    "compare_sids": "sid_report",
    "evaluate": "inference",
    "export": "serving.export",
    "load": "stored_run",
    "load_data_and_model": "stored_run",
    "make_ads": "ads.world",
    "prepare": "preparing",
    "read_sids": "sid.published",
    "recommend": "inference",
    "register": "stock",
    "register_generator": "registry",
    "register_model": "registry",
    "register_tokenizer": "registry",
    "report": "page.report",
    "run": "quick_start",
    "summarize": "summarizing",
    "tokenize": "tokenizing",
    "tune": "tuning.tune",
    "unregister": "stock",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recbole_sid' has no attribute {name!r}")
    return getattr(importlib.import_module(f"recbole_sid.{_HOME[name]}"), name)
