"""Typed settings: from RecBole's flat dictionary to frozen dataclasses that check themselves.

A component (a tokenizer, a generator, the text encoder …) declares its settings as a frozen
dataclass without defaults; the defaults stand in a yaml file under ``properties/``. ``build`` fills
the dataclass, checks each value against its annotation, and leaves bounds to ``__post_init__``.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from recbole_sid.errors import InputError, short

T = TypeVar("T")

_MOST = 2**63  # numpy and torch hold no more


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Fill the dataclass ``cls`` from ``values[prefix + field]``.

    Args:
        cls: a frozen dataclass; supported annotations are ``int``, ``float``, ``bool``, ``str``,
            ``list[...]``, ``tuple[...]``, ``dict``, ``Literal[...]`` and unions with ``None``.
        values: the flat settings, for example RecBole's ``final_config_dict``.
        prefix: put before every field name, such as ``tokenizer_``.

    Raises:
        InputError: a key is missing, or a value is not of the field's type or out of bounds.
    """
    hints = typing.get_type_hints(cls)
    filled = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        key = prefix + field.name
        if key not in values:
            raise InputError(
                f"setting '{key}' has no value: it is missing from the defaults in properties/"
            )
        filled[field.name] = _coerce(key, values[key], hints[field.name])
    return cls(**filled)


def keys(cls: type, prefix: str = "") -> list[str]:
    """The names of the flat settings that ``build(cls, …, prefix)`` reads."""
    return [prefix + field.name for field in dataclasses.fields(cls)]


def require(condition: bool, key: str, value: object, bound: str, remedy: str = "") -> None:
    """Unless ``condition``: :class:`InputError` "``key`` is ``value``, but must be ``bound``"."""
    if not condition:
        end = f". {remedy}" if remedy else ""
        raise InputError(f"setting '{key}' is {short(value)}, but must be {bound}{end}")


def _coerce(key: str, value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        require(value in choices, key, value, "one of " + ", ".join(map(repr, choices)))
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is type(None):
                continue
            try:
                return _coerce(key, value, option)
            except InputError:
                continue
        raise InputError(f"setting '{key}' is {short(value)}, but must be {_describe(hint)}")
    if origin in (list, tuple):
        require(isinstance(value, (list, tuple)), key, value, _describe(hint))
        element = (typing.get_args(hint) or (Any,))[0]
        return origin(_coerce(f"{key}[{i}]", v, element) for i, v in enumerate(value))
    if hint is dict or origin is dict:
        require(isinstance(value, Mapping), key, value, "a mapping")
        return dict(value)
    if hint is float:
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(ok, key, value, "a number")
        # NaN fails the comparison; a whole number may be beyond what a float holds.
        require(abs(value) <= sys.float_info.max, key, value, "finite")
        return float(value)
    if hint is int:
        # 1e3 arrives as a float from YAML; a whole number in any spelling is accepted.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        require(
            isinstance(value, int) and not isinstance(value, bool), key, value, "a whole number"
        )
        require(abs(value) < _MOST, key, value, f"a whole number below {_MOST}")
        return value
    if hint is bool:
        require(isinstance(value, bool), key, value, "true or false")
        return value
    if hint is str:
        require(isinstance(value, str), key, value, "text")
        return value
    raise TypeError(f"setting '{key}': annotation {hint!r} is not supported")


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if hint is type(None):
        return "empty (~)"
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin in (list, tuple):
        return f"a list of {_describe((args or (Any,))[0])} values" if args else "a list"
    if hint is dict or origin is dict:
        return "a mapping"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, str(hint))
