"""What a comparison hashes of the data, worked out by hand, and what it refuses."""

import hashlib
from pathlib import Path

import pytest

from recbole_sid import InputError
from recbole_sid.comparison import splits
from recbole_sid.comparison.compare import compare
from recbole_sid.comparison.plan import make_plan
from recbole_sid.comparison.splits import Split, check_outcomes, check_same, read_split
from recbole_sid.reading import read_data
from tests.comparison.settings import FILE, SPLIT_IN_TIME, write


def test_the_data_is_hashed_alike_for_both_kinds_of_models(tmp_path):
    file = write(tmp_path, FILE)
    plan = make_plan(["Pop", "SASRec"], file, [], {"dataset": "ml-100k"})
    pop, sasrec = (read_split(run.config) for run in plan.runs)
    assert pop == sasrec
    short = make_plan(["SASRec"], file, [], {"dataset": "ml-100k", "MAX_ITEM_LIST_LENGTH": 1})
    assert read_split(short.runs[0].config) == pop


def test_splits_by_hand(made):
    made["user_inter_num_interval"] = "[4,inf)"
    pop, sasrec = make_plan(["Pop", "SASRec"], None, [], made).runs
    split = read_split(pop.config)
    # SASRec's rows hold histories: each is the items before its target here.
    assert read_split(sasrec.config) == split
    # Trained on: u1 a b c, u2 b c d, u3 f a b.
    assert split.item_counts == {"a": 2, "b": 3, "c": 2, "d": 1, "e": 0, "f": 1}
    assert split.test == {"u1": ["e"], "u2": ["a"], "u3": ["d"]}
    assert split.counts == {"users": 3, "items": 6, "interactions": 15, "valid": 3, "test": 3}
    lines = [
        "['u1', ['a', 'b', 'c'], ['d'], ['e']]",
        "['u2', ['b', 'c', 'd'], ['e'], ['a']]",
        "['u3', ['f', 'a', 'b'], ['c'], ['d']]",
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    assert split.hashes["test"] == hashlib.sha256(text).hexdigest()


def with_changes(changes):
    """A reader of data whose loaders hold other rows: ``changes``, by the split's number, are the
    column, the row by its user and target, and a function of its value."""

    def read(config):
        data, loaders = read_data(config)
        for number, (field, user, target, changed) in changes:
            rows = loaders[number].dataset.inter_feat
            names = [data.field2id_token[name] for name in ("user_id", "item_id")]
            found = [
                names[0][u] == user and names[1][i] == target
                for u, i in zip(rows["user_id"], rows["item_id"], strict=True)
            ]
            rows[field][found.index(True)] = changed(rows[field][found.index(True)].clone())
        return data, loaders

    return read


ALTERED = {
    "the first item of a history": (0, ("item_id_list", "u1", "c", lambda h: h + (h > 0))),
    "a history that is cut": (0, ("item_length", "u1", "c", lambda n: n - 1)),
    "a target": (0, ("item_id", "u2", "c", lambda i: i + 1)),
    "the only item before a user's first target": (
        0, ("item_id_list", "u3", "a", lambda h: h + (h > 0))
    ),
    "a history of validation": (1, ("item_id_list", "u1", "d", lambda h: h + (h > 0))),
    "a history of the test": (2, ("item_id_list", "u1", "e", lambda h: h + (h > 0))),
}  # fmt: skip


@pytest.mark.parametrize("case", ALTERED)
def test_one_altered_row_is_found(case, made, monkeypatch):
    made["user_inter_num_interval"] = "[4,inf)"
    (run,) = make_plan(["SASRec"], None, [], made).runs
    monkeypatch.setattr(splits, "read_data", with_changes([ALTERED[case]]))
    with pytest.raises(InputError, match="a history is not what its user had before the target"):
        read_split(run.config)


def test_other_items_throughout_are_other_data(made, monkeypatch):
    """Histories that fit, of another item in the training split: the hash says so."""
    made["user_inter_num_interval"] = "[4,inf)"
    pop, sasrec = make_plan(["Pop", "SASRec"], None, [], made).runs
    whole = read_split(sasrec.config)
    changes = [(0, ("item_id", "u1", "c", lambda i: i + 1))]
    monkeypatch.setattr(splits, "read_data", with_changes(changes))
    altered = read_split(pop.config)
    assert altered.hashes["train"] != whole.hashes["train"]
    with pytest.raises(InputError, match="the train split differs"):
        check_same({"SASRec": whole, "Pop": altered})


def test_a_split_in_time_by_hand(made, tmp_path):
    """Times are 0 to 4 for everyone; u0 has three items, and late begins at 3."""
    file = tmp_path / "data" / "made" / "made.inter"
    file.write_text(file.read_text() + "late\tb\t3\nlate\tc\t4\nlate\tf\t4.5\n")
    runs = make_plan(["SASRec", "TIGER"], None, [], {**made, **SPLIT_IN_TIME}).runs
    assert runs[0].config["eval_args"]["split"] is None
    one, other = (read_split(run.config) for run in runs)
    assert one == other
    # Trained on: u0 a b, u1 a b, u2 b c, u3 f a; the first ones are history only, and count.
    assert one.item_counts == {"a": 3, "b": 3, "c": 1, "d": 0, "e": 0, "f": 1}
    assert one.counts == {"users": 5, "items": 6, "interactions": 21, "valid": 7, "test": 5}
    assert one.test == {"u1": ["e"], "u2": ["a"], "u3": ["d"], "late": ["c", "f"]}
    lines = [
        "['late', ['b'], [], [], ['c', 'f']]",
        "['u1', [], ['a', 'b'], ['c', 'd'], ['e']]",
        "['u2', [], ['b', 'c'], ['d', 'e'], ['a']]",
        "['u3', [], ['f', 'a'], ['b', 'c'], ['d']]",
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    assert one.hashes["test"] == hashlib.sha256(text).hexdigest()
    # A history may be cut; the split is the same.
    short = {**made, **SPLIT_IN_TIME, "MAX_ITEM_LIST_LENGTH": 1}
    assert read_split(make_plan(["SASRec"], None, [], short).runs[0].config) == one
    moved = {**made, **SPLIT_IN_TIME, "split_times": [2, 4.2]}
    assert read_split(make_plan(["SASRec"], None, [], moved).runs[0].config).hashes != one.hashes


def test_models_on_other_data_are_refused(made):
    with pytest.raises(InputError) as error:
        compare(["SASRec", "Pop"], config_dict=made)
    message = str(error.value)
    assert "the train split differs between SASRec (4 users" in message
    assert "fewer than 4 interactions" in message
    assert not Path(made["output"]).exists()


def test_the_split_that_differs_is_named():
    one = Split({"items": "i", "train": "a", "valid": "v", "test": "t"}, {"users": 1}, {}, {})
    other = Split({**one.hashes, "test": "x"}, {"users": 1}, {}, {})
    check_same({"A": one, "B": one})
    with pytest.raises(InputError, match=r"the test split differs between A, C \(.*; B \("):
        check_same({"A": one, "B": other, "C": one})


def test_outcomes_on_other_targets_are_refused():
    check_outcomes("A", {"u": ["a"], "w": ["b", "a"]}, ["w", "u", "w"], ["b", "a", "a"])
    for users, targets in (["u"], ["a"]), (["u", "w"], ["a", "a"]), (["u", "w", "u"], list("aba")):
        with pytest.raises(InputError, match="outcomes of A are not on the test split"):
            check_outcomes("A", {"u": ["a"], "w": ["b"]}, users, targets)
