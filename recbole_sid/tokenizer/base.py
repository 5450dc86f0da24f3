"""What every tokenizer has in common: its input, its output, its settings and its seed."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError, preview
from recbole_sid.items.neighbours import ItemPairs
from recbole_sid.items.source import ItemSource
from recbole_sid.settings import require
from recbole_sid.sid.space import CodeSpace

logger = logging.getLogger("recbole_sid")

MAX_LEVELS = 64
MAX_CODES = 2**20


@dataclass(frozen=True)
class Items:
    """The items of a catalogue, one row an item, in any order.

    Attributes:
        tokens: raw item ids, unique.
        vectors: float32 (n_items, d), or None for tokenizers that need no vectors.
        pairs: neighbours of every item, or None for tokenizers that need none.
        source: the items' own columns and images, or None for tokenizers that read none.
        titles: a text an item that people know it by, for logs; None where there is none.
        behaviour: float32 (n_items, d), what training users did with each item, as a vector; zeros
            for an item that no training interaction has. None for tokenizers that need none.

    Raises:
        InputError: no item, a repeated id, or vectors of another shape, of another type or not
            finite.
    """

    tokens: tuple[str, ...]
    vectors: np.ndarray | None
    pairs: ItemPairs | None = None
    source: ItemSource | None = None
    titles: tuple[str, ...] | None = None
    behaviour: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.tokens:
            raise InputError("there are no items to tokenize: the item set is empty")
        if len(set(self.tokens)) < len(self.tokens):
            twice = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise InputError(
                f"{len(twice)} item ids appear more than once, but must be unique: {preview(twice)}"
            )
        for name, vectors in (("item", self.vectors), ("behaviour", self.behaviour)):
            if vectors is not None:
                self._check_vectors(name, vectors)
        aligned = (("pairs", self.pairs), ("source", self.source), ("titles", self.titles))
        for name, rows in aligned:
            n_rows = len(self.tokens) if rows is None else len(rows)
            if n_rows != len(self.tokens):
                raise InputError(
                    f"{name} stand for {n_rows} items, but must for {len(self.tokens)}"
                )

    def _check_vectors(self, name: str, vectors: np.ndarray) -> None:
        if vectors.ndim != 2 or len(vectors) != len(self.tokens) or vectors.shape[1] == 0:
            raise InputError(
                f"{name} vectors have shape {vectors.shape}, but must be (n_items, dimensions) "
                f"with n_items = {len(self.tokens)} and at least one dimension"
            )
        if vectors.dtype != np.float32:
            raise InputError(
                f"{name} vectors are {vectors.dtype}, but must be float32: convert them with "
                "vectors.astype(numpy.float32)"
            )
        finite = np.isfinite(vectors).all(axis=1)  # (n_items,)
        if not finite.all():
            rows = np.flatnonzero(~finite)
            raise InputError(
                f"the {name} vectors of {len(rows)} items hold NaN or infinite numbers, but must "
                f"be finite: {preview(self.tokens[row] for row in rows)}. Encode these items again "
                "or leave them out"
            )

    def take(self, rows: Sequence[int]) -> Items:
        """The items at ``rows``, in that order."""
        index = np.asarray(rows)
        return Items(
            tuple(self.tokens[row] for row in rows),
            None if self.vectors is None else self.vectors[index],
            None if self.pairs is None else self.pairs.taken(index),
            None if self.source is None else self.source.take(rows),
            None if self.titles is None else tuple(self.titles[row] for row in rows),
            None if self.behaviour is None else self.behaviour[index],
        )


class BaseCodes(NamedTuple):
    """Codes as a tokenizer learns them, before any collision rule.

    Attributes:
        codes: int32 (n_items, L), rows as in the ``Items`` that were fitted.
        sizes: codes available at each of the L levels; level l uses 0 … sizes[l] - 1.
        report: plain data (numbers, texts, lists, dictionaries) on how the fit went; the same for
            the same settings, items and seed.
        space: what every item would pay for every code, rows like ``codes``: the collision rules
            that move items read it. None: to them all codes cost the same.
        embeddings: float32 (n_items, d), a dense vector an item for whoever wants one, rows like
            ``codes``; None from tokenizers that make none.
        weights: float32 or integer arrays by name: all that :meth:`Tokenizer.assign` needs besides
            settings and seed, and nothing of single items. None from tokenizers that give codes to
            no other items than those of the fit.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    report: dict[str, Any]
    space: CodeSpace | None = None
    embeddings: np.ndarray | None = None
    weights: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class LevelSettings:
    """How many levels, and how many codes at each."""

    levels: int
    codebook_size: list[int] | int

    def __post_init__(self) -> None:
        require(
            1 <= self.levels <= MAX_LEVELS, "tokenizer_levels", self.levels, f"1 to {MAX_LEVELS}"
        )
        if isinstance(self.codebook_size, list):
            require(
                len(self.codebook_size) == self.levels,
                "tokenizer_codebook_size",
                self.codebook_size,
                f"one number, or a list of tokenizer_levels = {self.levels} numbers",
            )
        for size in self.sizes:
            require(
                2 <= size <= MAX_CODES,
                "tokenizer_codebook_size",
                self.codebook_size,
                f"2 to {MAX_CODES} at every level",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level, (L,)."""
        if isinstance(self.codebook_size, int):
            return (self.codebook_size,) * self.levels
        return tuple(self.codebook_size)


S = TypeVar("S")


class Tokenizer(ABC, Generic[S]):
    """Learns the codes of a catalogue.

    A tokenizer is deterministic on a CPU: the same settings, items and seed give every item the
    same codes, whatever the order of the rows and the state of the global random numbers.

    A new tokenizer sets ``Settings`` and ``needs_vectors`` and writes :meth:`fit_sorted`. If it can
    give codes to items that it was not fitted on, it sets ``can_assign`` and writes
    :meth:`assigned` as well.

    Attributes:
        Settings: the frozen dataclass of its settings.
        name: what messages and logs call it; without one, its class.
        prefix: what stands before the names of its settings in the flat keys.
        needs_vectors: whether ``Items.vectors`` must be there.
        needs_pairs: whether ``Items.pairs`` must be there.
        needs_source: whether ``Items.source`` must be there.
        needs_behaviour: whether ``Items.behaviour`` must be there.
        parallel: whether each code says something of the item by itself, whatever the others are;
            a code of a residual quantiser refines those before it. Generators that write the codes
            in any order need parallel ones.
        can_assign: whether :meth:`assign` works.
        assigns_by: what :meth:`assign` reads of an item, its row of ``vectors`` or of ``source``.
        collapse_remedy: what to do when the codes of a level have collapsed.
        trains: whether fitting takes long enough to keep its codes in the cache.
        checkpoint: set by stage 1 when the codes will be kept. :meth:`fit_sorted` may write to it
            all that it needs to go on after it was killed; those that take seconds need not.
    """

    Settings: ClassVar[type]
    name: ClassVar[str] = ""
    prefix: ClassVar[str] = "tokenizer_"
    needs_vectors: ClassVar[bool]
    needs_pairs: ClassVar[bool] = False
    needs_source: ClassVar[bool] = False
    needs_behaviour: ClassVar[bool] = False
    parallel: ClassVar[bool] = False
    can_assign: ClassVar[bool] = False
    assigns_by: ClassVar[Literal["vectors", "source"]] = "vectors"
    collapse_remedy: ClassVar[str] = "choose another tokenizer, such as rqkmeans"
    trains: ClassVar[bool] = True

    def __init__(self, settings: S, *, seed: int, device: torch.device, progress: bool) -> None:
        """
        Args:
            settings: an instance of ``Settings``.
            seed: 0 to 2**32 - 1; all randomness comes from it.
            device: where tensors are computed.
            progress: whether to show progress bars.
        """
        require(0 <= seed < 2**32, "seed", seed, "0 to 4294967295")
        self.settings = settings
        self.seed = seed
        self.device = device
        self.progress = progress
        self.checkpoint: Checkpoint | None = None

    def fit(self, items: Items) -> BaseCodes:
        """Learn the codes of ``items``; the rows of the result are the rows of ``items``.

        Raises:
            InputError: vectors are needed and missing, or do not fit the settings.
        """
        if self.needs_vectors:
            self._require_vectors(items)
        order = sorted(range(len(items.tokens)), key=items.tokens.__getitem__)
        fitted = self.fit_sorted(items.take(order))
        codes = np.empty_like(fitted.codes)
        codes[np.asarray(order)] = fitted.codes
        place = np.argsort(order)
        space = None if fitted.space is None else fitted.space.taken(place)
        embeddings = None if fitted.embeddings is None else fitted.embeddings[place]
        return fitted._replace(codes=codes, space=space, embeddings=embeddings)

    @abstractmethod
    def fit_sorted(self, items: Items) -> BaseCodes:
        """Learn the codes of ``items``, whose rows come sorted by raw id."""

    def assign(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        """Codes of any items, by what a fit of the same settings and seed learned.

        Nothing is trained, and no item depends on another: in any order, in company or alone an
        item gets the same codes on a CPU, and those that were fitted get those of the fit.

        Args:
            items: with ``vectors`` or ``source``, as ``assigns_by`` says; pairs are not read.
            weights: :attr:`BaseCodes.weights` of the fit.

        Returns:
            Rows as in ``items``; the report is on these items alone, and there are no weights.

        Raises:
            InputError: the tokenizer cannot do it, what it reads is missing, or the weights do not
                fit the items or the settings.
        """
        if not self.can_assign:
            raise InputError(
                f"tokenizer {self._called} cannot give codes to items it was not fitted on; choose "
                "rqkmeans, rqvae, quasid, letter, mmq, opq or unisid"
            )
        if self.assigns_by == "vectors":
            self._require_vectors(items)
        elif items.source is None:
            raise InputError(
                f"tokenizer {self._called} needs the items' columns (Items.source), but there are "
                "none: read them with ItemSource.read"
            )
        return self.assigned(items, dict(weights))  # those of a file are read once

    def assigned(self, items: Items, weights: Mapping[str, np.ndarray]) -> BaseCodes:
        """What :meth:`assign` gives; what it reads of ``items`` is there."""
        raise NotImplementedError(f"{type(self).__name__} sets can_assign and lacks assigned")

    @property
    def _called(self) -> str:
        return self.name or type(self).__name__

    def _require_vectors(self, items: Items) -> None:
        if items.vectors is None:
            raise InputError(
                f"tokenizer {self._called} needs item vectors, but there are none: choose "
                "text columns for the encoder (item_text_fields) or give item_embedding_file"
            )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers start from ``seed`` inside, and are as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
