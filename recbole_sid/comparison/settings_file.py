"""The settings file of a comparison: what is not the same for all of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid import registry
from recbole_sid.comparison.tuned import KEY as TUNED
from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import read_yaml

_PARTS = ("all", "models", "tokenizers", "generators")


def read_settings_file(
    path: str | Path | None, of_comparison: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """``all``, ``models``, ``tokenizers`` and ``generators`` of a settings file, empty without one.

    The folders under ``tuned`` are named from where the file lies.

    Args:
        of_comparison: the settings of the comparison itself.

    Raises:
        InputError: it is of another form, has an unknown name, or one model has a setting that
            holds for the whole comparison.
    """
    values = {} if path is None else read_yaml(path)
    for key in values:
        if key not in _PARTS:
            raise InputError(
                f"settings file '{path}' has '{key}', but holds 'all:', 'models:', 'tokenizers:' "
                f"and 'generators:' only.{did_you_mean(key, _PARTS)}"
            )
    file = {key: values.get(key) or {} for key in _PARTS}
    _require_mappings(path, file)
    for section in _PARTS[1:]:
        _require_mappings(path, file[section])
        file[section] = {name: part or {} for name, part in file[section].items()}
        for name, part in file[section].items():
            _refuse_shared(f"settings file '{path}', {section}: {name}", part, of_comparison)
            if TUNED in part:
                part[TUNED] = _placed(Path(str(path)), section, name, part[TUNED])
    for name in file["tokenizers"]:
        registry.tokenizer(name)
    for name in file["generators"]:
        registry.generator(name)
    return file


def _require_mappings(path: str | Path | None, parts: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        if part is not None and not isinstance(part, dict):
            raise InputError(f"settings file '{path}': '{name}' must hold 'key: value' lines")


def _refuse_shared(where: str, part: Mapping[str, Any], of_comparison: Sequence[str]) -> None:
    """Refuse what one model cannot have for itself; seeds it can."""
    for key in part:
        if key in of_comparison and key != "seeds":
            raise InputError(
                f"{where}: '{key}' is a setting of the whole comparison, not of one model: put it "
                f"under 'all:', or give --{key}"
            )
        if key in ("output", "resume"):
            raise InputError(
                f"{where}: '{key}' is nothing that one model has: each run has a folder in that of "
                "the comparison, and goes on there. Leave it out"
            )


def _placed(file: Path, section: str, name: str, folder: Any) -> str:
    """The folder of a search, from where the settings file lies."""
    where = f"settings file '{file}', {section}: {name}"
    if section == "tokenizers":
        raise InputError(
            f"{where}: '{TUNED}' is what a search found for one model: it stands inside one of "
            "'models:' or 'generators:'"
        )
    if not isinstance(folder, str):
        raise InputError(f"{where}: '{TUNED}' is {folder!r}, but must be a folder of tune")
    return str(file.parent / folder)
