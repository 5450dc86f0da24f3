"""Let RecBole's own ``run_recbole``, ``objective_function`` and ``HyperTuning`` find our models."""

from __future__ import annotations

import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import recbole.quick_start.quick_start as stock
import recbole.trainer

from recbole_sid import compat, registry
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.known_keys import our_keys, recbole_keys
from recbole_sid.quick_start import checked_config

_PACKAGE = "recbole.model.sequential_recommender"
_stock_config = stock.Config
_aliases: dict[str, ModuleType] = {}
_warned: set[str] = set()
logger = logging.getLogger("recbole_sid")


def register() -> None:
    """Make every model of the registry known to stock RecBole by its name, with our defaults.

    RecBole finds a model as ``recbole.model.<family>.<name>`` and its trainer as
    ``recbole.trainer.<name>Trainer`` (recbole/utils/utils.py:55-110): both get a new entry. One
    name is replaced, ``Config`` in ``recbole.quick_start.quick_start``, by ours. It reads
    ``sys.argv`` too, but only ``--key=value`` where key is a setting: other arguments are those of
    the calling program. :func:`unregister` undoes it all. Call this after your own
    ``register_model``.

    Raises:
        InputError: RecBole has a model module of that name in lower case.
    """
    unregister()
    compat.import_sequential_models()
    for name in registry.model_names():
        spec = registry.model(name)
        assert spec is not None
        path = f"{_PACKAGE}.{name.lower()}"
        if importlib.util.find_spec(path) is not None:
            raise InputError(
                f"model '{name}' cannot be registered with RecBole, which has a module {path}: "
                "choose another name"
            )
        module = ModuleType(path, f"{name} of recbole_sid, under the name RecBole looks for.")
        module.__spec__ = ModuleSpec(path, loader=None)
        setattr(module, name, spec.recommender)
        sys.modules[path] = _aliases[name] = module
        setattr(recbole.trainer, f"{name}Trainer", spec.trainer)
    stock.Config = _config


def unregister() -> None:
    """Undo :func:`register`."""
    stock.Config = _stock_config
    for name, module in _aliases.items():
        del sys.modules[module.__name__]
        delattr(recbole.trainer, f"{name}Trainer")
    _aliases.clear()
    _warned.clear()


def _config(*args: Any, **kwargs: Any) -> Config:
    return checked_config(*args, **kwargs, command_line=_settings_in_argv())


def _settings_in_argv() -> list[str]:
    """What RecBole would take from ``sys.argv``; the rest is left out, with one warning."""
    if "ipykernel_launcher" in sys.argv[0]:
        return []
    known = recbole_keys() | our_keys()
    taken: list[str] = []
    rest: list[str] = []
    for argument in sys.argv[1:]:
        key, equals, _ = argument.partition("=")
        is_setting = key.startswith("--") and equals and key[2:] in known
        (taken if is_setting else rest).append(argument)
    # Tuning makes a configuration for every trial.
    if not _warned.issuperset(rest):
        _warned.update(rest)
        logger.warning("arguments that are no settings are left to the program: %s", " ".join(rest))
    return taken
