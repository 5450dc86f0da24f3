from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.balanced_batches import BalancedBatches, BatchSettings


def batches(labels: list[list[int]], size: int, share: float) -> BalancedBatches:
    array = np.array(labels, np.int64)
    configured = BatchSettings(
        levels=array.shape[1], codebook_size=256, batch_size=size, batch_positives=share
    )
    return BalancedBatches(array, configured)


@st.composite
def catalogues(draw) -> list[list[int]]:
    """Labels of up to 40 items, -1 for those without another of their label."""
    n, levels = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    raw = np.array(
        [draw(st.lists(st.integers(-1, 12), min_size=n, max_size=n)) for _ in range(levels)]
    )
    for level in raw:
        values, counts = np.unique(level, return_counts=True)
        level[np.isin(level, values[counts == 1])] = -1
    return raw.T.tolist()


@settings(deadline=None, max_examples=150)
@given(catalogues(), st.integers(8, 24), st.sampled_from([0.0, 0.5, 0.8]), st.integers(0, 99))
def test_every_epoch(labels, size, share, seed):
    torch.manual_seed(seed)
    sampler = batches(labels, size, share)
    anchors = []
    met = np.zeros(len(labels[0]))
    n_batches = 0
    for batch in sampler.epoch():
        n_batches += 1
        rows = batch.rows.tolist()
        assert len(rows) <= size
        assert len(set(rows)) == len(rows)
        anchors += rows[: batch.n_anchors]
        for level in range(len(labels[0])):
            count = Counter(labels[row][level] for row in rows)
            own = [labels[row][level] for row in rows[: batch.n_anchors]]
            with_positive = sum(label >= 0 and count[label] > 1 for label in own)
            met[level] += with_positive
            if share > 0 and any(label >= 0 for label in own):
                assert with_positive > 0
    assert sorted(anchors) == list(range(len(labels)))
    assert n_batches == len(sampler)
    assert sampler.figures() == {"anchors_with_positive": (met / len(labels)).tolist()}


def test_with_room_every_anchor_gets_its_positive():
    # Two anchors and two rows of room; four items in five have a partner.
    torch.manual_seed(0)
    labels = [[0], [0], [1], [1], [2], [2], [3], [3], [-1], [-1]]
    sampler = batches(labels, 4, 0.5)
    assert len(sampler) == 5
    for batch in sampler.epoch():
        rows = batch.rows.tolist()
        own = {row for row in rows[: batch.n_anchors] if row < 8}
        assert {row ^ 1 for row in own} <= set(rows)  # partners differ in the last bit
    assert sampler.figures() == {"anchors_with_positive": [0.8]}
    assert len(list(sampler.epoch())) == 5
    assert sampler.figures() == {"anchors_with_positive": [0.8]}  # of this epoch, not of both


def test_with_little_room_the_first_anchors_come_first():
    torch.manual_seed(0)
    sampler = batches([[row // 2] for row in range(40)], 6, 0.34)  # 4 anchors, room for 2
    seen = Counter()
    for batch in sampler.epoch():
        rows = batch.rows.tolist()
        lonely = [row for row in rows[:4] if row ^ 1 not in rows[:4]]
        assert rows[4:] == [row ^ 1 for row in lonely[:2]]
        seen[len(lonely)] += 1
    assert seen[4] > 0  # two of four went without


def test_room_goes_on_to_the_next_level():
    # All items share level 1, so that level 2 has both rows of room, not one.
    torch.manual_seed(0)
    sampler = batches([[0, row // 2] for row in range(40)], 6, 0.34)
    sizes = Counter(len(batch.rows) for batch in sampler.epoch())
    assert sizes[6] > 0


def test_a_level_leaves_room_for_the_next():
    # Every anchor lacks positives on both levels: one row for each level, not two for the first.
    torch.manual_seed(0)
    n = 400
    labels = [[row // 2, (row + 1) % n // 2] for row in range(n)]
    checked = 0
    for batch in batches(labels, 6, 0.34).epoch():
        rows = batch.rows.tolist()
        spread = {(labels[row][level], level) for row in rows[:4] for level in (0, 1)}
        if len(spread) == 8:  # no two anchors share a label
            assert labels[rows[4]][0] == labels[rows[0]][0]
            assert labels[rows[5]][1] in {labels[row][1] for row in rows[:4]}
            checked += 1
    assert checked > 10


def test_positives_are_drawn_uniformly():
    torch.manual_seed(0)
    sampler = batches([[0], [0], [0], [0]], 2, 0.5)
    drawn = Counter(tuple(batch.rows.tolist()) for _ in range(600) for batch in sampler.epoch())
    # 12 ordered pairs of two items, 2400 batches: 200 each, standard deviation 12 (an anchor draws
    # 600 times with probability 1/3: the root of 600 · 1/3 · 2/3 is 11.5).
    assert len(drawn) == 12
    assert all(abs(count - 200) < 60 for count in drawn.values())


def test_every_anchor_draws_for_itself():
    # A batch is an anchor and one of its 29 positives. The same draw for all would give one step.
    torch.manual_seed(0)
    pairs = [batch.rows.tolist() for batch in batches([[0]] * 30, 2, 0.5).epoch()]
    assert len({(positive - anchor) % 30 for anchor, positive in pairs}) > 10


def test_without_a_share_batches_are_plain():
    torch.manual_seed(0)
    order = torch.randperm(7)
    torch.manual_seed(0)
    sampler = batches([[0]] * 7, 3, 0.0)
    found = list(sampler.epoch())
    assert [batch.rows.tolist() for batch in found] == [b.tolist() for b in order.split(3)]
    assert [batch.n_anchors for batch in found] == [3, 3, 1]


def test_an_epoch_depends_on_the_generator_when_it_begins():
    labels = [[row // 3] for row in range(30)]

    def rows(disturbed: bool) -> list[list[int]]:
        torch.manual_seed(5)
        sampler = batches(labels, 6, 0.5)
        out = []
        for batch in sampler.epoch():
            if disturbed:
                torch.rand(3)
            out.append(batch.rows.tolist())
        return out

    assert rows(False) == rows(True)
    sampler = batches(labels, 6, 0.5)
    torch.manual_seed(5)
    first, second = ([batch.rows.tolist() for batch in sampler.epoch()] for _ in range(2))
    assert first == rows(False)
    assert first != second


@pytest.mark.parametrize(
    ("size", "share", "key"),
    [
        (1, 0.0, "tokenizer_batch_size"),
        (8, -0.1, "tokenizer_batch_positives"),
        (8, 1.0, "tokenizer_batch_positives"),
        (8, 0.3, "tokenizer_batch_positives"),  # room for 2 positives, but 3 levels
    ],
)
def test_bounds(size, share, key):
    with pytest.raises(InputError, match=key):
        BatchSettings(levels=3, codebook_size=256, batch_size=size, batch_positives=share)


def test_without_positives_all_rows_are_anchors():
    of_none = batches([[-1, -1, -1]] * 10, size=8, share=0.5)
    assert len(of_none) == 2
    assert [(batch.n_anchors, len(batch.rows)) for batch in of_none.epoch()] == [(8, 8), (2, 2)]
