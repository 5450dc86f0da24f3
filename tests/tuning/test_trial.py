"""Trials that are trained: the same as a run, without the test split; killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import recbole_sid
from recbole_sid import InputError, cli
from recbole_sid.quick_start import checked_config
from recbole_sid.tokenizer.rqkmeans import RQKMeans
from recbole_sid.tuning import running, trial
from tests.runs import CUT, SMALL, write_data
from tests.sealing import write_json

ROOT = Path(__file__).parents[2]
SASREC = {**CUT, "hidden_size": 16, "inner_size": 16, "n_layers": 1, "eval_step": 1}


def validated(folder: Path, settings: dict, on_evaluation=lambda evaluation: None) -> dict:
    folder.mkdir(exist_ok=True)
    config = checked_config(config_dict={"dataset": "ml-100k", **settings, "output": str(folder)})
    return trial.validate(config, folder, on_evaluation)


@pytest.mark.parametrize(("model", "settings"), [("TIGER", SMALL), ("SASRec", SASREC)])
def test_a_trial_has_the_validation_of_a_run(model, settings, tmp_path, cache, monkeypatch):
    settings = {**settings, "model": model, "epochs": 2, "cache_dir": cache}
    read = trial.read_data

    def without_test(config):
        data, (train, valid, _) = read(config)
        return data, (train, valid, None)

    monkeypatch.setattr(trial, "read_data", without_test)
    seen: list = []
    found = validated(tmp_path / "trial", settings, seen.append)
    run = recbole_sid.run(
        config_dict={**settings, "dataset": "ml-100k", "output": str(tmp_path / "run")}
    )
    assert found == {"score": run["best_valid_score"], "metrics": run["best_valid_result"]}
    assert [(one["epoch"], one["last"]) for one in seen] == [(0, False), (1, True)]
    assert found["score"] == max(one["current"] for one in seen) == seen[-1]["score"]


def test_a_trial_of_ours_goes_on_from_its_last_epoch(tmp_path, cache):
    settings = {**SMALL, "model": "TIGER", "epochs": 3, "cache_dir": cache}
    whole: list = []
    found = validated(tmp_path / "whole", settings, whole.append)

    def killed(evaluation):
        if evaluation["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validated(tmp_path / "parts", settings, killed)
    rest: list = []
    assert validated(tmp_path / "parts", settings, rest.append) == found
    assert rest == whole[1:]


def test_trials_share_the_tokenizer(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(12)}", t) for u in range(8) for t in range(6)]
    data = write_data(tmp_path, rows, {f"i{item}": "thing" for item in range(12)})
    np.save(tmp_path / "v.npy", rng.normal(size=(12, 4)).astype(np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"i{item}\n" for item in range(12)))
    fits = []
    fit = RQKMeans.fit
    monkeypatch.setattr(RQKMeans, "fit", lambda *args, **more: fits.append(1) or fit(*args, **more))
    settings = {key: value for key, value in SMALL.items() if "interval" not in key}
    settings |= {
        **data,
        "model": "TIGER",
        "dataset": "made",
        "tokenizer": "rqkmeans",
        "tokenizer_codebook_size": 4,
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "topk": [3],
        "valid_metric": "NDCG@3",
        "cache_dir": str(tmp_path / "cache"),
    }
    for number, change in enumerate(
        ({}, {"learning_rate": 0.01}, {"dropout": 0.4}, {"encoder_layers": 2})
    ):
        validated(tmp_path / str(number), {**settings, **change})
    assert len(fits) == 1
    validated(tmp_path / "other", {**settings, "tokenizer_codebook_size": 5})
    assert len(fits) == 2


def test_a_trial_ends_with_its_search(tmp_path, cache):
    config = checked_config(
        config_dict={**SMALL, "model": "TIGER", "dataset": "ml-100k", "epochs": 10**6}
        | {"cache_dir": cache, "output": str(tmp_path)}
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_plain()))
    command = [sys.executable, "-c", running._CHILD, str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            wait_for(lambda: "epoch" in (tmp_path / "evaluations.jsonl").read_text(), process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 1
        finally:
            process.kill()
    assert not (tmp_path / "validation.json").exists()


def wait_for(true, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "it ended by itself"
        try:
            if true():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def test_a_killed_search_goes_on_and_its_best_settings_run_to_the_same_score(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL | {"model": "TIGER"}))
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {choice: [0.003, 0.03]}\ncollision: {choice: [dedup]}"
    )
    out = tmp_path / "out"
    arguments = ["tune", "--dataset=ml-100k", f"--config_files={tmp_path / 'small.yaml'}"]
    arguments += [f"--space={tmp_path / 'space.yaml'}", "--algo=exhaustive", f"--output={out}"]
    arguments += [f"--cache_dir={tmp_path / 'cache'}", "--show_progress=False"]
    command = [sys.executable, "run_recbole_sid.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        search = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        wait_for((out / "trials" / "0002" / "config.yaml").is_file, search)
        search.send_signal(signal.SIGKILL)
        search.wait()
    first = (out / "trials" / "0001.json").read_bytes()
    assert not (out / "trials" / "0002.json").exists()
    assert cli.main(arguments) == 0
    assert (out / "trials" / "0001.json").read_bytes() == first
    assert "best so far" in (out / "tuning.log").read_text()
    assert (out / "trials.md").read_text() in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    assert [trial["state"] for trial in result["trials"]] == ["finished"] * 2
    again = recbole_sid.run(
        config_file_list=[str(out / "best.yaml")], config_dict={"output": str(tmp_path / "best")}
    )
    assert again["best_valid_score"] == result["best_valid_score"]
    assert again["best_valid_result"] == result["best_valid_result"]
    assert again["test_result"]


def test_a_process_that_fails_leaves_a_line(tmp_path, cache):
    folder = tmp_path / "trial"
    folder.mkdir()
    settings = {**SASREC, "model": "SASRec", "dataset": "ml-100k", "hidden_size": 15}
    config = checked_config(config_dict={**settings, "output": str(folder)})
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_plain()))
    job = running.Prepared(7, {"hidden_size": 15}, folder, tmp_path / "log", 1)
    record = running.execute(job, lambda evaluation: None)
    assert (record.state, record.score, record.evaluations) == ("failed", None, [])
    assert record.reason.startswith("ValueError: The hidden size (15)")


def test_half_a_line_of_a_killed_process_is_passed_over(tmp_path):
    write_json(tmp_path / "validation.json", {"score": 0.5, "metrics": {"ndcg@10": 0.5}})
    lines = [
        '{"epoch": 0, "current": 0.4}',
        '{"epoch": 1, "cur',
        "",
        '{"epoch": 1, "current": 0.5}',
    ]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines))
    seen: list = []
    job = running.Prepared(1, {}, tmp_path, tmp_path / "log", 1)
    record = running.execute(job, seen.append)
    assert record.evaluations == [[0, 0.4], [1, 0.5]]
    assert (record.state, record.score) == ("finished", 0.5)
    assert len(seen) == 2


def test_a_trial_that_validates_nothing_is_refused(tmp_path, cache):
    settings = {**SMALL, "model": "TIGER", "cache_dir": cache, "eval_step": 0}
    with pytest.raises(InputError, match="nothing was validated"):
        validated(tmp_path / "trial", settings)
