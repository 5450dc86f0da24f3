"""From text to values: yaml files, single values, the command line. Nothing is ever evaluated."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_sid.errors import InputError

_WORDS = {"true": True, "false": False, "null": None, "~": None}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_LITERAL_NODES = (
    ast.Expression,
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.UAdd,
    ast.Load,
)
_PLAIN = (str, int, float, bool, type(None))


class YamlLoader(yaml.SafeLoader):
    """Plain data only; ``1e-3`` is a number as in RecBole's files, where YAML 1.1 sees text."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a yaml file; an empty file has none.

    Raises:
        InputError: the file is missing or unreadable, is not yaml, or does not hold ``key: value``
            pairs with text as keys.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=YamlLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file '{path}' cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"config file '{path}' is not valid yaml: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"config file '{path}' must hold 'key: value' lines, one a setting")
    return values


def parse_value(text: str) -> Any:
    """The value that ``text`` spells: a number, true or false, nothing, a list, a mapping, or text.

    Whatever is none of these stays the text it is: ``256_256``, ``1-2``, ``[0,inf)``, and anything
    that looks like code. ``none`` stays text, since it names a choice of some settings
    (``collision``); ``None``, ``null`` and ``~`` are the empty value. Lists and mappings may be
    spelled as in Python (``['a', 1]``) or as in yaml (``[a, 1]``).
    """
    if text == "None":
        return None
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    except ValueError:  # more digits than Python converts
        return text
    if text[:1] in ("[", "(", "{", "'", '"'):
        return _parse_literal(text)
    return text


def parse_command_line(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Settings given as ``--key=value``, ``--key value`` or ``--flag`` alone, which means true.

    Returns:
        The parsed settings, and the keys that stood alone (only boolean settings may).

    Raises:
        InputError: an argument does not start with ``--``, or a key comes twice with two values.
    """
    values: dict[str, Any] = {}
    alone = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise InputError(
                f"argument '{argument}' is not understood: write --key=value or --key value"
            )
        value: Any = True
        if equals:
            value = parse_value(text)
        elif rest and not rest[0].startswith("--"):
            value = parse_value(rest.pop(0))
        else:
            alone.append(key)
        if key in values and values[key] != value:
            raise InputError(
                f"--{key} is given twice, as {values[key]!r} and as {value!r}: keep one of them"
            )
        values[key] = value
    return values, alone


def _parse_literal(text: str) -> Any:
    """A quoted text or a container of plain data; ``text`` itself when it is anything else."""
    try:
        tree = ast.parse(text, mode="eval")
        if all(_is_literal(node, text) for node in ast.walk(tree)):
            return ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    if (text[0], text[-1]) in (("[", "]"), ("{", "}")):
        try:
            value = yaml.load(text, Loader=YamlLoader)
            if _is_plain(value):
                return value
        except (yaml.YAMLError, ValueError, RecursionError):
            pass
    return text


def _is_literal(node: ast.AST, text: str) -> bool:
    if isinstance(node, ast.Constant):
        # Python reads 256_256 as one number; here it is not a number.
        spelled = ast.get_source_segment(text, node) or ""
        return isinstance(node.value, str) or (
            isinstance(node.value, _PLAIN) and "_" not in spelled
        )
    return isinstance(node, _LITERAL_NODES)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        # {title} is a template, although yaml takes it for a mapping from title to nothing.
        return None not in value.values() and all(map(_is_plain, [*value, *value.values()]))
    return isinstance(value, _PLAIN)
