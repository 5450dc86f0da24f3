"""The arguments of a command, parsed and checked, and how figures are printed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import parse_command_line
from recbole_sid.resources import resource_dir

_PATHS = (
    *("run", "histories", "output", "summary_model"),
    *("mapping", "preset", "reviews", "meta", "folder", "temp_folder", "settings", "sids"),
    *("space", "figures", "scores", "allowed_items", "cache_dir"),
    *("item_embedding_file", "item_embedding_ids", "item_image_file", "item_image_ids"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FLAGS = (
    *("overwrite", "exclude_history", "show_progress", "item_summary_brand", "strict"),
    *("report_vectors", "progress"),
)


def checked_arguments(
    command: str, arguments: Sequence[str], known: Sequence[str] | None, needed: Sequence[str]
) -> dict[str, Any]:
    """The arguments of a command, parsed and checked.

    Args:
        known: all of them; None leaves unknown ones to whom they are given to.
        needed: those that must be given.
    """
    values, alone = parse_command_line(arguments)
    for key in values:
        if known is not None and key not in known:
            raise InputError(
                f"unknown argument --{key} of {command}.{did_you_mean(key, known)} Known: "
                f"{', '.join(known)}"
            )
    for key in needed:
        if key not in values:
            raise InputError(f"{command} needs --{key}; see --help")
    for key in alone:
        if key not in _FLAGS:
            raise InputError(f"argument '{key}' needs a value: --{key}=VALUE")
    for key in _PATHS:
        if key in values and not isinstance(values[key], str):
            raise InputError(f"--{key} is {values[key]!r}, not a name: write it as ./NAME")
        if key in values and _CONTROL.search(values[key]):
            raise InputError(f"--{key} is {values[key]!r}, but a path has no control characters")
    for key in ("overwrite", "strict"):
        if not isinstance(values.get(key, False), bool):
            raise InputError(f"--{key} is {values[key]!r}, but must be true or false")
    return values


def config_files(values: Mapping[str, Any]) -> list[str]:
    """The user's files above the default model and dataset."""
    defaults = str(resource_dir("properties") / "run.yaml")
    return [defaults, *str(values.get("config_files", "")).split()]


def line(name: str, figures: Mapping[str, float]) -> str:
    """One line of figures: ``name: recall@10 0.0912  ndcg@10 0.0442``."""
    return f"{name}: " + "  ".join(f"{key} {value:.4f}" for key, value in figures.items())


def print_figures(valid: Mapping[str, float] | None, test: Mapping[str, float] | None) -> None:
    """A line for validation and one for the test split."""
    for split, result in (("valid", valid), ("test", test)):
        print(line(split, result) if result else f"{split}: not measured")
