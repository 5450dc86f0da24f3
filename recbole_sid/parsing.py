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
# No file of settings comes near these; what is beyond them only costs time and memory.
MAX_YAML_BYTES = 2**20
MAX_YAML_NODES = 20_000
MAX_YAML_LEVELS = 40
MAX_DIGITS = 400
MAX_PARSED = 20_000  # characters of a single value
_MOST_SAID = 500  # characters of what yaml says
# What yaml raises at a text, all of it: a text such as `!!bool 3` ends in a KeyError of its own.
NOT_YAML = (
    yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError
)  # fmt: skip


class YamlLoader(yaml.SafeLoader):
    """Plain data in bounded time and memory; nothing else is read from a text of settings.

    ``1e-3`` is a number as in RecBole's files, where YAML 1.1 sees text. Refused, as errors of
    yaml: tags beyond numbers, texts, times, lists and mappings; more nodes or levels than settings
    need, counted with every alias written out; a node that holds itself; a key that stands twice,
    of which yaml would silently take the last; a number of more digits than any that is meant.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0
        # Of every finished node, with aliases written out: how many nodes, and how many levels.
        self._extent: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        before = self._nodes
        self._depth += 1
        _refuse_if(self._depth > MAX_YAML_LEVELS, mark, f"more than {MAX_YAML_LEVELS} levels")
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= 1
        if alias:
            _refuse_if(node not in self._extent, mark, "an alias of what it stands in")
            nodes, levels = self._extent[node]
            self._nodes += nodes
        else:
            self._nodes += 1
            levels = 1 + max((self._extent[inner][1] for inner in _inner(node)), default=0)
            self._extent[node] = self._nodes - before, levels
            _refuse_repeated_keys(node)
        _refuse_if(self._depth + levels > MAX_YAML_LEVELS, mark, f"over {MAX_YAML_LEVELS} levels")
        _refuse_if(self._nodes > MAX_YAML_NODES, mark, f"more than {MAX_YAML_NODES:,} values")
        return node


def _construct_int(loader: YamlLoader, node: yaml.ScalarNode) -> int:
    digits = len(node.value)
    _refuse_if(digits > MAX_DIGITS, node.start_mark, f"a number of {digits:,} digits")
    return loader.construct_yaml_int(node)


def _refuse(_loader: YamlLoader, node: yaml.Node) -> None:
    _refuse_if(True, node.start_mark, f"the tag {node.tag[:80]!r}, which settings do not have")


YamlLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
for _kind in ("binary", "omap", "pairs", "set"):
    YamlLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _refuse)
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(path: str | Path, what: str = "config file") -> dict[str, Any]:
    """The settings in a yaml file; an empty file has none.

    Args:
        what: what errors call the file.

    Raises:
        InputError: the file is missing, unreadable or larger than settings are, is not yaml or more
            than :class:`YamlLoader` takes, or does not hold ``key: value`` pairs with text as keys.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{what} {str(path)!r} cannot be read: {error}") from error
    if len(content) > MAX_YAML_BYTES:
        raise InputError(
            f"{what} '{path}' has more than {MAX_YAML_BYTES:,} bytes: it holds no settings"
        )
    try:
        values = yaml.load(text, Loader=YamlLoader)
    except NOT_YAML as error:
        said = f"{type(error).__name__}: {error}"[:_MOST_SAID]
        raise InputError(f"{what} '{path}' is not valid yaml: {said}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{what} '{path}' must hold 'key: value' lines, one a setting")
    return values


def parse_value(text: str) -> Any:
    """The value that ``text`` spells: a number, true or false, nothing, a list, a mapping, or text.

    Whatever is none of these stays the text it is: ``256_256``, ``1-2``, ``[0,inf)``, and anything
    that looks like code. ``none`` stays text, since it names a choice of some settings
    (``collision``); ``None``, ``null`` and ``~`` are the empty value. Lists and mappings may be
    spelled as in Python (``['a', 1]``) or as in yaml (``[a, 1]``). What is longer than any setting
    stays text too.
    """
    if len(text) > MAX_PARSED:
        return text
    if text == "None":
        return None
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) <= MAX_DIGITS and _INT.fullmatch(text):
        return int(text)
    if len(text) <= MAX_DIGITS and _FLOAT.fullmatch(text):
        return float(text)
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


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_repeated_keys(node: yaml.Node) -> None:
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
        if isinstance(key, yaml.ScalarNode):
            _refuse_if((key.tag, key.value) in seen, key.start_mark, f"{key.value[:80]!r} twice")
            seen.add((key.tag, key.value))


def _refuse_if(bad: bool, mark: yaml.Mark, found: str) -> None:
    if bad:
        raise yaml.constructor.ConstructorError(None, None, f"found {found}", mark)


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
        except NOT_YAML:
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
