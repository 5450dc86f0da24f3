"""One sort of a code table, from which groups, prefixes, dedup digits and the trie all follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_KEY_BITS = 63  # of a row that is sorted as one int64


class PrefixCollisions(NamedTuple):
    """How much the prefixes of one length are shared."""

    length: int  # levels in the prefix
    distinct: int  # different prefixes in use
    collision_rate: float  # share of items whose prefix another item has too, in [0, 1]
    largest: int  # items under the most crowded prefix


@dataclass(frozen=True, eq=False)
class Groups:
    """The rows of a code table in lexicographic order, and where each prefix begins.

    Attributes:
        order: int32 (n,), the rows sorted by code.
        starts: L + 1 int32 arrays. The rows under the i-th prefix of length d are
            ``order[starts[d][i] : starts[d][i + 1]]``; ``starts[0]`` is ``[0, n]``.
    """

    order: np.ndarray
    starts: tuple[np.ndarray, ...]

    @property
    def n_levels(self) -> int:
        return len(self.starts) - 1

    def sizes(self, length: int) -> np.ndarray:
        """Items under each prefix of ``length`` levels: int32 (n_prefixes,)."""
        return np.diff(self.starts[length])

    def of_item(self, length: int) -> np.ndarray:
        """The prefix of each row, numbered in lexicographic order: int32 (n,)."""
        return number_rows(self.order, self.starts[length])

    def size_of_item(self, length: int) -> np.ndarray:
        """How many rows, itself included, share the prefix of each row: int32 (n,)."""
        return self.sizes(length)[self.of_item(length)]

    def running_numbers(self) -> np.ndarray:
        """The place of each row among the rows with its full code, from 0: int32 (n,)."""
        starts = self.starts[-1]
        sorted_numbers = np.arange(len(self.order), dtype=np.int32)
        sorted_numbers -= np.repeat(starts[:-1], np.diff(starts))
        numbers = np.empty_like(sorted_numbers)
        numbers[self.order] = sorted_numbers
        return numbers

    def collisions(self, length: int) -> PrefixCollisions:
        """Statistics of the prefixes of ``length`` levels."""
        sizes = self.sizes(length)
        shared = int(sizes[sizes > 1].sum())
        return PrefixCollisions(length, len(sizes), shared / len(self.order), int(sizes.max()))


def number_rows(order: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The i of the stretch ``order[start[i] : start[i + 1]]`` that each row lies in: int32 (n,)."""
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start))
    return number


def group(codes: np.ndarray, rows: np.ndarray | None = None) -> Groups:
    """Sort a code table once.

    Args:
        codes: integers (n, L), n >= 1 and L >= 1.
        rows: int (n,), the order in which rows with equal codes are listed; default: as they stand.
    """
    n, n_levels = codes.shape
    if rows is None:
        rows = np.arange(n)
    n_bits = (n - 1).bit_length()
    bits = [int(codes[:, level].max()).bit_length() for level in range(n_levels)]
    if n_bits + sum(bits) <= _KEY_BITS and codes.min() >= 0:
        order, starts = _sorted_by_key(codes, rows, bits, n_bits)
    else:
        order, starts = _sorted_by_columns(codes, rows)
    begins = [np.array([0, n], dtype=np.int32)]
    begins += [np.append(start, n).astype(np.int32) for start in starts]
    return Groups(order.astype(np.int32), tuple(begins))


def _sorted_by_key(
    codes: np.ndarray, rows: np.ndarray, bits: list[int], n_bits: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """``rows`` in order, and where the prefixes of each length begin.

    A row is one number, its codes in front and its place in ``rows`` behind, ``bits`` and
    ``n_bits`` wide: plain integers sort some ten times faster than columns.
    """
    keys = np.zeros(len(rows), dtype=np.int64)
    for level, width in enumerate(bits):
        keys <<= width
        keys |= codes[:, level]
    keys = keys[rows]
    keys <<= n_bits
    keys |= np.arange(len(rows))
    keys.sort()
    order = rows[keys & ((1 << n_bits) - 1)]
    starts = []
    for level in range(len(bits)):
        prefix = keys >> (n_bits + sum(bits[level + 1 :]))
        starts.append(np.flatnonzero(np.diff(prefix, prepend=-1)))
    return order, starts


def _sorted_by_columns(codes: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same for codes of any size."""
    # lexsort is stable and takes the most significant key last.
    order = rows[np.lexsort(codes[rows].T[::-1])]
    ordered = codes[order]  # (n, L)
    begins = np.zeros(len(rows), dtype=bool)
    begins[0] = True
    starts = []
    for level in range(codes.shape[1]):
        begins[1:] |= ordered[1:, level] != ordered[:-1, level]
        starts.append(np.flatnonzero(begins))
    return order, starts
