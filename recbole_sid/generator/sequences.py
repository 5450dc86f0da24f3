"""Training data as sequences and offsets: RecBole's prefix samples, chained back together.

RecBole expands a user's training split into one row a prefix: (user, history, target). Rows that
continue each other are chained into one sequence here, so that all prefixes of a user are trained
in one pass (``packed``), or one by one (``prefix``). Both views come from the same object, and from
the rows of the training split alone. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Sequences:
    """Item sequences, end to end.

    Attributes:
        items: (total,) item ids.
        offsets: (n + 1,) sequence ``i`` is ``items[offsets[i]:offsets[i + 1]]``.
        users: (n,) user id of each sequence.
        first_target: (n,) position in the sequence of its first training target; the items before
            it are history only.
    """

    items: np.ndarray
    offsets: np.ndarray
    users: np.ndarray
    first_target: np.ndarray

    @property
    def n_targets(self) -> int:
        """How many (history, target) samples the sequences hold."""
        return int((np.diff(self.offsets) - self.first_target).sum())


class Windows(NamedTuple):
    """Stretches of sequences to train on; window ``i`` predicts from ``lengths[i]`` history items.

    Position ``j`` of a window is the history that ends with its ``j``-th item and has the next item
    as its target; positions before ``first[i]`` carry no loss (another window has trained them).
    """

    starts: np.ndarray  # (n,) index of the first history item in Sequences.items
    lengths: np.ndarray  # (n,) number of history items, at least 1
    first: np.ndarray  # (n,) first position with a loss
    users: np.ndarray  # (n,)


class PackedBatch(NamedTuple):
    """A batch of windows with some or all of their targets, padded with item 0 on the right."""

    users: np.ndarray  # (B,)
    history: np.ndarray  # (B, T)
    places: np.ndarray  # (B, C) position of the item before each target, where its history ends
    targets: np.ndarray  # (B, C) 0 where a window has fewer than C


class PrefixBatch(NamedTuple):
    """A batch of single (history, target) samples, padded with item 0 on the right."""

    users: np.ndarray  # (B,)
    history: np.ndarray  # (B, T)
    lengths: np.ndarray  # (B,)
    targets: np.ndarray  # (B,)


def chain(
    users: np.ndarray, histories: np.ndarray, lengths: np.ndarray, targets: np.ndarray
) -> Sequences:
    """Chain RecBole's prefix samples into sequences.

    Row ``r`` continues row ``r - 1`` if the user is the same and its history is the previous
    history plus the previous target (or the last ``W`` items of that, where histories are cut at
    ``W``). Rows that continue nothing start a sequence of their own, so any split or pre-augmented
    file works.

    Args:
        users: (N,) user ids.
        histories: (N, W) item ids, left aligned, 0 on the right.
        lengths: (N,) number of items in each history, 1 to W.
        targets: (N,) the item after each history.
    """
    order = np.argsort(users, kind="stable")
    users, histories = users[order], histories[order]
    lengths, targets = lengths[order], targets[order]
    n, width = histories.shape
    positions = np.arange(width)

    continues = np.zeros(n, dtype=bool)
    if n > 1:
        before, after = histories[:-1], histories[1:]
        length = lengths[:-1]
        # The previous row with its target appended: grown, or shifted when it was full.
        grown = np.where(positions == length[:, None], targets[:-1, None], before)  # (N - 1, W)
        shifted = np.concatenate([before[:, 1:], targets[:-1, None]], axis=1)  # (N - 1, W)
        full = length == width
        expected = np.where(full[:, None], shifted, grown)
        expected_length = np.where(full, width, length + 1)
        held = positions < expected_length[:, None]
        continues[1:] = (
            (users[1:] == users[:-1])
            & (lengths[1:] == expected_length)
            & ((after == expected) | ~held).all(axis=1)
        )

    heads = np.flatnonzero(~continues)
    rows_per_chain = np.diff(np.append(heads, n))
    first_target = lengths[heads].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(first_target + rows_per_chain)]).astype(np.int64)

    items = np.empty(offsets[-1], dtype=np.int64)
    is_target = np.ones(offsets[-1], dtype=bool)
    history_slots = _ranges(offsets[:-1], first_target)
    is_target[history_slots] = False
    items[history_slots] = histories[heads][positions < first_target[:, None]]
    items[is_target] = targets
    return Sequences(items, offsets, users[heads].astype(np.int64), first_target)


def windows(sequences: Sequences, window: int, stride: int) -> Windows:
    """Cut sequences into windows of at most ``window`` history items.

    Each target is trained exactly once. A sequence that fits is one window. A longer one is covered
    by windows that move on by ``stride`` items (the last is moved back to end with the sequence);
    a window's loss starts where the previous window's ended, so a target has at least
    ``window - stride + 1`` history items, and all that RecBole would give it with ``stride = 1``.
    A stride beyond the window, which would leave targets out, counts as the window.
    """
    stride = min(stride, window)
    n_items = np.diff(sequences.offsets)
    origin = np.maximum(0, sequences.first_target - window)  # (n,)
    beyond = np.maximum(0, n_items - 1 - (origin + window))  # targets the first window leaves out
    count = 1 + -(-beyond // stride)
    which = np.repeat(np.arange(len(count)), count)
    step = _ranges(np.zeros_like(count), count)

    last_start = np.maximum(origin, n_items - 1 - window)
    start = np.minimum(origin[which] + step * stride, last_start[which])
    previous_end = np.minimum(origin[which] + (step - 1) * stride, last_start[which]) + window
    first_target = np.where(step == 0, sequences.first_target[which], previous_end + 1)
    length = np.minimum(window, n_items[which] - 1 - start)
    return Windows(
        starts=sequences.offsets[which] + start,
        lengths=length,
        first=first_target - 1 - start,
        users=sequences.users[which],
    )


def packed_batches(
    sequences: Sequences,
    cut: Windows,
    batch_size: int,
    together: int | None,
    rng: np.random.Generator,
) -> Iterator[PackedBatch]:
    """Batches of windows of similar length with about ``batch_size`` samples, in random order.

    Args:
        together: a window's targets are dealt at random in groups of this many, each with a copy of
            the window that ends where the last of them needs it to, in batches of their own; None:
            all of them in one. Targets of one window are alike: the fewer share a batch, the more
            its gradient tells, and the more often a history is encoded.
    """
    n_targets = cut.lengths - cut.first  # (n,)
    which = np.repeat(np.arange(len(n_targets)), n_targets)  # (samples,) its window
    number = _ranges(np.zeros_like(n_targets), n_targets)  # (samples,) among its window's
    # In each window its own places, shuffled.
    places = (cut.first[which] + number)[np.lexsort([rng.random(len(which)), which])]
    heads = np.flatnonzero(number == 0 if together is None else number % together == 0)
    counts = np.diff(np.append(heads, len(which)))  # (groups,)
    lengths = np.maximum.reduceat(places, heads) + 1
    by_length = rng.permutation(len(heads))
    by_length = by_length[np.lexsort([-counts[by_length], lengths[by_length]])]
    size = _at_least_a_group(cut, batch_size, together)
    batch = (np.cumsum(counts[by_length]) - 1) // size
    batches = np.split(by_length, np.flatnonzero(np.diff(batch)) + 1)
    for rows in (batches[i] for i in rng.permutation(len(batches))):
        starts = cut.starts[which[heads[rows]], None]  # (B, 1)
        position = np.arange(int(lengths[rows].max()))
        inside = position < lengths[rows, None]  # (B, T)
        target = np.arange(int(counts[rows].max()))
        held = target < counts[rows, None]  # (B, C)
        ends = places[heads[rows, None] + np.where(held, target, 0)]  # (B, C)
        yield PackedBatch(
            users=cut.users[which[heads[rows]]],
            history=np.where(inside, sequences.items[starts + np.where(inside, position, 0)], 0),
            places=ends,
            targets=np.where(held, sequences.items[starts + ends + 1], 0),
        )


def n_packed_batches(cut: Windows, batch_size: int, together: int | None) -> int:
    """How many batches :func:`packed_batches` yields."""
    n_targets = int((cut.lengths - cut.first).sum())
    return -(-n_targets // _at_least_a_group(cut, batch_size, together))


def prefix_batches(
    sequences: Sequences, window: int, batch_size: int, rng: np.random.Generator
) -> Iterator[PrefixBatch]:
    """Batches of ``batch_size`` single samples of similar length, in random order.

    Each history is the last ``window`` items before its target, as in RecBole's rows.
    """
    n_targets = np.diff(sequences.offsets) - sequences.first_target
    which = np.repeat(np.arange(len(n_targets)), n_targets)
    target = _ranges(sequences.offsets[:-1] + sequences.first_target, n_targets)
    lengths = np.minimum(window, target - sequences.offsets[which])
    by_length = rng.permutation(len(lengths))
    by_length = by_length[np.argsort(lengths[by_length], kind="stable")]
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    for rows in (batches[i] for i in rng.permutation(len(batches))):
        position = np.arange(int(lengths[rows].max()))
        inside = position < lengths[rows, None]  # (B, T)
        index = np.where(inside, (target - lengths)[rows, None] + position, 0)
        yield PrefixBatch(
            users=sequences.users[which[rows]],
            history=np.where(inside, sequences.items[index], 0),
            lengths=lengths[rows],
            targets=sequences.items[target[rows]],
        )


def n_prefix_batches(sequences: Sequences, batch_size: int) -> int:
    """How many batches :func:`prefix_batches` yields."""
    return -(-sequences.n_targets // batch_size)


def _at_least_a_group(cut: Windows, batch_size: int, together: int | None) -> int:
    """No batch is smaller than a group; with this, samples / size batches, rounded up."""
    most = int((cut.lengths - cut.first).max())
    return max(batch_size, most if together is None else min(most, together))


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``concatenate([arange(s, s + c) for s, c in zip(starts, counts)])`` without the loop."""
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return np.repeat(starts, counts) + within
