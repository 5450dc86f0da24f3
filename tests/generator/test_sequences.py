import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.generator import sequences as seq

WINDOW = 4


def rows_of(users_items: list[list[int]], window: int = WINDOW) -> tuple[np.ndarray, ...]:
    """What RecBole's augmentation makes of each user's items: one row a prefix."""
    rows = []
    for user, items in enumerate(users_items, start=1):
        for end in range(1, len(items)):
            history = items[max(0, end - window) : end]
            rows.append((user, history + [0] * (window - len(history)), len(history), items[end]))
    users, histories, lengths, targets = zip(*rows, strict=True)
    return np.array(users), np.array(histories), np.array(lengths), np.array(targets)


def triples(rows: tuple[np.ndarray, ...]) -> list[tuple]:
    return sorted((u, tuple(h[:n]), t) for u, h, n, t in zip(*rows, strict=True))


def packed_triples(
    data: seq.Sequences, stride: int, together: int | None = None, batch_size: int = 3
) -> list[tuple]:
    cut = seq.windows(data, WINDOW, stride)
    found = []
    rng = np.random.default_rng(0)
    for batch in seq.packed_batches(data, cut, batch_size, together, rng):
        for user, history, places, targets in zip(*batch, strict=True):
            assert 1 <= np.count_nonzero(targets) <= (together or len(history))
            for place, target in zip(places, targets, strict=True):
                if target:
                    found.append((user, tuple(history[: place + 1]), target))
    return sorted(found)


def test_rows_of_a_user_chain_into_one_sequence():
    data = seq.chain(*rows_of([[1, 2, 3, 4, 5, 6, 7], [8, 9]]))
    assert data.items.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert data.offsets.tolist() == [0, 7, 9]
    assert data.users.tolist() == [1, 2]
    assert data.first_target.tolist() == [1, 1]
    assert data.n_targets == 7


def test_a_gap_starts_a_sequence_that_keeps_its_history():
    rows = rows_of([[1, 2, 3, 4, 5, 6, 7]])
    kept = [0, 1, 4]  # (1 -> 2), (1 2 -> 3), then (2 3 4 5 -> 6)
    data = seq.chain(*(column[kept] for column in rows))
    assert data.items.tolist() == [1, 2, 3, 2, 3, 4, 5, 6]
    assert data.offsets.tolist() == [0, 3, 8]
    assert data.first_target.tolist() == [1, 4]


def test_shuffled_users_and_equal_items_do_not_mix():
    rows = rows_of([[5, 5, 5, 5, 5, 5], [5, 5, 5]])
    order = np.array([5, 0, 6, 1, 2, 3, 4])  # the rows of each user stay in order
    data = seq.chain(*(column[order] for column in rows))
    assert np.diff(data.offsets).tolist() == [6, 3]


def test_windows_by_hand():
    # 11 items: 10 targets. Window 4, stride 3: starts 0, 3, 6 cover history items up to 9.
    data = seq.chain(*rows_of([list(range(1, 12))]))
    cut = seq.windows(data, 4, 3)
    assert cut.starts.tolist() == [0, 3, 6]
    assert cut.lengths.tolist() == [4, 4, 4]
    assert cut.first.tolist() == [0, 1, 1]
    # 10 items: the last window moves back to end with the sequence.
    cut = seq.windows(seq.chain(*rows_of([list(range(1, 11))])), 4, 3)
    assert cut.starts.tolist() == [0, 3, 5]
    assert cut.first.tolist() == [0, 1, 2]


users_items = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=14), min_size=1, max_size=6)


together = st.none() | st.integers(1, 5)


@given(users_items, together)
def test_stride_one_gives_exactly_recboles_samples(items, together):
    rows = rows_of(items)
    data = seq.chain(*rows)
    seen = [(u, h[-WINDOW:], t) for u, h, t in packed_triples(data, 1, together)]
    assert sorted(seen) == triples(rows)


@given(users_items, st.integers(1, WINDOW + 5), together)
def test_any_stride_trains_each_target_once_on_a_suffix_of_its_history(items, stride, together):
    rows = rows_of(items)
    found = packed_triples(seq.chain(*rows), stride, together)
    expected = triples(rows)
    assert sorted((u, t) for u, _, t in found) == sorted((u, t) for u, _, t in expected)
    shortest = min(len(h) for _, h, _ in found)
    assert shortest >= 1
    by_end = {(u, h, t) for u, h, t in expected}
    for user, history, target in found:
        assert any(
            u == user and t == target and h[-len(history) :] == history for u, h, t in by_end
        )
        full = [h for u, h, t in by_end if u == user and t == target]
        assert len(history) >= min(min(map(len, full)), max(1, WINDOW - stride + 1))


@given(users_items)
def test_prefix_batches_give_exactly_recboles_samples(items):
    rows = rows_of(items)
    found = []
    batches = seq.prefix_batches(seq.chain(*rows), WINDOW, 3, np.random.default_rng(1))
    for batch in batches:
        found += triples(
            tuple(np.asarray(part) for part in (batch[0], batch[1], batch[2], batch[3]))
        )
    assert sorted(found) == triples(rows)


@given(users_items, st.integers(1, 12), st.integers(1, WINDOW + 5), together)
def test_packed_batches_hold_about_the_samples_asked_for_and_their_number_is_known(
    items, batch_size, stride, together
):
    data = seq.chain(*rows_of(items))
    cut = seq.windows(data, WINDOW, stride)
    rng = np.random.default_rng(2)
    sizes = [
        np.count_nonzero(batch.targets)
        for batch in seq.packed_batches(data, cut, batch_size, together, rng)
    ]
    assert len(sizes) == seq.n_packed_batches(cut, batch_size, together)
    assert sum(sizes) == data.n_targets
    assert max(sizes) < max(batch_size, WINDOW) + WINDOW


def test_batches_follow_the_generator_and_similar_lengths_stand_together():
    data = seq.chain(*rows_of([[1, 2, 3, 4, 5], [4, 5], [6, 7, 8, 9, 1], [1, 9]]))
    cut = seq.windows(data, WINDOW, 2)

    def batches(seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [sorted(b.users.tolist()) for b in seq.packed_batches(data, cut, 5, None, rng)]

    assert batches(0) == batches(0)
    assert sorted(batches(0)) == [[1, 3], [2, 4]]
    assert {tuple(batches(seed)[0]) for seed in range(9)} == {(1, 3), (2, 4)}


def test_targets_of_a_window_are_dealt_in_random_groups_with_no_more_history_than_they_need():
    data = seq.chain(*rows_of([[1, 2, 3, 4, 5]]))
    cut = seq.windows(data, WINDOW, 1)
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first, second = seq.packed_batches(data, cut, 2, 2, rng)
        groups = []
        for batch in (first, second):
            assert batch.history.tolist() == [list(range(1, max(batch.places[0]) + 2))]
            assert batch.targets.tolist() == (batch.places + 2).tolist()  # item p + 2 follows p
            groups.append(frozenset(batch.targets[0].tolist()))
        assert sorted(groups[0] | groups[1]) == [2, 3, 4, 5]
        seen.add(tuple(groups))
    assert len(seen) == 6, "each of the ways to choose two of four comes first at some time"
