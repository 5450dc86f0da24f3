"""Runs of a comparison ranked again: as if the comparison had left histories out itself."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from recbole_sid.comparison.compare import compare
from recbole_sid.comparison.outcomes import load_outcomes
from tests.comparison.settings import OF_ALL, OF_TIGER, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import relist

MODELS = "TIGER,SASRec"
# Validated once, after the last epoch: which weights are kept does not hang on the lists.
FILE = {
    "all": OF_ALL,
    "models": {"TIGER": OF_TIGER, "SASRec": {"hidden_size": 16, "inner_size": 16, "n_layers": 1}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relist")
    write(folder, FILE)
    for name, exclude in (("repeats", False), ("without", True)):
        compared(folder, name, exclude_history=exclude)
    return folder


def compared(folder: Path, name: str, **changes) -> dict:
    settings = {"output": str(folder / name), "cache_dir": str(folder / "cache"), **changes}
    settings |= {"resamples": 200, "show_progress": False}
    file = folder / "settings.yaml"
    return compare(MODELS.split(","), "ml-100k", settings=file, config_dict=settings)


def put_into(folder: Path, name: str, monkeypatch) -> int:
    arguments = [str(folder / "repeats"), "--into", str(folder / name), "--models", MODELS]
    arguments += ["--settings", str(folder / "settings.yaml")]
    monkeypatch.setattr(sys, "argv", ["relist.py", *arguments])
    return relist.main()


def shown(report: dict) -> list:
    return [
        {key: cell for key, cell in model["cells"].items() if key.startswith(("valid/", "test/"))}
        for model in report["models"]
    ]


def test_ranked_again_they_are_what_a_comparison_without_repeats_trains(folder, monkeypatch):
    assert put_into(folder, "again", monkeypatch) == 0
    results = sorted((folder / "again" / "runs").glob("*/result.json"))
    assert all(json.loads(file.read_text())["ranked_again"] for file in results)
    before = {file: file.read_bytes() for file in results}
    assert len(before) == 2

    again = compared(folder, "again")

    assert {file: file.read_bytes() for file in results} == before, "something was trained"
    for name in ("TIGER-2020", "SASRec-2020"):
        files = [
            folder / of / "runs" / name / "outcomes.safetensors" for of in ("again", "without")
        ]
        found, wanted = map(load_outcomes, files)
        assert (found.lists == wanted.lists).all()
        assert (found.ranks == wanted.ranks).all()
    trained, repeating = (
        json.loads((folder / name / "comparison.json").read_text())
        for name in ("without", "repeats")
    )
    assert shown(again) == shown(trained) != shown(repeating)
    assert again["significance"] == trained["significance"]


def test_what_is_not_ranked_is_told(folder, monkeypatch, capsys):
    shutil.copytree(folder / "without" / "runs" / "TIGER-2020", folder / "some/runs/TIGER-2020")
    monkeypatch.setattr(sys.modules[__name__], "MODELS", "TIGER,Pop")
    assert put_into(folder, "some", monkeypatch) == 0
    told = capsys.readouterr().out.splitlines()
    assert "TIGER-2020 is there already" in told
    assert f"Pop-2020 has no finished run in {folder / 'repeats' / 'runs'}" in told


def test_runs_of_other_settings_are_refused(folder, monkeypatch):
    write(folder, {**FILE, "all": {**OF_ALL, "learning_rate": 0.5}})
    with pytest.raises(SystemExit, match=r"other settings: learning_rate: 0\.0015, now 0\.5$"):
        put_into(folder, "other", monkeypatch)
    assert not (folder / "other").exists()
