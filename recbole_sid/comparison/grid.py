"""A grid: all pairs of some tokenizers and generators, each a row of the comparison.

A pair is trained with the settings of a registered model that has its generator, the first one:
``tiger`` as TIGER, ``intrr`` as IntRR. Its tokenizer does not choose them, so that in a column of
the grid only the codes differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_sid import registry
from recbole_sid.checks import refused_pair
from recbole_sid.errors import InputError


@dataclass(frozen=True)
class Pair:
    """A tokenizer with a generator.

    ``model``: whose training settings it takes. ``refused``: why the generator cannot read the
    codes of the tokenizer; empty if it can.
    """

    tokenizer: str
    generator: str
    model: str
    refused: str

    @property
    def label(self) -> str:
        """What its row is called, such as ``rqvae+tiger``."""
        return f"{self.tokenizer}+{self.generator}"

    def parts_of(self, file: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """What the parts of a settings file say of it, as :func:`dict.update` takes them: its row
        goes before its generator, and that before its tokenizer.
        """
        return [
            file["tokenizers"].get(self.tokenizer, {}),
            file["generators"].get(self.generator, {}),
            file["models"].get(self.label, {}),
        ]

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values``, the settings of its runs, with its tokenizer and generator.

        Raises:
            InputError: the model is none that generates.
        """
        name = values["model"]
        spec = registry.model(name) if isinstance(name, str) else None
        if spec is None or spec.generator is None:
            raise InputError(
                f"model {self.label}: 'model' is {name!r}, which has no tokenizer and generator: "
                "give a model whose training settings the pair takes, for example TIGER"
            )
        return {**values, "tokenizer": self.tokenizer, "generator": self.generator}


def make_pairs(
    tokenizers: Sequence[str] | None, generators: Sequence[str] | None
) -> tuple[Pair, ...]:
    """All pairs, tokenizer by tokenizer; none if neither is given.

    Raises:
        InputError: an unknown name, a name twice, or only one of the two is given.
    """
    named = {"tokenizers": tokenizers, "generators": generators}
    for key, names in named.items():
        if names and len(set(names)) != len(names):
            raise InputError(f"--{key} names one twice: {', '.join(names)}")
    if not tokenizers and not generators:
        return ()
    if not tokenizers or not generators:
        given, missing = named if tokenizers else reversed(named)
        raise InputError(
            f"--{given} is given without --{missing}: a grid needs both, for example "
            "--tokenizers rqkmeans,rqvae --generators tiger,intrr"
        )
    readers = [(registry.generator(name), _model_of(name)) for name in generators]
    return tuple(
        Pair(spec.name, generator.name, model, refused_pair(spec, generator))
        for spec in map(registry.tokenizer, tokenizers)
        for generator, model in readers
    )


def refuse_kinds(values: Mapping[str, Any], where: str) -> None:
    """Refuse settings of pairs that name a tokenizer or a generator."""
    for kind in ("tokenizer", "generator"):
        if kind in values:
            raise InputError(
                f"{where}: '{kind}' is {values[kind]!r}, but --{kind}s says which one a pair has: "
                "leave it out"
            )


def _model_of(generator: str) -> str:
    """The model whose training settings a pair with ``generator`` takes."""
    spec = registry.first_model(generator)
    if spec is None:
        raise InputError(
            f"generator '{generator}' has no model whose training settings a pair could take: "
            "register one with register_model"
        )
    return spec.name
