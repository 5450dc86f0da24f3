"""SemanticIDs: the table of codes that passes from a tokenizer to a generator."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.sid import files
from recbole_sid.sid.groups import Groups, group

CAPACITY_RULES = ("nearest_free", "random_free")
COLLISION_RULES = ("none", "dedup", "reassign_last", *CAPACITY_RULES)
MAX_SIZE = files.MAX_CODE + 1


@dataclass(frozen=True, eq=False)
class SemanticIDs:
    """One tuple of L codes for every item, keyed by the raw item token.

    A table checks itself when it is made and cannot be changed afterwards. Two tables with the
    same content have the same ``fingerprint()``; ``==`` is identity.

    Attributes:
        tokens: the raw item token of each row; n, unique.
        codes: int32 (n, L), 0 <= codes[:, l] < sizes[l].
        sizes: number of codes that each of the L levels has room for.
        collision: the rule that was applied (see ``collisions.apply_collision``). "none": items
            may share a SID. "dedup": the last level is the dedup digit, a running number that makes
            every SID unique. "reassign_last", "nearest_free", "random_free": items were moved, and
            every SID is unique, or held by at most ``capacity`` items.
        provenance: where the codes came from: plain JSON data. Of it only the number
            ``["collision"]["capacity"]`` means something here; it is 1 where it is missing.

    Raises:
        InputError: a field breaks these rules.
    """

    tokens: tuple[str, ...]
    codes: np.ndarray
    sizes: tuple[int, ...]
    collision: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "sizes", tuple(_size(size) for size in self.sizes))
        object.__setattr__(self, "provenance", _plain(self.provenance))
        _check_tokens(self.tokens)
        _check_codes(self.codes, self.tokens, self.sizes)
        codes = np.array(self.codes, order="C")
        codes.flags.writeable = False
        object.__setattr__(self, "codes", codes)
        self._check_collision()

    @property
    def n_items(self) -> int:
        return len(self.tokens)

    @property
    def n_levels(self) -> int:
        """L, the dedup digit included."""
        return len(self.sizes)

    @property
    def n_base_levels(self) -> int:
        """Levels of the tokenizer's codes: L without the dedup digit."""
        return self.n_levels - (self.collision == "dedup")

    @property
    def base_codes(self) -> np.ndarray:
        """The codes without the dedup digit: int32 (n, n_base_levels)."""
        return self.codes[:, : self.n_base_levels]

    @property
    def n_codes(self) -> int:
        """Codes of all levels together: the rows of an embedding table."""
        return sum(self.sizes)

    @property
    def offsets(self) -> np.ndarray:
        """int64 (L,): code c of level l (from 0) is row ``offsets[l] + c`` of ``n_codes``."""
        return np.cumsum([0, *self.sizes[:-1]], dtype=np.int64)

    def flat(self) -> np.ndarray:
        """Every code as its row among ``n_codes``: int64 (n, L)."""
        return self.codes + self.offsets

    @cached_property
    def token_order(self) -> np.ndarray:
        """The rows sorted by raw token (code point order): int64 (n,)."""
        return np.array(sorted(range(self.n_items), key=self.tokens.__getitem__), dtype=np.int64)

    @cached_property
    def groups(self) -> Groups:
        """The rows sorted by code, equal codes by raw token."""
        return group(self.codes, self.token_order)

    def aligned(
        self, tokens: Sequence[str], unknown: Literal["refuse", "ignore"] = "refuse"
    ) -> SemanticIDs:
        """The table with its rows in the order of ``tokens``.

        Args:
            tokens: raw item tokens, each once.
            unknown: what to do with items of this table that are not in ``tokens``.

        Raises:
            InputError: a token has no SID here, or an item here is unknown and ``unknown`` is
                "refuse"; with the number and the first ten.
        """
        row_of = {token: row for row, token in enumerate(self.tokens)}
        missing = [token for token in tokens if token not in row_of]
        if missing:
            raise InputError(
                f"{len(missing)} of the {len(tokens)} items in the data have no SID: "
                f"{preview(missing)}; add them to the SID table, or make it again from this data"
            )
        strangers = row_of.keys() - set(tokens)
        if strangers and unknown == "refuse":
            raise InputError(
                f"{len(strangers)} of the {self.n_items} items in the SID table are not in the "
                f"data: {preview(sorted(strangers))}; use the table of this data, or drop them "
                "with sid_unknown_items: ignore"
            )
        return replace(
            self, tokens=tuple(tokens), codes=self.codes[[row_of[token] for token in tokens]]
        )

    def fingerprint(self) -> str:
        """sha256 (hex) of tokens, codes, sizes and collision rule; blind to the order of rows."""
        ordered = [self.tokens[row] for row in self.token_order]
        digest = hashlib.sha256()
        digest.update(json.dumps([self.collision, self.sizes, ordered]).encode())
        digest.update(self.codes[self.token_order].astype("<i4").tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the table as .json or .safetensors; an existing file is replaced whole.

        Raises:
            InputError: another suffix, or a place that cannot be written.
        """
        parts = files.Parts(self.tokens, self.codes, self.sizes, self.collision, self.provenance)
        try:
            files.write(Path(path), parts)
        except InputError as error:
            raise InputError(f"SID file {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> SemanticIDs:
        """Read a table that ``save`` wrote; ``published.read_sids`` reads other projects' files.

        Raises:
            InputError: the file cannot be read or breaks a rule; the message names the file.
        """
        path = Path(path)
        try:
            files.check_suffix(path)
            if path.suffix == ".json":
                return cls(*files.parts_from_json(files.read_json(path)))
            return cls(*files.read_safetensors(path))
        except InputError as error:
            raise InputError(f"SID file {path}: {error}") from error

    def _check_collision(self) -> None:
        if self.collision not in COLLISION_RULES:
            raise InputError(
                f"collision is {self.collision!r}, but must be one of {preview(COLLISION_RULES)}."
                + did_you_mean(str(self.collision), COLLISION_RULES)
            )
        if self.collision == "none":
            return
        if self.collision == "dedup" and self.n_levels < 2:
            raise InputError(
                "collision is 'dedup', but there is one level: the dedup digit needs a level "
                "before it; use collision: none"
            )
        capacity = self.capacity
        crowded = self.groups.sizes(self.n_levels) > capacity
        if crowded.any():
            first = self.groups.starts[-1][np.argmax(crowded)]
            items = self.groups.order[first : first + capacity + 1]
            raise InputError(
                f"collision is {self.collision!r}, but the items "
                f"{preview(self.tokens[i] for i in items)} all have the SID "
                f"{self.codes[items[0]].tolist()}, which has room for {capacity}; use collision: "
                "none, or give each its own"
            )

    @property
    def capacity(self) -> int:
        """How many items may have one SID under a rule other than "none"."""
        report = self.provenance.get("collision")
        if self.collision not in CAPACITY_RULES or not isinstance(report, dict):
            return 1
        capacity = report.get("capacity", 1)
        if type(capacity) is not int or capacity < 1:
            raise InputError(
                f"provenance says that the collision capacity is {files.shown(capacity)}, but it "
                "must be a whole number, at least 1"
            )
        return capacity


def _size(size: int) -> int:
    whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    if not whole or not 1 <= int(size) <= MAX_SIZE:
        raise InputError(
            f"a level has the size {files.shown(size)}, but must have a whole number from 1 to "
            f"{MAX_SIZE}"
        )
    return int(size)


def _plain(provenance: dict[str, Any]) -> dict[str, Any]:
    # There and back: a copy that no one else holds and that equals what a file will give back.
    try:
        plain = json.loads(json.dumps(provenance, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"provenance must be plain JSON data, but is not: {error}") from error
    if not isinstance(plain, dict):
        raise InputError(f"provenance is {files.shown(provenance)}, but must be a dictionary")
    return plain


def _check_tokens(tokens: tuple[str, ...]) -> None:
    if not tokens:
        raise InputError("the SID table has no items, but must have at least one")
    if set(map(type, tokens)) != {str} or not all(tokens):
        for row, token in enumerate(tokens):
            if not isinstance(token, str) or not token:
                raise InputError(f"row {row} has the token {token!r}, but must have non-empty text")
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"an item token is not valid Unicode ({error}); rename it") from error
    if len(set(tokens)) < len(tokens):
        repeated = [token for token, count in Counter(tokens).items() if count > 1]
        raise InputError(
            f"{len(repeated)} item tokens stand in more than one row: {preview(repeated)}; "
            "keep one row of each"
        )


def _check_codes(codes: np.ndarray, tokens: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    if not isinstance(codes, np.ndarray) or codes.dtype != np.int32:
        kind = codes.dtype if isinstance(codes, np.ndarray) else type(codes).__name__
        raise InputError(
            f"codes are {kind}, but must be a NumPy array of int32: convert them, "
            "np.asarray(codes, dtype=np.int32)"
        )
    if not sizes or codes.shape != (len(tokens), len(sizes)):
        raise InputError(
            f"codes have the shape {codes.shape}, but must have ({len(tokens)}, {len(sizes)}): "
            "one row an item and one column a level, at least one level"
        )
    outside = (codes < 0) | (codes >= np.array(sizes, dtype=np.int64))
    if outside.any():
        row, level = np.argwhere(outside)[0]
        raise InputError(
            f"item {tokens[row]!r} has the code {codes[row, level]} at level {level + 1}, but it "
            f"must be from 0 to {sizes[level] - 1}; correct the code, or the size of the level "
            f"({np.count_nonzero(outside)} codes in all are out of range)"
        )
