"""What users had before a target, and lists without it."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.sequences import chain
from recbole_sid.model.exclusion import (
    EarlierItems,
    Spans,
    before_targets,
    contains,
    distinct_items,
    leave_out,
)
from tests.generator.catalogues import table

WIDTH = 3
# Items 1, 2, 3 share a SID, so do 4 and 5; 6 and 7 stand alone.
COLLIDED = Catalogue(table([[0, 0]] * 3 + [[0, 1]] * 2 + [[1, 0], [1, 1]], (2, 2)))


def rows_of(samples: list[tuple[int, list[int], int]]) -> tuple[np.ndarray, ...]:
    """RecBole's rows (user, history, target) with histories cut to the last WIDTH items."""
    histories = np.zeros((len(samples), WIDTH), dtype=np.int64)
    for row, (_, history, _) in enumerate(samples):
        histories[row, : len(history[-WIDTH:])] = history[-WIDTH:]
    users = np.array([user for user, _, _ in samples], dtype=np.int64)
    lengths = np.array([min(len(history), WIDTH) for _, history, _ in samples], dtype=np.int64)
    targets = np.array([target for _, _, target in samples], dtype=np.int64)
    return users, histories, lengths, targets


def test_spans_are_padded_on_the_right():
    spans = Spans(np.array([7, 8, 9]), np.array([0, 1, 3]), np.array([1, 3, 3]))
    assert spans.padded(np.array([1, 0, 2])).tolist() == [[8, 9], [7, 0], [0, 0]]
    assert spans.padded(np.array([2])).tolist() == [[]]


def test_items_before_targets_reach_back_over_the_cut_rows():
    rows = rows_of([(2, [9, 8], 1), (1, [4, 5, 6, 7], 2), (2, [9, 8, 1], 3), (2, [9, 8, 1, 3], 5)])
    spans = before_targets(rows)
    before = [spans.values[a:b].tolist() for a, b in zip(spans.starts, spans.ends, strict=True)]
    assert before == [[9, 8], [5, 6, 7], [9, 8, 1], [9, 8, 1, 3]]


def test_distinct_items_and_what_they_contain():
    excluded = distinct_items(torch.tensor([[5, 2, 5, 0], [0, 0, 0, 0], [3, 3, 0, 3]]))
    assert excluded.tolist() == [[2, 5], [0, 0], [0, 3]]
    found = contains(excluded, torch.tensor([[5, 2, 3, 0], [5, 1, 0, 9], [3, 9, 1, 0]]))
    assert found.int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert distinct_items(torch.zeros(2, 0, dtype=torch.int64)).tolist() == [[0], [0]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=12), min_size=1, max_size=5))
def test_earlier_items_are_all_that_a_user_had_before_the_target(sequences):
    """Each user's samples in order: the first half trains, one validates, the rest is ranked."""
    splits: list[list] = [[], [], []]
    expected = []
    for user, items in enumerate(sequences, start=1):
        samples = [(user, items[:end], items[end]) for end in range(1, len(items))]
        half = len(samples) // 2
        for split, part in zip(
            splits, (samples[:half], samples[half : half + 1], samples[half + 1 :]), strict=True
        ):
            split += part
        expected += [sorted(set(history)) for _, history, _ in samples[half + 1 :]]
    train, valid, test = (rows_of(split) for split in splits)
    known = EarlierItems(test, [chain(*train), chain(*valid)], len(sequences) + 1)
    found = known.of(np.arange(len(expected))).tolist()
    assert [[item for item in row if item] for row in found] == expected
    for row, items in enumerate(expected):  # whatever the batch
        assert [item for item in known.of(np.array([row]))[0].tolist() if item] == items


def test_left_out_items_make_room_and_their_groups_shrink():
    items = torch.tensor([[6, 1, 2, 3, 4, 5, 7], [4, 5, 6, 0, 0, 0, 0]])
    scores = torch.tensor([[-1.0, -2, -2, -2, -3, -3, -4], [-1, -1, -2] + [-torch.inf] * 4])
    sizes = torch.tensor([[1, 3, 3, 3, 2, 2, 1], [2, 2, 1, 1, 1, 1, 1]])
    excluded = torch.tensor([[0, 2, 6], [4, 5, 6]])
    left = leave_out(Ranked(items, scores, sizes), excluded, 4, COLLIDED)
    assert left.items.tolist() == [[1, 3, 4, 5], [0, 0, 0, 0]]
    assert left.scores.tolist() == [[-2, -2, -3, -3], [-torch.inf] * 4]
    assert left.group_sizes.tolist() == [[2, 2, 2, 2], [1, 1, 1, 1]]


def test_a_group_counts_its_excluded_members_beyond_the_end_of_the_list():
    ranked = Ranked(torch.tensor([[6, 1]]), torch.tensor([[-1.0, -2]]), torch.tensor([[1, 3]]))
    left = leave_out(ranked, torch.tensor([[2, 3]]), 2, COLLIDED)
    assert left.items.tolist() == [[6, 1]]
    assert left.group_sizes.tolist() == [[1, 1]]
