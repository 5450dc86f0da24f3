"""The use of a finished run: what comes out is what evaluation saw."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.inference import _without_unknown
from recbole_sid.run_folder import WEIGHTS
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.trainer import SIDTrainer
from tests.runs import SMALL, snapshot, write_data

WINDOW = 5
N_ITEMS = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run with user tokens on histories longer than the window, and its users' sequences."""
    folder = tmp_path_factory.mktemp("use")
    rng = np.random.default_rng(0)
    sequences = {
        f"u{user}": [f"i{item}" for item in rng.permutation(N_ITEMS)[: 6 + user % 8]]
        for user in range(30)
    }
    sequences["all"] = [f"i{item}" for item in range(N_ITEMS)]
    rows = [(user, item, t) for user, items in sequences.items() for t, item in enumerate(items)]
    given = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    given |= write_data(folder, rows) | {
        "cache_dir": cache, "output": str(folder / "run"), "MAX_ITEM_LIST_LENGTH": WINDOW,
        "user_tokens": 3, "epochs": 2, "learning_rate": 0.01, "eval_batch_size": 8,
    }  # fmt: skip
    return recbole_sid.run("TIGER", "made", config_dict=given), sequences


def lists_of_evaluation(folder: str, k: int, exclude: bool = False) -> dict[str, tuple]:
    """Each user's items and scores, as the trainer's evaluation of the test split has them."""
    config, model, data, train, valid, test = recbole_sid.load_data_and_model(f"{folder}/{WEIGHTS}")
    config["exclude_history"] = exclude
    config["topk"] = [k]
    config["checkpoint_dir"] = f"{folder}-evaluated"
    trainer = SIDTrainer(config, model)
    trainer.splits = (train.dataset, valid.dataset)
    lists = {}

    def collect(ranked, interaction, rows, targets):
        items = data.field2id_token["item_id"][ranked.items.numpy()]
        for user, row, scores in zip(interaction["user_id"], items, ranked.scores, strict=True):
            listed = [item for item in row.tolist() if item != "[PAD]"]
            lists[data.field2id_token["user_id"][user]] = (listed, scores[: len(listed)].numpy())

    trainer.eval_collector.eval_batch_collect = collect
    trainer.eval_collector.get_data_struct = lambda: None
    trainer.evaluator.evaluate = lambda struct: {}
    trainer.evaluate(test, load_best_model=False)
    return lists


@pytest.mark.parametrize("exclude", [False, True])
def test_recommend_gives_what_evaluation_saw(run, exclude):
    result, sequences = run
    seen = lists_of_evaluation(result["run_folder"], 7, exclude)
    histories = {user: items[:-1] for user, items in sequences.items()}
    assert set(seen) == set(histories)
    found = recbole_sid.recommend(
        result["run_folder"], histories, 7, exclude_history=exclude, batch_size=3
    )
    assert [each.user for each in found] == list(histories)
    for user, items, scores in found:
        assert items == seen[user][0]
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, seen[user][1], rtol=1e-5)
        assert sorted(scores, reverse=True) == scores.tolist()
        n_left = N_ITEMS - len(histories[user])
        assert len(items) == (min(7, n_left) if exclude else 7)
        assert not exclude or not set(items) & set(histories[user])


def test_the_model_sees_the_window_and_exclusion_the_whole_history(run):
    result, sequences = run
    long = sequences["all"][:30]
    whole, window = recbole_sid.recommend(result["run_folder"], [long, long[-WINDOW:]], 10)
    assert whole.items == window.items
    without, only_window = recbole_sid.recommend(
        result["run_folder"], [long, long[-WINDOW:]], 10, exclude_history=True
    )
    assert set(without.items) == set(sequences["all"][30:])
    assert len(only_window.items) == 10
    assert not set(only_window.items) & set(long[-WINDOW:])
    assert without.user is None


def test_a_wider_search_gives_longer_lists(run):
    (found,) = recbole_sid.recommend(run[0]["run_folder"], [["i1", "i2"]], 20, beam_size=30)
    assert len(set(found.items)) == 20


def test_lists_depend_on_the_name_by_its_hash_alone(run):
    """Users of one of the three buckets have equal lists, known to the run or not."""
    import zlib

    result, _ = run
    names = ["u1", "u2", "u3", "u4", "u5", "nobody", "somebody", "anybody", "[PAD]"]
    found = recbole_sid.recommend(result["run_folder"], {name: ["i1", "i2"] for name in names}, 5)
    by_bucket: dict[int, bytes] = {}
    for name, _, scores in found:
        bucket = zlib.crc32(name.encode()) % 3
        assert by_bucket.setdefault(bucket, scores.round(4).tobytes()) == scores.round(4).tobytes()
    assert len(set(by_bucket.values())) == 3
    (nameless,) = recbole_sid.recommend(result["run_folder"], [["i1", "i2"]], 5)
    assert nameless.items == found[-1].items


def test_unknown_items_are_skipped_and_counted_or_refused(run, caplog):
    result, _ = run
    folder = result["run_folder"]
    histories = {"a": ["x1", "i1", "x2", "i2"], "b": ["x1"], "c": [], "d": ["i1", "i2"]}
    with caplog.at_level(logging.WARNING, logger="recbole_sid"):
        a, b, c, d = recbole_sid.recommend(folder, histories, 3, batch_size=1)
    assert (
        "3 of the 7 items in the histories are unknown to the run, 2 different ones: 'x1', 'x2'"
        in (caplog.text)
    )
    assert "2 of 4 histories hold no item that the run knows" in caplog.text
    assert (b.items, c.items, len(b.scores), len(c.scores)) == ([], [], 0, 0)
    assert b.items is not c.items
    assert len(a.items) == len(d.items) == 3
    (clean,) = recbole_sid.recommend(folder, {"a": ["i1", "i2"]}, 3)
    assert clean.items == a.items
    with pytest.raises(InputError, match="unknown to the run, 2 different ones: 'x1', 'x2'"):
        recbole_sid.recommend(folder, histories, 3, unknown="refuse")
    # The name of RecBole's padding is no item.
    assert recbole_sid.recommend(folder, [["[PAD]"]], 3)[0].items == []
    assert recbole_sid.recommend(folder, [], 3) == []


def test_spans_without_unknown_items_by_hand():
    spans = _without_unknown(np.array([0, 5, 0, 6, 7, 0]), np.array([1, 3, 0, 2]))
    assert spans.padded(np.arange(4)).tolist() == [[0, 0], [5, 6], [0, 0], [7, 0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unknown": "drop"}, "'unknown' is 'drop', but must be skip or refuse"),
        ({"batch_size": 0}, "'batch_size' is 0"),
        ({"histories": "i1 i2"}, "histories are of type str"),
        ({"histories": ["i1"]}, "history 0: 'i1' is not a list of raw item tokens"),
        ({"histories": [["i1"], ["i1", 2]]}, "history 1: item 2 is not text"),
        ({"histories": {"u": ["i1", None]}}, "user 'u': item None is not text"),
        ({"histories": {7: ["i1"]}}, "user 7 is not text"),
        (
            {"allowed_items": "no/such.txt"},
            "'allowed_items' is 'no/such.txt', which cannot be read",
        ),
    ],
)
def test_bad_arguments_are_refused_before_the_run_is_opened(run, given, message, monkeypatch):
    monkeypatch.setattr("recbole_sid.inference.open_bundle", lambda *a: pytest.fail("it loaded"))
    _refused(run, given, message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "'k' is 0, but must be a whole number above 0"),
        ({"k": True}, "'k' is True"),
        ({"k": 41}, "'k' is 41, but must be at most 40, the number of the run's items"),
        ({"k": 11}, "'beam_size' is 10, but must be at least k = 11. Raise beam_size or lower k"),
        ({"k": 5, "beam_size": 4}, "'beam_size' is 4, but must be at least k = 5"),
        ({"beam_size": 10.5}, "'beam_size' is 10.5, but must be a whole number"),
        ({"exclude_history": "yes"}, "'exclude_history' is 'yes', but must be true or false"),
        ({"now": 5}, "'now' is 5, but the run knows no times of its items"),
        ({"run_folder": "nowhere"}, "'nowhere' has no config.yaml"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_ranked(run, given, message, monkeypatch):
    monkeypatch.setattr("recbole_sid.inference.rank", lambda *a: pytest.fail("it ranked"))
    _refused(run, given, message)


def _refused(run, given, message):
    arguments = {"run_folder": run[0]["run_folder"], "histories": [["i1"]], "k": 3} | given
    with pytest.raises(InputError) as caught:
        recbole_sid.recommend(**arguments)
    assert message in str(caught.value)


# -- evaluate -------------------------------------------------------------------------------------


def test_a_run_is_scored_again(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, _ = run
    before = snapshot(Path(result["run_folder"]).parent)
    again = recbole_sid.evaluate(result["run_folder"])
    assert again["test_result"] == result["test_result"]
    assert again["valid_result"] == result["best_valid_result"]
    wide = recbole_sid.evaluate(result["run_folder"], topk=[1, 10], beam_size=40, metrics="Recall")
    assert set(wide["test_result"]) == {
        f"{name}@{k}"
        for name in ("recall", "sid_recall", "credited_recall", "generated")
        for k in (1, 10)
    }
    assert wide["settings"] == {
        "beam_size": 40, "eval_batch_size": 8, "exclude_history": False, "metrics": ["Recall"],
        "metric_decimal_place": 4, "topk": [1, 10], "filter_unavailable": False,
        "allowed_items": None, "available_from_field": None, "available_until_field": None,
    }  # fmt: skip
    assert snapshot(Path(result["run_folder"]).parent) == before
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_scored_again_with_few_items_allowed(run, tmp_path):
    result, _ = run
    tokens = SemanticIDs.load(Path(result["run_folder"]) / "sids.json").tokens
    (tmp_path / "all.txt").write_text("\n".join(tokens))
    (tmp_path / "one.txt").write_text(tokens[0])
    for file, same in (("all.txt", True), ("one.txt", False)):
        again = recbole_sid.evaluate(result["run_folder"], allowed_items=str(tmp_path / file))
        assert (again["test_result"] == result["test_result"]) == same


def test_scores_without_the_history_do_not_depend_on_the_batch(run, caplog):
    result, sequences = run
    with caplog.at_level(logging.INFO, logger="recbole_sid"):
        off = recbole_sid.evaluate(result["run_folder"])
        on = recbole_sid.evaluate(result["run_folder"], exclude_history=True)
    lines = [line for line in caplog.messages if line.startswith("Evaluation: exclude_history is")]
    assert [line.split()[3].rstrip(":") for line in lines] == ["off", "on"]
    assert on["test_result"] != off["test_result"]
    one = recbole_sid.evaluate(result["run_folder"], exclude_history=True, eval_batch_size=1)
    assert one["test_result"] == on["test_result"]
    assert one["valid_result"] == on["valid_result"]
    # By hand: recall of the lists themselves.
    lists = recbole_sid.recommend(
        result["run_folder"], {u: s[:-1] for u, s in sequences.items()}, exclude_history=True
    )
    hits = [sequences[user][-1] in items for user, items, _ in lists]
    assert on["test_result"]["recall@10"] == pytest.approx(np.mean(hits), abs=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 3}, "'epochs' is no evaluation setting"),
        ({"tokenizer_levels": 3}, "'tokenizer_levels' is no evaluation setting"),
        ({"eval_args": {}}, "'eval_args' is no evaluation setting"),
        ({"beamsize": 3}, "unknown setting 'beamsize'. Did you mean 'beam_size'"),
        ({"topk": [20]}, "'beam_size' is 10, but must be at least max(topk) = 20"),
        ({"topk": [50], "beam_size": 50}, "'topk' is [50], but must be at most 40"),
        ({"topk": []}, "'topk' is []"),
        ({"metrics": ["Recal"]}, "unknown metric 'Recal'"),
        ({"metrics": ["GAUC"]}, "metric 'GAUC' needs the score or rank of every item"),
        ({"eval_batch_size": 0}, "'eval_batch_size' is 0"),
        ({"metric_decimal_place": 2.5}, "'metric_decimal_place' is 2.5"),
        ({"exclude_history": 1}, "'exclude_history' is 1, but must be true or false"),
    ],
)
def test_only_sound_evaluation_settings_may_change(run, given, message):
    before = snapshot(Path(run[0]["run_folder"]))
    with pytest.raises(InputError) as caught:
        recbole_sid.evaluate(run[0]["run_folder"], **given)
    assert message in str(caught.value)
    assert snapshot(Path(run[0]["run_folder"])) == before


def test_a_generator_declares_what_may_change(run, monkeypatch):
    from recbole_sid.generator.tiger import Tiger

    monkeypatch.setattr(Tiger, "decoding_settings", frozenset({"beam_size", "dropout"}))
    found = recbole_sid.evaluate(run[0]["run_folder"], dropout=0.5)
    assert found["settings"]["dropout"] == 0.5


def test_a_run_that_excludes_does_so_in_training_and_in_use(run, tmp_path, cache):
    result, sequences = run
    folder = Path(result["run_folder"])
    run_again = recbole_sid.run(
        config_file_list=[str(folder / "config.yaml")],
        config_dict={"output": str(tmp_path / "on"), "exclude_history": True, "cache_dir": cache},
    )
    log = (tmp_path / "on" / "run.log").read_text()
    assert log.count("Evaluation: exclude_history is on") == 1
    found = recbole_sid.evaluate(run_again["run_folder"])
    assert found["test_result"] == run_again["test_result"]
    assert found["valid_result"] == run_again["best_valid_result"]
    (own,) = recbole_sid.recommend(run_again["run_folder"], [sequences["all"][:35]])
    assert set(own.items) == set(sequences["all"][35:])
    assert torch.isfinite(torch.from_numpy(own.scores)).all()
