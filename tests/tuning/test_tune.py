"""Searches whose trials are a formula: proposals, records, going on, tables, refusals."""

import csv
import json
import logging
from pathlib import Path

import pytest
import yaml

from recbole_sid import InputError, cli, registry, tune
from recbole_sid.resources import resource_dir
from recbole_sid.run_folder import read_json
from recbole_sid.tuning import hyper_tuning
from recbole_sid.tuning.importance import importance
from recbole_sid.tuning.journal import Record
from recbole_sid.tuning.plan import make_plan
from recbole_sid.tuning.running import Interrupted
from recbole_sid.tuning.space import Dimension, Space
from tests.runs import CUT, SMALL, snapshot
from tests.sealing import write_json

SPACE = "learning_rate loguniform -7, -3\ndropout choice [0.0, 0.2, 0.4]\n"
OUTPUTS = ("result.json", "trials.csv", "trials.md", "best.yaml")


def score(params: dict) -> float:
    """Best at a learning rate of 0.01 and a dropout of 0.2."""
    return round(1 / (1 + abs(params["learning_rate"] - 0.01) + abs(params["dropout"] - 0.2)), 6)


class Trials:
    """Stands for the processes; counts them, and may be told to end at one of them."""

    def __init__(self, stop_at: int | None = None, fails=lambda params: False) -> None:
        self.done: list[int] = []
        self.stop_at, self.fails = stop_at, fails

    def __call__(self, job, on_evaluation) -> Record:
        if job.trial == self.stop_at:
            raise Interrupted(f"trial {job.trial}")
        self.done.append(job.trial)
        if self.fails(job.params):
            return Record(
                job.trial, job.params, "failed", reason="ValueError: no | luck", seconds=2.0
            )
        found = score(job.params)
        on_evaluation({"epoch": 0, "current": found})
        curve, metrics = [[0, found]], {"ndcg@10": found, "recall@10": found}
        return Record(job.trial, job.params, "finished", found, metrics, curve, seconds=1.0)


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A function that searches in ``tmp_path / name`` with given trials."""
    (tmp_path / "space.test").write_text(SPACE)
    logging.getLogger("recbole_sid").setLevel(logging.NOTSET)

    def run(name: str, trials: Trials, space: str = "space.test", **changes):
        monkeypatch.setattr(hyper_tuning, "execute", trials)
        own = {"max_trials": 8, "bayes_random_trials": 3, **changes}
        given = {**SMALL, "cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / name)}
        given.pop("dropout", None)
        where = tmp_path / space
        return tune("TIGER", "ml-100k", space=where, config_dict={**given, **own})

    return run


def outputs(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in OUTPUTS}


@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_a_search_that_was_interrupted_ends_with_the_same_tables(search, tmp_path, algo):
    fails = lambda params: params["dropout"] == 0.4  # noqa: E731
    whole = Trials(fails=fails)
    result = search("whole", whole, algo=algo)
    # A trial of the same settings as an earlier one is not trained: here all differ.
    assert whole.done == list(range(1, 9))
    first = Trials(stop_at=5, fails=fails)
    with pytest.raises(InputError, match=r"interrupted: trial 5\. The same command goes on"):
        search("parts", first, algo=algo)
    assert first.done == [1, 2, 3, 4]
    assert not (tmp_path / "parts" / "best.yaml").exists()
    second = Trials(fails=fails)
    search("parts", second, algo=algo)
    assert second.done == list(range(5, 9))
    assert outputs(tmp_path / "parts") == outputs(tmp_path / "whole")
    # Failed trials are kept and told, and the best one is the best of the others.
    states = {trial["trial"]: trial["state"] for trial in result["trials"]}
    assert set(states.values()) == {"finished", "failed"}
    finished = [trial for trial in result["trials"] if trial["state"] == "finished"]
    assert result["best_valid_score"] == max(score(trial["params"]) for trial in finished)
    assert [trial["state"] for trial in result["trials"]] == sorted(states.values(), reverse=True)
    text = (tmp_path / "whole" / "trials.md").read_text()
    assert r"failed: ValueError: no \| luck" in text
    log = (tmp_path / "parts" / "tuning.log").read_text()
    assert "Trial 8 of 8" in log
    assert "best so far" in log
    assert "left" in log
    assert "kept from before" in log


def test_bayes_learns_from_scores_and_random_does_not(search, tmp_path):
    class Inverted(Trials):
        def __call__(self, job, on_evaluation):
            record = super().__call__(job, on_evaluation)
            return Record(record.trial, record.params, "finished", -record.score, {"ndcg@10": 0.0})

    def proposed(name, trials, algo):
        search(name, trials, algo=algo)
        files = sorted((tmp_path / name / "trials").glob("*.json"))
        return [json.loads(file.read_text())["params"] for file in files]

    assert proposed("a", Trials(), "random") == proposed("b", Inverted(), "random")
    good, bad = proposed("c", Trials(), "bayes"), proposed("d", Inverted(), "bayes")
    assert good[:3] == bad[:3]
    assert good[3:] != bad[3:]
    assert proposed("e", Trials(), "random") != proposed_with_seed(search, tmp_path)


def proposed_with_seed(search, tmp_path):
    search("seeded", Trials(), algo="random", seed=7)
    files = sorted((tmp_path / "seeded" / "trials").glob("*.json"))
    return [json.loads(file.read_text())["params"] for file in files]


def test_an_exhaustive_search_tries_every_combination_once(search, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "dropout: {choice: [0.0, 0.2]}\nlearning_rate: {quniform: [0.01, 0.03, 0.01]}"
    )
    with pytest.raises(InputError, match="has 6 combinations, more than max_trials, 5: give --max"):
        search("grid", Trials(), "grid.yaml", algo="exhaustive", max_trials=5)
    result = search("grid", Trials(), "grid.yaml", algo="exhaustive")
    found = sorted(tuple(trial["params"].values()) for trial in result["trials"])
    assert found == [(d, r) for d in (0.0, 0.2) for r in (0.01, 0.02, 0.03)]
    assert result["best_params"] == {"dropout": 0.2, "learning_rate": 0.01}
    with pytest.raises(InputError, match="'learning_rate' of the space is loguniform"):
        search("endless", Trials(), algo="exhaustive")


def test_equal_settings_are_trained_once(search, tmp_path):
    (tmp_path / "two.test").write_text("dropout choice [0.0, 0.2]\nlearning_rate choice [0.01]")
    trials = Trials()
    result = search("two", trials, "two.test", algo="random", max_trials=6)
    assert len(trials.done) == 2
    first = {}
    for trial in sorted(result["trials"], key=lambda trial: trial["trial"]):
        key = trial["params"]["dropout"]
        assert trial["same_as"] == first.get(key)
        first.setdefault(key, trial["trial"])
    # Of several trials with the best score, the first.
    assert result["best_trial"] == first[0.2]


def test_more_trials_go_on_where_fewer_ended(search, tmp_path):
    search("longer", Trials(), algo="bayes", max_trials=4)
    more = Trials()
    search("longer", more, algo="bayes", max_trials=8)
    assert more.done == list(range(5, 9))
    search("at_once", Trials(), algo="bayes", max_trials=8)
    assert outputs(tmp_path / "longer") == outputs(tmp_path / "at_once")


def test_the_files_say_the_same(search, tmp_path):
    result = search("files", Trials())
    assert (
        read_json(tmp_path / "files" / "result.json", "") | {"folder": result["folder"]} == result
    )
    rows = list(csv.DictReader((tmp_path / "files" / "trials.csv").open()))
    assert [int(row["trial"]) for row in rows] == [trial["trial"] for trial in result["trials"]]
    assert float(rows[0]["score"]) == result["best_valid_score"]
    assert float(rows[0]["learning_rate"]) == result["best_params"]["learning_rate"]
    best = yaml.safe_load((tmp_path / "files" / "best.yaml").read_text())
    assert {key: best[key] for key in result["best_params"]} == result["best_params"]
    assert best["model"] == "TIGER"
    assert "output" not in best
    shares = result["importance"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    timing = json.loads((tmp_path / "files" / "timing.json").read_text())
    assert timing["seconds"] == {str(trial): 1.0 for trial in range(1, 9)}
    # What a process leaves goes when its trial has its record.
    assert {path.suffix for path in (tmp_path / "files" / "trials").iterdir()} == {".json"}


def test_a_folder_of_something_else_is_kept(search, tmp_path):
    search("kept", Trials(), max_trials=2)
    before = snapshot(tmp_path / "kept" / "trials")
    for change, named in (
        ({"epochs": 2}, "settings"), ({"algo": "random"}, "search"), ({"engine": "ray"}, "search")
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"another search, which differs in: .*{named}"):
            search("kept", Trials(), **change)
    (tmp_path / "space.test").write_text(SPACE.replace("-7", "-6"))
    with pytest.raises(InputError, match="differs in: space"):
        search("kept", Trials())
    assert snapshot(tmp_path / "kept" / "trials") == before
    anew = Trials()
    search("kept", anew, max_trials=2, overwrite=True)
    assert anew.done == [1, 2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not the folder of a search"):
            search("mine", Trials(), overwrite=overwrite)


def test_what_a_killed_search_had_half_written_goes(search, tmp_path):
    # Killed before its first file, and while it wrote a trial and a table.
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / ".search.json.7.tmp").write_text("{")
    search("killed", Trials(), max_trials=2)
    for left in (folder / ".trials.md.7.tmp", folder / "trials" / ".0002.json.7.tmp"):
        left.write_text("x")
    mine = folder / ".notes.7.tmp"
    mine.write_text("of somebody else")
    search("killed", Trials(), max_trials=2)
    assert list(folder.rglob(".*.tmp")) == [mine]


def test_a_changed_record_is_refused(search, tmp_path):
    search("record", Trials(), max_trials=2)
    file = tmp_path / "record" / "trials" / "0001.json"
    record = json.loads(file.read_text())
    write_json(file, record | {"params": {"learning_rate": 1.0, "dropout": 0.0}})
    with pytest.raises(InputError, match=r"trial 1 in .*but the search now proposes"):
        search("record", Trials(), max_trials=2)
    file.write_text("{")
    with pytest.raises(InputError, match=r"0001\.json' has no checksum .* remove it"):
        search("record", Trials(), max_trials=2)


def test_when_all_trials_fail_it_is_an_error(search, tmp_path):
    with pytest.raises(InputError, match="none of 3 trials came to its end, the first because of"):
        search("failed", Trials(fails=lambda params: True), max_trials=3)
    assert not (tmp_path / "failed" / "best.yaml").exists()


def test_settings_that_do_not_agree_fail_their_trial_alone(search, tmp_path):
    (tmp_path / "odd.yaml").write_text(
        "dropout: {choice: [0.2]}\nlearning_rate: {choice: [0.01]}\n"
        "softmax: {choice: [level, children]}\nlabel_smoothing: {choice: [0.0, 0.1]}"
    )
    trials = Trials()
    result = search("odd", trials, "odd.yaml", algo="exhaustive")
    assert len(trials.done) == 3
    (failed,) = [trial for trial in result["trials"] if trial["state"] == "failed"]
    assert failed["params"]["softmax"] == "children"
    assert failed["params"]["label_smoothing"] == 0.1
    assert "must be 0 where softmax is 'children'" in failed["reason"]


@pytest.mark.parametrize(
    ("space", "changes", "reason"),
    [
        ("learning_rat choice [1]", {}, "'learning_rat' with 1: .*Did you mean 'learning_rate'"),
        ("dropout choice [0.1, 2]", {}, "'dropout' with 2: "),
        ("dropout uniform -1, 1", {}, "'dropout' with -1"),
        ("layers choice [1]", {}, "'layers' with 1"),
        ("item_embedding choice ['x']", {}, "'item_embedding' with 'x'"),
        ("seed choice [1, 2]", {}, "'seed': trials would not be comparable"),
        ("metrics choice [[Recall]]", {}, "'metrics': trials would not be comparable"),
        ("hidden_size choice [16]", {}, "'hidden_size' is given and stands in the space"),
        (SPACE, {"resume": True}, "leave --resume out"),
        (SPACE, {"eval_step": 0}, "tuning goes by validation"),
        (SPACE, {"max_trials": 0}, "'max_trials' is 0, but must be at least 1"),
        (SPACE, {"parallel": 2}, "'parallel' is 2, but must be 1 with engine recbole"),
        (SPACE, {"parallel": 2, "engine": "ray", "algo": "bayes"}, "must be 1 with algo bayes"),
        (SPACE, {"engine": "optuna"}, "'engine' is 'optuna', but must be one of"),
        (SPACE, {"topk": [5, 5000]}, "setting 'valid_metric' is"),
    ],
)
def test_bad_input_is_refused_before_the_first_trial(search, tmp_path, space, changes, reason):
    (tmp_path / "space.test").write_text(space)
    trials = Trials()
    with pytest.raises(InputError, match=reason):
        search("refused", trials, **changes)
    assert trials.done == []
    assert not (tmp_path / "refused").exists()


RECBOLE = ["SASRec", "GRU4Rec", "BERT4Rec", "FDSA", "BPR", "ItemKNN"]
SHIPPED = [*registry.model_names(), *RECBOLE]


@pytest.mark.parametrize("model", SHIPPED)
def test_a_space_is_shipped(model):
    given = {**CUT, "dataset": "ml-100k", "model": model}
    plan = make_plan(None, None, None, [], given)
    assert (2 if model == "ItemKNN" else 3) <= len(plan.space.keys) <= 5
    name = f"ml-100k-{model}-"
    assert plan.folder.parent == Path("tunings")
    assert plan.folder.name.startswith(name)
    # The defaults of the model lie within: the search is around them.
    for one in plan.space.dimensions:
        default = plan.base[one.key]
        if one.kind == "choice":
            assert default in one.values
        else:
            assert one.numbers[0] <= default <= one.numbers[1]


def test_a_model_without_a_space_is_told_where_they_are():
    with pytest.raises(
        InputError, match="no space is shipped for model 'LightGCN', only for BERT4Rec, BPR, Diff"
    ):
        make_plan("LightGCN", "ml-100k", None, [], {})
    assert (resource_dir("properties") / "hyper").is_dir()


def test_the_command_line_refuses_in_one_line(capsys, tmp_path):
    (tmp_path / "space.test").write_text("dropou choice [0.1]")
    assert cli.main(["tune", f"--space={tmp_path / 'space.test'}"]) == 2
    assert "Did you mean 'dropout'" in capsys.readouterr().err
    assert cli.main(["tune", "--space=1"]) == 2
    assert "--space is 1, not a name" in capsys.readouterr().err


def records(columns: list[tuple], scores: list[float]) -> list[Record]:
    return [
        Record(n, dict(zip("ab", row, strict=True)), "finished", score)
        for n, (row, score) in enumerate(zip(columns, scores, strict=True), start=1)
    ]


def test_importance_finds_the_setting_that_matters():
    space = Space(
        (Dimension("a", "uniform", numbers=(0.0, 1.0)), Dimension("b", "choice", values=(1, 2)))
    )
    rows = [(n / 16, 1 + n % 2) for n in range(16)]
    by_a = importance(space, records(rows, [row[0] ** 2 for row in rows]), 1)
    by_b = importance(space, records(rows, [float(row[1]) for row in rows]), 1)
    assert by_a is not None
    assert by_b is not None
    assert by_a["a"] > 0.9
    assert by_b["b"] > 0.9
    assert importance(space, records(rows, [0.5] * 16), 1) is None
    assert importance(space, records(rows[:7], [row[0] for row in rows[:7]]), 1) is None
    assert importance(space, records(rows[:8], [row[0] for row in rows[:8]]), 1) is not None


def test_importance_does_not_depend_on_the_order():
    space = Space((Dimension("a", "uniform", numbers=(0.0, 1.0)),))
    found = [Record(n, {"a": n / 12}, "finished", float(n % 5)) for n in range(12)]
    assert importance(space, found[::-1], 0) == importance(space, found, 0) == {"a": 1.0}
