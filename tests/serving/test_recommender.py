"""Single requests: their lists do not depend on others, and their arguments are bounded."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.export import write_export
from recbole_sid.serving.recommender import Recommender
from tests.serving.conftest import N_ITEMS, WINDOW, K


@pytest.fixture(scope="session")
def recommender(made) -> Recommender:
    return Recommender.load(made.export)


@pytest.fixture(scope="session")
def campaigns(made, tmp_path_factory) -> Recommender:
    """Even items may be recommended; item n from second 10 n to 10 n + 100, item 0 always."""
    bundle = open_bundle(made.export)
    columns = {
        "allowed": [int(token[1:]) % 2 == 0 for token in bundle.sids.tokens],
        "available_from": [10.0 * int(token[1:]) or None for token in bundle.sids.tokens],
        "available_until": [
            10.0 * int(token[1:]) + 100 if token != "i0" else None for token in bundle.sids.tokens
        ],
    }
    output = tmp_path_factory.mktemp("campaigns") / "export"
    weights = made.export / "model.safetensors"
    settings = bundle.settings
    return Recommender.load(
        write_export(output, settings, bundle.sids, bundle.vectors, weights, None, columns)
    )


def test_threads_get_the_lists_of_one(made, recommender):
    """Requests of all kinds at once, many times over."""
    kinds = [
        {},
        {"exclude_history": True},
        {"k": 3, "beam_size": 12},
        {"allowed": recommender.filter(f"i{item}" for item in range(0, N_ITEMS, 3))},
    ]
    requests = [
        (history, {"user": user, **kinds[place % 4]})
        for place, (user, history) in enumerate([*made.histories.items()] * 4)
    ]
    alone = [recommender.recommend(history, **given) for history, given in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: recommender.recommend(one[0], **one[1]), requests))
    assert len({tuple(answer.items) for answer in alone}) > 20
    for one, other in zip(alone, together, strict=True):
        assert one.items == other.items
        assert one.scores.tobytes() == other.scores.tobytes()


def test_requests_leave_nothing_behind(made, recommender):
    generator = recommender.bundle.generator
    before = {name: tensor.clone() for name, tensor in generator.named_buffers()}
    history = made.histories["u3"]
    first = recommender.recommend(history, K, "u3")
    recommender.recommend(["i1"], 2, "u4", True, recommender.filter(["i5", "i6"]))
    again = recommender.recommend(history, K, "u3")
    assert first.items == again.items
    assert first.scores.tobytes() == again.scores.tobytes()
    for name, tensor in generator.named_buffers():
        assert tensor.equal(before[name]), name


def test_unknown_items_are_skipped_and_named(recommender):
    answer = recommender.recommend(["x", "i1", "y", "x", "i2", "[PAD]"], 3)
    assert answer.unknown == ["x", "y", "[PAD]"]
    assert answer.items == recommender.recommend(["i1", "i2"], 3).items
    for history in (["x"], []):
        items, scores, unknown = recommender.recommend(history)
        assert (items, scores.tolist(), unknown) == ([], [], history)
    some = recommender.recommend_many([[], ["i1"], ["x"], ["i2"]], 3)
    assert [len(answer.items) for answer in some] == [0, 3, 0, 3]
    assert recommender.recommend_many([]) == []


def test_more_histories_than_one_batch(made, recommender):
    """eval_batch_size is 8."""
    histories = list(made.histories.values())
    many = recommender.recommend_many(histories, K)
    assert len(many) == 24
    for history, answer in zip(histories, many, strict=True):
        alone = recommender.recommend(history, K)
        assert answer.items == alone.items
        np.testing.assert_allclose(answer.scores, alone.scores, rtol=1e-5)


def test_lists_hold_allowed_items_alone_in_the_order_of_the_whole_list(recommender):
    everything = recommender.recommend(["i1", "i2"], N_ITEMS, beam_size=N_ITEMS)
    assert len(everything.items) == N_ITEMS
    few = recommender.filter(["i3", "i7", "i9", "i30", "no such"])
    answer = recommender.recommend(["i1", "i2"], 10, allowed=few)
    assert answer.items == [i for i in everything.items if i in ("i3", "i7", "i9", "i30")]
    without = recommender.recommend(["i3", "i2"], 10, exclude_history=True, allowed=few)
    assert set(without.items) == {"i7", "i9", "i30"}


def test_rules_that_travel_with_an_export(campaigns):
    even = recbole_list(campaigns, None)
    assert set(even) == {f"i{n}" for n in range(0, N_ITEMS, 2)}
    at_200 = {"i0", *(f"i{n}" for n in range(10, 21, 2))}
    assert set(recbole_list(campaigns, 200)) == at_200
    # 1970-01-01, 00:03:20.
    assert recbole_list(campaigns, "1970-01-01T00:03:20") == recbole_list(campaigns, 200)
    assert recbole_list(campaigns, 200) == [item for item in even if item in at_200]
    assert recbole_list(campaigns, 10_000) == ["i0"]
    some = campaigns.filter(["i0", "i11", "i12", "i38"])
    answer = campaigns.recommend(["i1"], 20, allowed=some, now=200, beam_size=20)
    assert set(answer.items) == {"i0", "i12"}
    with pytest.raises(InputError, match="none of the allowed items is among those that the run"):
        campaigns.filter(["i11"])


def recbole_list(campaigns: Recommender, now) -> list[str]:
    """From a file's command and from a request; they agree."""
    answer = campaigns.recommend(["i1"], 40, now=now, beam_size=40)
    (found,) = recbole_sid.recommend(
        campaigns.bundle.folder, [["i1"]], 40, now=now, beam_size=40, show_progress=False
    )
    assert found.items == answer.items
    return answer.items


def test_a_file_of_allowed_ids(campaigns, made, tmp_path):
    path = tmp_path / "allowed.txt"
    path.write_text("i4\ni5\nnew\n")
    (found,) = recbole_sid.recommend(made.export, [["i1"]], allowed_items=path)
    assert set(found.items) == {"i4", "i5"}
    (found,) = recbole_sid.recommend(campaigns.bundle.folder, [["i1"]], allowed_items=path, now=90)
    assert found.items == ["i4"]


def test_a_run_that_leaves_out_what_is_not_available_needs_a_time(campaigns, monkeypatch):
    monkeypatch.setitem(campaigns.bundle.settings, "filter_unavailable", True)
    with pytest.raises(InputError, match=r"\(filter_unavailable\): give 'now'"):
        campaigns.recommend(["i1"])
    assert campaigns.recommend(["i1"], now=0).items == ["i0"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "'k' is 0, but must be a whole number above 0"),
        ({"k": "5"}, "'k' is '5'"),
        ({"k": 41, "beam_size": 50}, "'k' is 41, but must be at most 40"),
        ({"k": 11}, "'beam_size' is 10, but must be at least k = 11"),
        ({"beam_size": 2.5}, "'beam_size' is 2.5, but must be a whole number"),
        ({"exclude_history": 1}, "'exclude_history' is 1, but must be true or false"),
        ({"history": "i1"}, "the history is 'i1', but must be a list of raw item ids"),
        ({"history": None}, "the history is None"),
        ({"history": ["i1", 2]}, "item 2 is not text"),
        ({"history": ["i1"] * 10_001}, "has 10,001 items, but must have at most 10,000"),
        ({"history": ["\ud800"]}, "is not valid Unicode"),
        ({"user": 7}, "user 7 is not text"),
        ({"user": "\udfff"}, "is not valid Unicode"),
        ({"allowed": {"i1"}}, "'allowed' must come from filter of this recommender"),
        ({"now": 5}, "'now' is 5, but the run knows no times of its items"),
    ],
)
def test_bad_requests_are_refused(recommender, given, message):
    with pytest.raises(InputError) as caught:
        recommender.recommend(**({"history": ["i1"]} | given))
    assert message in str(caught.value)


def test_bad_arguments_of_other_calls_are_refused(made, recommender, campaigns):
    with pytest.raises(InputError, match="1 users are given for 2 histories"):
        recommender.recommend_many([["i1"], ["i2"]], users=["u1"])
    with pytest.raises(InputError, match="none of the 2 allowed ids, as given, is an item"):
        recommender.filter(["x", "y"])
    with pytest.raises(InputError, match="must be a list of raw ids"):
        recommender.filter("i1")
    with pytest.raises(InputError, match="must come from filter of this recommender"):
        recommender.recommend(["i1"], allowed=campaigns.filter(["i2"]))
    with pytest.raises(InputError, match="'max_history' is 0"):
        Recommender.load(made.export, max_history=0)
    short = Recommender.load(made.export, max_history=WINDOW)
    with pytest.raises(InputError, match="must have at most 5: the model sees the last 5"):
        short.recommend(["i1"] * 6)
