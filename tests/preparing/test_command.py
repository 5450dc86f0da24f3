"""The command: what it prints, and one line for bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recbole_sid import cli
from tests.preparing.feeds import INTER, lines_of, write_feed


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the feed, the log and ads.yaml, which is the working folder."""
    (tmp_path / "ads.yaml").write_text(yaml.safe_dump(write_feed(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_a_data_set(feed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (feed / "events.csv").open("a") as file:
        file.write("u1,a1,click,-1\n")
    command = ["prepare", "--mapping=ads.yaml", "--output", "out"]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "users: 2", "items with interactions: 2", "interactions: 4", "folder: out/ads"
    ]  # fmt: skip
    assert "'events.csv', line 7: negative time" in shown.err
    assert lines_of(feed, ".inter") == INTER
    assert cli.main(command) == 2
    assert cli.main([*command, "--overwrite", "--memory_limit=200MB"]) == 0
    assert cli.main([*command, "--name", "2024"]) == 0
    assert lines_of(feed, ".inter", "2024") == INTER
    capsys.readouterr()
    assert cli.main([*command, "--name=other", "--strict"]) == 2
    (*_, line) = capsys.readouterr().err.splitlines()
    assert line == ("error: --strict: 'events.csv', line 7: negative time: u1 | a1 | click | -1")
    assert not (feed / "out" / "other").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prepare --mapping=ads.yaml", "prepare needs --output"),
        ("prepare --output=out", "prepare needs --mapping FILE or --preset"),
        ("prepare --output=out --maping=ads.yaml", "unknown argument --maping of prepare. Did"),
        ("prepare --output=out --mapping", "argument 'mapping' needs a value"),
        ("prepare --output=out --mapping=ads.yaml --strict=3", "--strict is 3, but must be true"),
        ("prepare --output=ads.yaml --mapping=ads.yaml", "'ads.yaml' is a file, but --output"),
        ("prepare --output=5 --mapping=ads.yaml", "--output is 5, not a name"),
    ],
)
def test_bad_use_is_one_line(
    words: str, message: str, feed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (feed / "out").exists()


def test_it_needs_neither_torch_nor_recbole(feed: Path) -> None:
    code = (
        "import sys; from recbole_sid.preparing import prepare; prepare('out', 'ads.yaml'); "
        "print(sorted({'torch', 'recbole', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
