"""The table of names: tokenizers, generators, and the models that are a pair of the two.

A model of click prediction has a tokenizer and no generator; its own settings take that place.

Every component stands here explicitly; nothing is found by spelling. A package of its own adds to
the table with :func:`register_tokenizer`, :func:`register_generator` and :func:`register_model`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from recbole_sid import settings
from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir

Defaults = Mapping[str, Any] | Path | None
S = TypeVar("S", "ComponentSpec", "ModelSpec")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PREFIX = {"tokenizer": "tokenizer_", "generator": "", "model": ""}
_FAMILIES = (
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
    "knowledge_aware_recommender",
    "exlib_recommender",
)


@dataclass(frozen=True)
class ComponentSpec:
    """A tokenizer, a generator, or a model without one: its class, and the defaults of its settings
    as flat keys."""

    name: str
    kind: Literal["tokenizer", "generator", "model"]
    cls: Any
    defaults: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """What stands before the names of its settings: the class says it, or its kind does."""
        return getattr(self.cls, "prefix", _PREFIX[self.kind])

    @property
    def keys(self) -> list[str]:
        """The flat keys of its settings."""
        return settings.keys(self.cls.Settings, self.prefix)


@dataclass(frozen=True)
class ModelSpec:
    """A named model: which tokenizer and generator, and the classes that RecBole sees.

    ``own``: of a model without a generator, its class and settings.
    """

    name: str
    tokenizer: str
    generator: str | None
    paper: str
    recommender: Any
    trainer: Any
    defaults: Mapping[str, Any]
    own: ComponentSpec | None = None


@dataclass
class _Table:
    tokenizers: dict[str, ComponentSpec] = field(default_factory=dict)
    generators: dict[str, ComponentSpec] = field(default_factory=dict)
    models: dict[str, ModelSpec] = field(default_factory=dict)


_TABLE = _Table()
_filled = False


def register_tokenizer(
    name: str, cls: type, defaults: Defaults = None, replace: bool = False
) -> None:
    """Make the class ``cls`` known as ``--tokenizer=name``.

    Args:
        name: letters, digits, ``_`` and ``-``.
        cls: a tokenizer; its ``Settings`` are read from keys that start with its class variable
            ``prefix``, or with ``tokenizer_`` when it has none.
        defaults: a value for every key of ``Settings``, as a mapping or a yaml file; ``None`` when
            ``Settings`` has no field.
        replace: allow a name that is taken.

    Raises:
        InputError: the name is not valid or is taken, ``cls`` has no ``Settings`` dataclass, or a
            default is missing.
    """
    _add(_table().tokenizers, _component("tokenizer", name, cls, defaults), replace)


def register_generator(
    name: str, cls: type, defaults: Defaults = None, replace: bool = False
) -> None:
    """Make the class ``cls`` known as ``--generator=name``; its keys carry no prefix by default.

    Arguments and errors are those of :func:`register_tokenizer`.
    """
    _add(_table().generators, _component("generator", name, cls, defaults), replace)


def register_model(
    name: str,
    *,
    tokenizer: str,
    generator: str | None,
    defaults: Defaults = None,
    paper: str = "",
    recommender: type | None = None,
    trainer: type | None = None,
    replace: bool = False,
) -> None:
    """Make ``--model=name`` stand for a tokenizer, a generator and defaults of any setting.

    Args:
        name: letters, digits, ``_`` and ``-``; not the name of a RecBole model.
        tokenizer: a registered tokenizer; the user's ``--tokenizer`` goes before it.
        generator: a registered generator; the user's ``--generator`` goes before it. None for a
            model that generates nothing, such as click prediction: ``recommender`` then has a
            dataclass ``Settings``, and ``defaults`` a value for each of its keys.
        defaults: a mapping or a yaml file; it goes before the defaults of the components.
        paper: the reference, for tables.
        recommender: the class RecBole builds; ours when not given.
        trainer: the class that trains it; ours when not given.
        replace: allow a name that is taken.

    Raises:
        InputError: the name is not valid or is taken, a component is not known, the defaults name
            the components a second time, or a model without a generator has no settings.
    """
    table = _table()
    _find("tokenizer", tokenizer, table.tokenizers)
    if generator is not None:
        _find("generator", generator, table.generators)
    values = _read_defaults(defaults)
    if twice := sorted({"tokenizer", "generator", "model"} & set(values)):
        raise InputError(
            f"model '{name}': {preview(twice)} belongs in an argument, not in defaults"
        )
    if name in recbole_models() and not replace:
        raise InputError(f"model '{name}' is one of RecBole's: choose another name")
    own = None if generator is not None else _component("model", name, recommender, values)
    if recommender is None:
        from recbole_sid.model.recommender import SIDRecommender

        recommender = SIDRecommender
    if trainer is None and generator is None:
        from recbole_sid.ranking.trainer import ClickTrainer

        trainer = ClickTrainer
    elif trainer is None:
        from recbole_sid.trainer import SIDTrainer

        trainer = SIDTrainer
    spec = ModelSpec(name, tokenizer, generator, paper, recommender, trainer, values, own)
    _add(table.models, spec, replace)


def tokenizer(name: str) -> ComponentSpec:
    """The tokenizer called ``name``; InputError with the nearest names when there is none."""
    return _find("tokenizer", name, _table().tokenizers)


def generator(name: str) -> ComponentSpec:
    """The generator called ``name``; InputError with the nearest names when there is none."""
    return _find("generator", name, _table().generators)


def model(name: str) -> ModelSpec | None:
    """Our model called ``name``, or ``None``: then it is RecBole's, or nobody's."""
    return _table().models.get(name)


def first_model(generator: str) -> ModelSpec | None:
    """The first model that was registered with ``generator``: its recipe is that of pairs."""
    return next((spec for spec in _table().models.values() if spec.generator == generator), None)


def model_names() -> list[str]:
    """The names of our models, sorted."""
    return sorted(_table().models)


def components() -> list[ComponentSpec]:
    """All tokenizers, then all generators, then all models without a generator."""
    table = _table()
    own = [spec.own for spec in table.models.values() if spec.own is not None]
    return [*table.tokenizers.values(), *table.generators.values(), *own]


@lru_cache(maxsize=1)
def recbole_models() -> dict[str, str]:
    """RecBole's models by class name, each with its family.

    Found by reading file names and class lines, since importing the package of one family needs
    lightgbm and xgboost (recbole/model/exlib_recommender/__init__.py:1-2).
    """
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("recbole is not installed. Remedy: pip install recbole==1.2.1")
    root = Path(spec.submodule_search_locations[0]) / "model"
    found = {}
    for family in _FAMILIES:
        for module in pkgutil.iter_modules([str(root / family)]):
            source = (root / family / f"{module.name}.py").read_text(encoding="utf-8")
            for name in re.findall(r"^class (\w+)", source, flags=re.MULTILINE):
                if name.lower() == module.name:
                    found[name] = family
    return found


def _table() -> _Table:
    global _TABLE, _filled
    if not _filled:
        _filled = True  # _builtins registers through the public functions, which come back here
        try:
            _builtins()
        except BaseException:
            _TABLE, _filled = _Table(), False
            raise
    return _TABLE


def _builtins() -> None:
    """Fill the table with what this package brings."""
    from recbole_sid.generator.diffgrm import DiffGRM
    from recbole_sid.generator.duet import Duet
    from recbole_sid.generator.h2rec import H2Rec
    from recbole_sid.generator.intrr import IntRR
    from recbole_sid.generator.tiger import Tiger
    from recbole_sid.generator.trio import Trio
    from recbole_sid.ranking.r2led import R2LED
    from recbole_sid.tokenizer.letter import LETTER
    from recbole_sid.tokenizer.mmq import MMQ
    from recbole_sid.tokenizer.opq import OPQ
    from recbole_sid.tokenizer.quasid import QuaSID
    from recbole_sid.tokenizer.random_codes import RandomCodes
    from recbole_sid.tokenizer.rqkmeans import RQKMeans
    from recbole_sid.tokenizer.rqvae import RQVAE
    from recbole_sid.tokenizer.sid_file import SIDFile
    from recbole_sid.tokenizer.unisid import UniSID

    root = resource_dir("properties")
    tokenizers = {
        "rqkmeans": RQKMeans,
        "rqvae": RQVAE,
        "quasid": QuaSID,
        "letter": LETTER,
        "mmq": MMQ,
        "opq": OPQ,
        "unisid": UniSID,
        "random": RandomCodes,
        "file": SIDFile,
    }
    for name, cls in tokenizers.items():
        path = root / "tokenizer" / f"{name}.yaml"
        register_tokenizer(name, cls, path if path.is_file() else None)
    generators: dict[str, type] = {
        "tiger": Tiger,
        "intrr": IntRR,
        "diffgrm": DiffGRM,
        "h2rec": H2Rec,
        "duet": Duet,
        "trio": Trio,
    }
    for name, generator_class in generators.items():
        register_generator(name, generator_class, root / "generator" / f"{name}.yaml")
    tiger_paper = "Recommender Systems with Generative Retrieval (NeurIPS 2023)"
    # Models that differ in their tokenizer alone are trained by one recipe: the same yaml.
    for name, tokenizer_name, generator_name, recipe, paper in (
        ("TIGER", "rqkmeans", "tiger", "TIGER", tiger_paper),
        ("TIGER-paper", "rqvae", "tiger", "TIGER-paper", tiger_paper),
        ("IntRR", "rqkmeans", "intrr", "IntRR", "IntRR (arXiv 2602.20704)"),
        ("QuaSID", "quasid", "tiger", "TIGER", "QuaSID (arXiv 2603.00632)"),
        ("UniSID", "unisid", "tiger", "TIGER", "UniSID (arXiv 2602.10445)"),
        ("LETTER", "letter", "tiger", "LETTER", "LETTER (arXiv 2405.07314)"),
        ("MMQv2", "mmq", "tiger", "TIGER", "MMQ-v2 (arXiv 2510.25622)"),
        ("DiffGRM", "opq", "diffgrm", "DiffGRM", "DiffGRM (arXiv 2510.21805)"),
        ("H2Rec", "rqvae", "h2rec", "H2Rec", "H2Rec (arXiv 2512.10388)"),
        ("Duet", "rqvae", "duet", "Duet", "of this package"),
        ("Trio", "rqvae", "trio", "Duet", "of this package"),
    ):
        register_model(
            name,
            tokenizer=tokenizer_name,
            generator=generator_name,
            defaults=root / "model" / f"{recipe}.yaml",
            paper=paper,
        )
    register_model(
        "R2LED",
        tokenizer="rqkmeans",
        generator=None,
        defaults=root / "model" / "R2LED.yaml",
        paper="R2LED (arXiv 2602.06622)",
        recommender=R2LED,
    )


def _component(
    kind: Literal["tokenizer", "generator", "model"], name: str, cls: Any, defaults: Defaults
) -> ComponentSpec:
    if not dataclasses.is_dataclass(getattr(cls, "Settings", None)):
        named = "it" if cls is None else cls.__name__
        raise InputError(f"{kind} '{name}': {named} needs a dataclass called Settings")
    spec = ComponentSpec(name, kind, cls, _read_defaults(defaults))
    if missing := [key for key in spec.keys if key not in spec.defaults]:
        raise InputError(
            f"{kind} '{name}' has no default for {preview(missing)}: "
            "every key of its Settings needs one"
        )
    return spec


def _read_defaults(defaults: Defaults) -> dict[str, Any]:
    if isinstance(defaults, Path):
        return read_yaml(defaults)
    return dict(defaults or {})


def _add(table: dict[str, S], spec: S, replace: bool) -> None:
    kind = "model" if isinstance(spec, ModelSpec) else spec.kind
    if not _NAME.fullmatch(spec.name):
        raise InputError(
            f"{kind} name {spec.name!r} is not valid: a letter, then letters, digits, '_' or '-'"
        )
    if spec.name in table and not replace:
        raise InputError(f"{kind} '{spec.name}' is already registered: pass replace=True if meant")
    table[spec.name] = spec


def _find(kind: str, name: str, known: Mapping[str, ComponentSpec]) -> ComponentSpec:
    if not isinstance(name, str) or name not in known:
        raise InputError(
            f"unknown {kind} {name!r}. Known: {preview(sorted(known))}."
            + did_you_mean(str(name), known)
        )
    return known[name]
