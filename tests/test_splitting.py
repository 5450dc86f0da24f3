"""Splits at given times: who trains, validates and tests, for RecBole's models and ours."""

import datetime
import pickle

import pytest
import yaml

import recbole_sid
from recbole_sid import datasets
from recbole_sid.errors import InputError
from recbole_sid.model.dataset import split_rows, split_sequences, training_interactions
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.quick_start import checked_config
from recbole_sid.reading import read_data
from recbole_sid.splitting import parse_times
from recbole_sid.training_data import TrainingData
from tests.runs import CUT, SMALL, write_data

# u4 begins after the first time, u5 has one interaction before it and one after the second.
ROWS = [
    *(("u1", item, time) for time, item in enumerate("abcdeg")),
    *(("u2", item, time) for time, item in enumerate("bcdea")),
    *(("u3", item, time) for time, item in enumerate("fab")),
    *(("u4", item, time) for time, item in enumerate("ce", start=3)),
    ("u5", "d", 1),
    ("u5", "a", 5),
]
OF_TIGER = {key: value for key, value in SMALL.items() if key not in CUT}


@pytest.fixture
def made(tmp_path):
    """Settings of the data set by hand, split at 2 and 4."""
    values = write_data(tmp_path / "data", ROWS)
    more = {"topk": [2], "valid_metric": "NDCG@2", "split_times": [2, 4], "show_progress": False}
    more |= {"cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / "run"), "epochs": 1}
    return {**values, **more}


def configured(model: str, given: dict):
    return checked_config(model, "made", config_dict=(OF_TIGER if model == "TIGER" else {}) | given)


def rows_of(data, dataset, config) -> list[tuple[str, str, str]]:
    """User, history and target of every row, sorted; no history for a general model."""
    users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
    feat = dataset.inter_feat
    if "item_length" in feat:
        found = zip(*split_rows(dataset, config), strict=True)
        return sorted((users[u], "".join(items[h[:n]]), items[i]) for u, h, n, i in found)
    pairs = zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True)
    return sorted((users[user], "", items[item]) for user, item in pairs)


SEQUENTIAL = [
    [("u1", "a", "b"), ("u2", "b", "c"), ("u3", "f", "a")],
    [("u1", "ab", "c"), ("u1", "abc", "d"), ("u2", "bc", "d"), ("u2", "bcd", "e"),
     ("u3", "fa", "b")],
    [("u1", "abcd", "e"), ("u1", "abcde", "g"), ("u2", "bcde", "a"), ("u4", "c", "e"),
     ("u5", "d", "a")],
]  # fmt: skip


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_rows_of_sequential_models_go_by_the_targets_time(model, made):
    config = configured(model, made)
    data, loaders = read_data(config)
    assert [rows_of(data, loader.dataset, config) for loader in loaders] == SEQUENTIAL
    bounds = [(0, 2), (2, 4), (4, 9)]
    for loader, (start, end) in zip(loaders, bounds, strict=True):
        times = loader.dataset.inter_feat["timestamp"]
        assert ((start <= times) & (times < end)).all()


def test_interactions_of_general_models_go_by_their_own_time(made):
    config = configured("Pop", made)
    data, loaders = read_data(config)
    assert [rows_of(data, loader.dataset, config) for loader in loaders] == [
        sorted((user, "", item) for user, item, time in ROWS if start <= time < end)
        for start, end in ((0, 2), (2, 4), (4, 9))
    ]


@pytest.mark.parametrize("model", ["SASRec", "Pop", "TIGER"])
def test_runs_from_end_to_end_and_again_from_their_own_settings(model, made, tmp_path):
    given = {"hidden_size": 8, "inner_size": 8, "n_layers": 1} if model == "SASRec" else {}
    given = made | given | (OF_TIGER if model == "TIGER" else {})
    result = recbole_sid.run(model, "made", config_dict=given)
    if model == "Pop":
        # Training counts: a and b 2, c, d and f 1. Without what they had before, u1 is given f and
        # one of e and g, which both come next; u2 a and f; u4 a and b, where e comes; u5 a and b.
        assert result["test_result"]["hit@2"] == 3 / 4
    assert result["test_result"]["recall@2"] >= 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["split_times"] == [2, 4]
    again = checked_config(config_file_list=[str(tmp_path / "run" / "config.yaml")])
    _, loaders = read_data(again)
    assert [len(loader.dataset) for loader in loaders] == (
        [7, 6, 5] if model == "Pop" else [3, 5, 5]
    )
    if model == "TIGER":
        assert recbole_sid.evaluate(tmp_path / "run")["test_result"] == result["test_result"]


def test_packed_training_trains_each_training_target_once_and_no_other(made):
    config = configured("TIGER", made | {"split_times": [3, 4]})
    data, loaders = read_data(config)
    items = data.field2id_token["item_id"]
    sequences = split_sequences(loaders[0].dataset, config)
    found = [
        ("".join(items[sequences.items[a:b]]), int(first))
        for a, b, first in zip(
            sequences.offsets[:-1], sequences.offsets[1:], sequences.first_target, strict=True
        )
    ]
    assert sorted(found) == [("abc", 1), ("bcd", 1), ("fab", 1)]
    model = SIDRecommender(config, loaders[0].dataset)
    targets = []
    for users, _, _, batch in TrainingData(loaders[0].dataset, config, model).epoch(0):
        for user, row in zip(users.tolist(), batch.tolist(), strict=True):
            targets += [(data.id2token("user_id", user), items[item]) for item in row if item]
    assert sorted(targets) == [
        ("u1", "b"), ("u1", "c"), ("u2", "c"), ("u2", "d"), ("u3", "a"), ("u3", "b")
    ]  # fmt: skip


def test_pairs_of_items_come_from_the_training_rows_alone(made):
    config = configured("TIGER", made)
    data, loaders = read_data(config)
    items = data.field2id_token["item_id"][1:]
    held = training_interactions(loaders[0].dataset, config)
    users = data.field2id_token["user_id"]
    found = {(users[u], items[i]) for u, i in zip(held.users, held.items, strict=True)}
    # Targets before the first time, and what came before them.
    assert found == {
        ("u1", "a"), ("u1", "b"), ("u2", "b"), ("u2", "c"), ("u3", "f"), ("u3", "a")
    }  # fmt: skip


def test_a_row_at_a_time_is_of_the_later_part_even_where_times_are_rounded(made, tmp_path):
    """32-bit floats are 128 seconds apart at 1.7e9: no row from a time on may train."""
    start = 1_700_000_000
    rows = [(f"u{n}", item, start + 50 * k) for n in range(3) for k, item in enumerate("abcdefgh")]
    for shift in (130, 160, 200, 210, 240):
        folder = tmp_path / str(shift)
        given = made | write_data(folder, [*rows, ("u0", "i", start)])
        config = configured("SASRec", given | {"split_times": [start + shift, start + shift + 100]})
        data, loaders = read_data(config)
        of_item = {item: start + 50 * k for k, item in enumerate("abcdefgh")} | {"i": start}
        names = data.field2id_token["item_id"]
        train, valid = (
            [of_item[names[item]] for item in loader.dataset.inter_feat["item_id"]]
            for loader in loaders[:2]
        )
        assert max(train) < start + shift
        assert max(valid, default=0) < start + shift + 100


def test_a_data_set_that_splits_itself_can_be_saved(made):
    config = configured("SASRec", made)
    dataset = datasets.create_dataset(config)
    again = pickle.loads(pickle.dumps(dataset))
    assert type(again) is type(dataset)
    assert type(again).__name__ == "SequentialDataset"
    assert [len(part) for part in again.build()] == [3, 5, 5]
    stock = datasets.create_dataset(configured("SASRec", {**made, "split_times": None}))
    assert type(stock).__module__.startswith("recbole.")


UTC = datetime.timezone.utc
JANUARY = datetime.datetime(2026, 1, 5, tzinfo=UTC).timestamp()
MARCH = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "value",
    [
        [JANUARY, MARCH],
        ["2026-01-05", "2026-03-01T12:30:00"],
        ["2026-01-05T00:00:00Z", "2026-03-01 12:30"],
        ["2026-01-05T01:00:00+01:00", str(MARCH)],
        "[2026-01-05, 2026-03-01T12:30]",
        "2026-01-05,2026-03-01T12:30:00Z",
        "['2026-01-05', '2026-03-01 12:30']",
        yaml.safe_load("[2026-01-05, 2026-03-01 12:30:00]"),
        yaml.safe_load("['2026-01-05', 2026-03-01T12:30:00Z]"),
    ],
)
def test_times_in_every_spelling(value):
    assert parse_times(value) == (JANUARY, MARCH)


def test_a_date_on_the_command_line(made):
    given = {key: value for key, value in made.items() if key != "split_times"}
    config = checked_config(
        "SASRec", "made", config_dict=given, command_line=["--split_times=[2026-01-05, 2026-03-01]"]
    )
    assert parse_times(config["split_times"])[0] == JANUARY


@pytest.mark.parametrize(
    "value",
    [5, [], [1], [1, 2, 3], ["soon", 2], [1, None], [True, 5], [1, float("nan")], "1", "2026-01-05",
     [1, "2026-13-01"], {"a": 1, "b": 2}, [[1], [2]]],
)  # fmt: skip
def test_what_is_not_two_times(value):
    with pytest.raises(InputError, match=r"'split_times' is .*, but must be two times, "):
        parse_times(value)


def test_times_in_the_wrong_order():
    for value in ([4, 2], [2, 2], ["2026-03-01", "2026-01-05"]):
        with pytest.raises(InputError, match="two times of which the first is earlier"):
            parse_times(value)


@pytest.mark.parametrize("model", ["SASRec", "Pop", "TIGER"])
def test_times_beyond_the_data_are_refused_with_its_own(model, made):
    for times, named in (([-3, 2], "-3"), ([2, 1e6], r"1000000 \(1970-01-12T13:46:40Z\)")):
        config = configured(model, made | {"split_times": times})
        with pytest.raises(InputError, match=rf"has {named}.* go from 0 .* to 5 \(1970"):
            read_data(config)


@pytest.mark.parametrize("model", ["SASRec", "Pop"])
def test_nothing_to_train_on_is_refused(model, made):
    # Sequential models have no row at time 0, where everybody begins.
    config = configured(model, made | {"split_times": [0 if model == "Pop" else 0.5, 4]})
    with pytest.raises(InputError, match="leaves nothing to train on before 0"):
        read_data(config)


REFUSED = {
    "a split besides": (
        {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO"}},
        "'split_times' and 'eval_args: split' ({'RS': [8, 1, 1]}) are both given",
    ),
    "an order besides": (
        {"eval_args": {"order": "RO"}},
        "'split_times' and 'eval_args: order' ('RO') are both given",
    ),
    "a split that is made": (
        {"benchmark_filename": ["train", "valid", "test"]},
        "'split_times' and 'benchmark_filename' are both given",
    ),
    "no name of the column": ({"TIME_FIELD": None}, "set TIME_FIELD"),
    "another column": ({"TIME_FIELD": "when"}, "has no column 'when'"),
    "a column that is not loaded": (
        {"load_col": {"inter": ["user_id", "item_id"]}},
        "'timestamp' is needed too",
    ),
    "scaled times": ({"normalize_all": True}, "'normalize_all' is True, which scales 'timestamp'"),
    "the scaled column": (
        {"normalize_field": ["timestamp"]},
        "leave 'timestamp' out of it",
    ),
    "not times": ({"split_times": ["soon", "later"]}, "but must be two times"),
}


@pytest.mark.parametrize("model", ["SASRec", "Pop"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_with_it(case, model, made):
    changes, message = REFUSED[case]
    with pytest.raises(InputError) as error:
        configured(model, made | changes)
    assert message in str(error.value)


def test_times_that_are_texts_are_refused(made, tmp_path):
    file = tmp_path / "data" / "made" / "made.inter"
    file.write_text(file.read_text().replace("timestamp:float", "timestamp:token"))
    with pytest.raises(InputError, match="no column 'timestamp:float' among"):
        read_data(configured("Pop", made))
