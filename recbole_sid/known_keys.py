"""Which settings there are, and whose: those that nothing reads are refused by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import recbole
from recbole.utils import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import read_yaml
from recbole_sid.registry import ComponentSpec, components
from recbole_sid.resources import resource_dir

logger = logging.getLogger("recbole_sid")

# Settings that RecBole reads although none of its yaml files has them.
RECBOLE_KEYS = frozenset(
    [
        "model",
        "dataset",
        "config_files",
        "config_file",
        "nproc",
        "world_size",
        "ip",
        "port",
        "local_rank",
        "offset",
        "verbose",
        "numerical_features",
        "reg_weight",
        "encoding",
        "tail_ratio",
    ]
)


def check_keys(given: Iterable[str], known: Iterable[str], used: Iterable[ComponentSpec]) -> None:
    """Refuse settings that nothing reads.

    Args:
        given: keys of the user's files, dictionary and command line.
        known: keys that have a default, and RecBole's own.
        used: the tokenizer of this run, and its generator or the model that has none.

    Raises:
        InputError: a key belongs to another component, or to nothing; the nearest key is named.
    """
    in_use = {spec.kind: spec for spec in used}
    own = {key for spec in in_use.values() for key in spec.keys}
    known = {*known, *own, *RECBOLE_KEYS}
    for key in given:
        if key not in own and (owners := owners_of(key)):
            kind = owners[0].kind
            names = " or ".join(f"'{spec.name}'" for spec in owners if spec.kind == kind)
            problem, choice = "which is not run here", f", or choose --{kind}={owners[0].name}"
            if kind in in_use:
                problem = f"not to '{in_use[kind].name}'"
            elif kind == "generator":
                problem, choice = f"and '{in_use['model'].name}' has none", ""
            raise InputError(
                f"setting '{key}' belongs to {kind} {names}, {problem}: remove it{choice}"
            )
        if key not in known:
            raise InputError(f"unknown setting '{key}'.{did_you_mean(key, known)}")


def check_stock_keys(given: Iterable[str], known: Iterable[str]) -> None:
    """Warn of settings that a run of one of RecBole's models does not read.

    The class of such a model may be the user's own and read settings that stand in no yaml file, so
    that an unknown one is no error.

    Args:
        given: keys of the user's files, dictionary and command line.
        known: keys that have a default for this model, and RecBole's own.

    Raises:
        InputError: a key belongs to a tokenizer or generator and to nothing of RecBole.
    """
    for key in sorted({*given}.difference(known, RECBOLE_KEYS)):
        if key in recbole_keys():
            continue
        if owners := owners_of(key):
            raise InputError(
                f"setting '{key}' belongs to {owners[0].kind} '{owners[0].name}', but the model is "
                "RecBole's and has none: remove it, or choose a model of recbole_sid"
            )
        if key not in our_keys():
            logger.warning(
                "unknown setting '%s': it is in no yaml file of RecBole or recbole_sid.%s",
                key,
                did_you_mean(key, {*known, *recbole_keys()}),
            )


@cache
def recbole_keys() -> frozenset[str]:
    """Every setting of RecBole: of its yaml files, of its argument lists, and those beside them."""
    files = (Path(recbole.__file__).parent / "properties").rglob("*.yaml")
    lists = (general_arguments, training_arguments, evaluation_arguments, dataset_arguments)
    return RECBOLE_KEYS.union(*map(read_yaml, files), *lists)


def our_keys() -> set[str]:
    """Every setting of our yaml files, and of all components that are registered."""
    files = [
        file
        for folder in ("properties", "dataset_configs")
        for file in resource_dir(folder).rglob("*.yaml")
    ]
    own = [spec.keys for spec in components()]
    return set().union(*map(read_yaml, files), *own)


def owners_of(key: str) -> list[ComponentSpec]:
    """The components, of all that are registered, that have a setting called ``key``."""
    return [spec for spec in components() if key in spec.keys]
