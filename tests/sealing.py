"""Files of ours that a test edits, or writes by itself, with a seal that fits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from recbole_sid import seals

_DIGITS = re.compile(rb"(recbole_sid \S+ format \d+ sha256:)[0-9a-f]{64}")


def seal_again(path: Path, content: bytes | None = None) -> None:
    """Give an edited file, or one with this content, the seal that fits it."""
    content = path.read_bytes() if content is None else content
    with seals.written_sealed(path) as temporary:
        temporary.write_bytes(_DIGITS.sub(rb"\g<1>" + b"0" * 64, content))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as a sealed JSON file, in place of its earlier ones."""
    kept = {key: value for key, value in values.items() if key != seals.KEY}
    seal_again(path, json.dumps(kept | {seals.KEY: seals.blank()}).encode())


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write settings as those of a run are written."""
    seal_again(path, f"{yaml.safe_dump(dict(values))}# {seals.blank()}\n".encode())


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays as safetensors, sealed, whatever they are."""
    with seals.written_sealed(path) as temporary:
        save_file(dict(tensors), temporary, {**(metadata or {}), seals.KEY: seals.blank()})
