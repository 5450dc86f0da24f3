"""Engine ray: the clear error without its packages, what it is told, and whole searches."""

import json
import logging
from pathlib import Path

import pytest

from recbole_sid import cli, tune
from recbole_sid.tuning import ray_tune
from recbole_sid.tuning.journal import Journal, Record
from recbole_sid.tuning.plan import make_plan, open_folder
from recbole_sid.tuning.running import Prepared
from tests.runs import SMALL

SPACE = "learning_rate choice [0.003, 0.03, 0.01]\n"


def settings(folder: Path, **more) -> dict:
    own = {"engine": "ray", "algo": "exhaustive", "epochs": 2, "asha_reduction": 2}
    given = {**SMALL, "output": str(folder / "out"), "cache_dir": str(folder / "cache")}
    return {**given, **own, **more}


def test_without_its_packages_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ray_tune, "PACKAGES", ("ray", "pyarrow_that_is_not_here"))
    arguments = ["tune", "--model=TIGER", "--engine=ray", f"--output={tmp_path / 'out'}"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "--engine ray needs packages that are not installed: pyarrow_that_is_not_here" in said
    assert 'pip install "recbole-sid[tune]"' in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def searcher(tmp_path):
    """A function that gives a new searcher of one folder, as Ray drives it, and its journal."""
    pytest.importorskip("ray.tune")
    (tmp_path / "space.test").write_text(SPACE)

    def make(**more):
        given = settings(tmp_path, **more)
        plan = make_plan("TIGER", "ml-100k", tmp_path / "space.test", [], given)
        open_folder(plan, overwrite=False)
        journal = Journal(plan)
        return ray_tune._searcher(plan, journal), journal

    return make


def heard(epoch: int, current: float, best: float) -> dict:
    return {
        "epoch": epoch, "current": current, "score": best, "last": epoch == 1,
        "metrics": json.dumps({"ndcg@10": best}), "time_total_s": 3.04,
    }  # fmt: skip


def test_a_search_tells_ray_the_same_again(searcher, tmp_path):
    first, journal = searcher()
    one = first.suggest("a")
    assert isinstance(one["job"], Prepared)
    assert one["kept"] is None
    assert first.suggest("b") is None  # one at a time
    # It ends by itself: the process of Ray leaves its record.
    done = Record(1, one["job"].params, "finished", 0.5, {"ndcg@10": 0.5}, [[0, 0.4], [1, 0.5]])
    ray_tune.write_json(one["job"].folder / "record.json", done.__dict__)
    first.on_trial_result("a", heard(0, 0.4, 0.4))
    first.on_trial_complete("a", heard(1, 0.5, 0.5))
    assert journal.records[1] == done
    assert not one["job"].folder.exists()
    # It is stopped at its first validation, which Ray tells here only.
    two = first.suggest("b")
    first.on_trial_complete("b", heard(0, 0.2, 0.2))
    stopped = journal.records[2]
    assert (stopped.state, stopped.score, stopped.evaluations) == ("stopped", 0.2, [[0, 0.2]])
    assert stopped.metrics == {"ndcg@10": 0.2}
    # It is lost: without a record it comes again.
    three = first.suggest("c")
    first.on_trial_complete("c", None, error=True)
    assert sorted(journal.records) == [1, 2]
    assert first.suggest("d") == "FINISHED"
    second, journal = searcher()
    for name, record in (("a", done), ("b", stopped)):
        assert second.suggest(name) == {"job": None, "kept": record, "bigger": True}
        second.on_trial_complete(name, {})
    assert second.suggest("c")["job"].params == three["job"].params
    # Stopped at the last validation, it has come to its end.
    second.on_trial_result("c", heard(0, 0.6, 0.6))
    second.on_trial_complete("c", heard(1, 0.3, 0.6))
    assert (journal.records[3].state, journal.records[3].score) == ("finished", 0.6)
    assert journal.best() == journal.records[3]
    assert [record.trial for record in journal.ranked()] == [3, 1, 2]
    assert two["job"].params != one["job"].params


def test_a_trial_that_fails_is_kept_and_the_next_one_comes(searcher, monkeypatch):
    search, journal = searcher()
    one = search.suggest("a")
    failed = Record(1, one["job"].params, "failed", evaluations=[[0, 0.1]], reason="ValueError: x")
    monkeypatch.setattr(ray_tune, "execute", lambda job, report: failed)
    with pytest.raises(RuntimeError, match="ValueError: x"):
        ray_tune._train(one)
    search.on_trial_result("a", heard(0, 0.1, 0.1))
    search.on_trial_complete("a", None, error=True)
    assert journal.records[1] == failed
    assert search.suggest("b")["job"].trial == 2
    # ASHA has heard of it, so it will again.
    again, _ = searcher()
    assert again.suggest("a") == {"job": None, "kept": failed, "bigger": True}


def test_asha_hears_of_the_best_score_so_far(searcher, monkeypatch):
    reported: list[tuple] = []
    monkeypatch.setattr(
        "ray.air.session.report", lambda one: reported.append((one["score"], one["current"]))
    )
    curve = [[0, 0.3], [1, 0.2], [2, 0.4]]
    kept = Record(1, {}, "stopped", 0.4, {}, curve)
    for bigger, expected in ((True, [0.3, 0.3, 0.4]), (False, [0.3, 0.2, 0.2])):
        reported.clear()
        ray_tune._train({"job": None, "kept": kept, "bigger": bigger})
        assert reported == [(best, now) for best, (_, now) in zip(expected, curve, strict=True)]
    # The same of a trial that is trained: it gives both.
    search, _ = searcher()
    one = search.suggest("a")

    def execute(job, report):
        report({"epoch": 1, "current": 0.2, "score": 0.3, "last": True, "metrics": {"m": 0.3}})
        return kept

    monkeypatch.setattr(ray_tune, "execute", execute)
    reported.clear()
    ray_tune._train(one)
    assert reported == [(0.3, 0.2)]


def test_several_at_a_time(searcher):
    search, _ = searcher(parallel=2, algo="random")
    assert search.suggest("a")["job"].threads == 1
    assert search.suggest("b")["job"].trial == 2
    assert search.suggest("c") is None


def test_whole_searches(tmp_path):
    for name in ray_tune.PACKAGES:
        pytest.importorskip(name)
    (tmp_path / "space.test").write_text(SPACE)
    logging.getLogger("recbole_sid").setLevel(logging.NOTSET)
    given = settings(tmp_path)
    result = tune("TIGER", "ml-100k", space=tmp_path / "space.test", config_dict=given)
    trials = {one["trial"]: one for one in result["trials"]}
    assert sorted(trials) == [1, 2, 3]
    assert {one["state"] for one in result["trials"]} <= {"finished", "stopped"}
    # The first to come anywhere goes on; of two, the worse one is stopped.
    assert trials[1]["state"] == "finished"
    first = [trials[n]["evaluations"][0][1] for n in (1, 2)]
    assert (trials[2]["state"] == "stopped") == (first[1] < first[0])
    for one in result["trials"]:
        assert len(one["evaluations"]) == (2 if one["state"] == "finished" else 1)
    outputs = ("result.json", "trials.csv", "trials.md", "best.yaml")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in outputs}
    (tmp_path / "out" / "trials" / "0003.json").unlink()
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "logs").iterdir()}
    tune("TIGER", "ml-100k", space=tmp_path / "space.test", config_dict=given)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in outputs} == before
    changed = [path.name for path, when in logs.items() if path.stat().st_mtime_ns != when]
    assert changed == ["0003.log"]
