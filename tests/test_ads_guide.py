"""Every command and Python block of docs/ads.md is tried, after the README's example of ads."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from recbole_sid import cli
from tests.test_example_ads import COMMANDS, ROOT, SMALL

GUIDE = (ROOT / "docs" / "ads.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    return [
        shlex.split(line)
        for language, text in BLOCKS
        if language == "bash"
        for line in text.splitlines()
    ]


def test_the_guide_goes_on_from_the_example(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RECBOLE_SID_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    prepares, runs, _ = (shlex.split(command)[2:] for command in COMMANDS)
    assert cli.main(prepares) == 0
    assert cli.main([*runs, *SMALL]) == 0
    (new_items,) = (text for language, text in BLOCKS if language == "text")
    Path("new.item").write_text(new_items)

    given = commands()
    names = [words[2] for words in given if words[1] == "run_recbole_sid.py"]
    assert names == ["append", "export", "make-ads", "prepare"]
    assert [words[1] for words in given if "run_recbole_sid.py" not in words] == [
        "examples/serve.py"  # tests/serving starts it
    ]
    for words in given:
        if words[1] != "run_recbole_sid.py":
            continue
        small = {"--items=60000": "--items=300", "--users=20000": "--users=60"}
        small |= {"--events=1000000": "--events=4000"}
        assert cli.main([small.get(word, word) for word in words[2:]]) == 0
    assert len(json.loads(Path("exports/tomorrow/append_report.json").read_text())) > 3
    assert (tmp_path / "data" / "synthetic-ads" / "synthetic-ads.inter").is_file()

    (python,) = (text for language, text in BLOCKS if language == "python")
    capsys.readouterr()
    exec(compile(python, "docs/ads.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\[('ad\d+'(, )?){5}\] \[\]\n", printed), printed


@pytest.mark.parametrize("key", re.findall(r"--(\w+)=", GUIDE))
def test_its_settings_exist(key: str) -> None:
    known = "".join(path.read_text() for path in (ROOT / "properties").glob("*.yaml"))
    commands_use = {word for words in commands() for word in words}
    assert re.search(rf"^{key}:", known, re.MULTILINE) or any(
        word.startswith(f"--{key}=") for word in commands_use
    )
