"""What is searched: settings and their values, read from RecBole's text format or from yaml.

A line of RecBole's format is ``key kind values``: ``layers choice [1, 2]``, ``dropout uniform
0, 0.5``, ``dropout quniform 0, 0.5, 0.1``, ``learning_rate loguniform -8, -4``. There the bounds of
``loguniform`` are exponents of e, as in hyperopt; in yaml, ``learning_rate: {loguniform: [3e-4,
2e-2]}``, they are the values themselves. RecBole evaluates the values of a choice as Python
(recbole/trainer/hyper_tuning.py:225). Here nothing is evaluated, and code is refused.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import MAX_YAML_BYTES, parse_value, read_yaml

KINDS = {"choice": "[A, B, …]", "uniform": "LOW, HIGH", "loguniform": "LOW, HIGH"}
KINDS["quniform"] = "LOW, HIGH, STEP"
_YAML = (".yaml", ".yml")
_CODE = re.compile(r"__|\w\(|\*|;|\b(?:lambda|import|for|eval|exec)\b")
_MOST = 1e300  # the numbers of a space are further from infinity than any step could lead
_DIGITS = 6  # of a number that is drawn: what stands in a table is what is trained with


@dataclass(frozen=True)
class Dimension:
    """A setting and what it may be.

    ``numbers``: low and high, for ``quniform`` and the step; empty for a ``choice``.
    ``values``: of a ``choice``; empty for the others.
    """

    key: str
    kind: str
    values: tuple[Any, ...] = ()
    numbers: tuple[float, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values of a choice, else the bounds: what is checked before a search."""
        return self.values or tuple(self.value(number) for number in self.numbers[:2])

    def value(self, raw: float) -> Any:
        """The setting that a drawn number stands for: of a choice, its place among the values.

        Numbers are cut to six digits and held within the bounds. A ``quniform`` of whole bounds and
        step gives whole numbers.
        """
        if self.kind == "choice":
            return self.values[int(raw)]
        low, high = self.numbers[:2]
        cut = min(max(float(f"{raw:.{_DIGITS}g}"), low), high)
        whole = self.kind == "quniform" and all(number.is_integer() for number in self.numbers)
        return round(cut) if whole else cut

    def grid(self) -> list[float] | None:
        """All numbers that can be drawn, or None where they are not counted."""
        if self.kind == "choice":
            return [float(place) for place in range(len(self.values))]
        if self.kind != "quniform":
            return None
        low, high, step = self.numbers
        return [n * step for n in range(round(low / step), round(high / step) + 1)]

    def position(self, value: Any) -> float:
        """Where a value stands on an axis: its place, its logarithm, or itself."""
        if self.kind == "choice":
            return float(self.values.index(value))
        return math.log(value) if self.kind == "loguniform" else float(value)


@dataclass(frozen=True)
class Space:
    """The settings that are searched, in the order of the file."""

    dimensions: tuple[Dimension, ...]

    @property
    def keys(self) -> list[str]:
        return [dimension.key for dimension in self.dimensions]

    def settings(self, raw: Mapping[str, float]) -> dict[str, Any]:
        """The settings of a trial, from the numbers that were drawn."""
        return {one.key: one.value(raw[one.key]) for one in self.dimensions}

    def grid(self) -> list[dict[str, float]]:
        """Every combination, as numbers that could be drawn.

        Raises:
            InputError: a setting has no end of values.
        """
        columns = []
        for one in self.dimensions:
            column = one.grid()
            if column is None:
                raise InputError(
                    f"'{one.key}' of the space is {one.kind}, which has no end of values: an "
                    "exhaustive search needs choice or quniform. Or take --algo random or bayes"
                )
            columns.append(column)
        return [dict(zip(self.keys, row, strict=True)) for row in itertools.product(*columns)]

    def plain(self) -> dict[str, Any]:
        """As it would stand in a yaml file."""
        return {one.key: {one.kind: list(one.values or one.numbers)} for one in self.dimensions}


def read_space(path: str | Path) -> Space:
    """The space in a file: yaml by its ending, else RecBole's text format.

    Raises:
        InputError: names the line or key that is not understood.
    """
    path = Path(path)
    if path.suffix.lower() in _YAML:
        dimensions = [_of_yaml(path, key, value) for key, value in read_yaml(path).items()]
    else:
        dimensions = _of_lines(path)
    if not dimensions:
        raise InputError(
            f"space file '{path}' holds no setting: write lines as 'layers choice [1, 2]'"
        )
    return Space(tuple(dimensions))


def _of_lines(path: Path) -> list[Dimension]:
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_YAML_BYTES + 1).decode("utf-8").splitlines()
            more = file.tell() > MAX_YAML_BYTES
    except (OSError, ValueError) as error:
        raise InputError(f"space file '{path}' cannot be read: {error}") from error
    if more:
        raise InputError(f"space file '{path}' has more than {MAX_YAML_BYTES:,} bytes: no space")
    found: dict[str, Dimension] = {}
    for number, line in enumerate(lines, start=1):
        parts = line.split(None, 2)
        if not parts or parts[0].startswith("#"):
            continue
        where = f"space file '{path}', line {number}"
        if len(parts) < 3:
            raise InputError(f"{where}: '{line.strip()}' is not 'key kind values'")
        key, kind, text = parts
        if key in found:
            raise InputError(f"{where}: '{key}' comes twice")
        _require_kind(where, kind)
        values = parse_value(text.strip()) if kind == "choice" else _numbers(where, text)
        if kind == "loguniform" and all(map(_is_number, values)):
            if max(values, default=0) > math.log(_MOST):
                raise InputError(f"{where}: {text} are exponents of e, and e to them is no number")
            values = [math.exp(value) for value in values]
        found[key] = _dimension(f"{where}, '{key}'", key, kind, values)
    return list(found.values())


def _of_yaml(path: Path, key: str, value: Any) -> Dimension:
    where = f"space file '{path}', '{key}'"
    if not isinstance(value, dict) or len(value) != 1:
        raise InputError(f"{where}: {value!r} is not one kind with its values, {{choice: [1, 2]}}")
    ((kind, values),) = value.items()
    _require_kind(where, kind)
    return _dimension(where, key, kind, values)


def _require_kind(where: str, kind: Any) -> None:
    if kind not in KINDS:
        raise InputError(
            f"{where}: unknown kind '{kind}'.{did_you_mean(str(kind), KINDS)} Known: "
            f"{', '.join(KINDS)}"
        )


def _numbers(where: str, text: str) -> list[Any]:
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    return [parse_value(part.strip()) for part in parts]


def _dimension(where: str, key: str, kind: str, values: Any) -> Dimension:
    wanted = f"{where}: {kind} takes {KINDS[kind]}"
    if not isinstance(values, (list, tuple)):
        _refuse_code(where, values)
        raise InputError(f"{wanted}, not {values!r}")
    if kind == "choice":
        _refuse_code(where, values)
        for value in values:
            if not _is_plain(value):
                raise InputError(
                    f"{where}: {value!r} is no setting: a choice is of finite numbers, texts, "
                    "true, false, ~, and lists and mappings of these"
                )
        if not values or len(set(map(repr, values))) < len(values):
            raise InputError(f"{wanted}, each value once, not {list(values)!r}")
        return Dimension(key, kind, values=tuple(values))
    if not all(map(_is_number, values)) or len(values) != len(KINDS[kind].split(",")):
        raise InputError(f"{wanted}, numbers, not {list(values)!r}")
    low, high, *step = (float(value) for value in values)
    if not low < high or (step and not 0 < step[0] <= high - low):
        raise InputError(f"{wanted}, LOW below HIGH and a STEP between 0 and HIGH - LOW")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{wanted}, LOW above 0, not {low}")
    return Dimension(key, kind, numbers=(low, high, *step))


def _is_number(value: Any) -> bool:
    # NaN fails the comparison.
    return type(value) in (int, float) and abs(value) <= _MOST


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, (str, bool)) or _is_number(value)


def _refuse_code(where: str, value: Any) -> None:
    if isinstance(value, (list, tuple, dict)):
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            _refuse_code(where, one)
    elif isinstance(value, str) and _CODE.search(value):
        raise InputError(
            f"{where}: {value!r} looks like code, and nothing is evaluated: write out the values"
        )
