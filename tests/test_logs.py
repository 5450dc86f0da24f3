import logging

import pytest

from recbole_sid.errors import InputError
from recbole_sid.logs import logging_run

ours = logging.getLogger("recbole_sid")
logger = logging.getLogger()  # RecBole's trainers and datasets log here


def shown(capsys) -> list[str]:
    """The lines on the terminal without their times."""
    return [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_lines_wait_for_the_folder_and_pass_at_once_afterwards(tmp_path, capsys):
    file = tmp_path / "run.log"
    with logging_run() as log:
        logger.info("one")
        assert shown(capsys) == []
        log.write_to(file)
        assert shown(capsys) == ["one"]
        logger.info("\x1b[1;31mtwo\x1b[0m")
        assert shown(capsys) == ["\x1b[1;31mtwo\x1b[0m"]
    assert [line.split(" ", 2)[2] for line in file.read_text().splitlines()] == [
        "INFO one",
        "INFO two",
    ]


def test_our_own_lines_do_not_wait(tmp_path, capsys):
    with logging_run() as log:
        ours.info("level 1")
        assert shown(capsys) == ["level 1"]
        log.write_to(tmp_path / "run.log")
        assert shown(capsys) == []
    assert (tmp_path / "run.log").read_text().endswith("INFO level 1\n")


def failing(error: BaseException) -> None:
    with logging_run():
        logger.info("one")
        raise error


def test_bad_input_leaves_the_terminal_to_its_own_line(capsys):
    with pytest.raises(InputError):
        failing(InputError("bad"))
    assert shown(capsys) == []


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_other_ends_show_what_came_before(error, capsys):
    with pytest.raises(type(error)):
        failing(error)
    assert shown(capsys) == ["one"]


def test_the_root_logger_is_as_before():
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    with pytest.raises(RuntimeError):
        failing(RuntimeError())
    assert (root.level, root.handlers) == before
