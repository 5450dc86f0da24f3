"""The command line: ``python run_recbole_sid.py [command] --key=value …``."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from recbole_sid.commands.data import (
    make_ads_command,
    prepare_command,
    report_command,
    sids_command,
    summarize_command,
)
from recbole_sid.commands.models import (
    compare_command,
    evaluate_command,
    run_command,
    tokenize_command,
    tune_command,
)
from recbole_sid.commands.usage import usage
from recbole_sid.commands.use import (
    append_command,
    export_command,
    recommend_command,
    vectors_command,
)
from recbole_sid.errors import InputError, did_you_mean

# What a file system refuses, whoever wrote: no room, a quota, read-only, no permission.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

# What the memory of a command grows with, where the stages of a run do not say it.
_GROWS_WITH = {
    "recommend": ("batch_size", "beam_size"),
    "evaluate": ("eval_batch_size", "beam_size"),
    "append": ("text_encoder_batch_size of the run",),
    "summarize": ("summary_batch_size",),
    "prepare": ("memory_limit",),
    "make-ads": ("items", "events"),
    "report": ("the number of folders", "image_bytes"),
}

COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "run": run_command,
    "recommend": recommend_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "append": append_command,
    "vectors": vectors_command,
    "tokenize": tokenize_command,
    "sids": sids_command,
    "summarize": summarize_command,
    "prepare": prepare_command,
    "make-ads": make_ads_command,
    "compare": compare_command,
    "tune": tune_command,
    "report": report_command,
}

# Commands that torchrun may start.
_IN_SEVERAL = ("run", "evaluate", "tokenize", "append")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it succeeds, 1 when runs of a comparison failed, 2 with one line on standard error
        for bad input, too little memory, a full disk or a folder that may not be written.
    """
    rest = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in rest or "-h" in rest:
        print(usage(rest[0] if rest[0] in COMMANDS else None))
        return 0
    # RecBole 1.2.1 meets these on every run with the pandas and setuptools that it needs.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    name = rest.pop(0) if rest and not rest[0].startswith("-") else "run"
    try:
        if name not in COMMANDS:
            raise InputError(
                f"unknown command '{name}'. Known: {', '.join(COMMANDS)}."
                + did_you_mean(name, COMMANDS)
            )
        if os.environ.get("WORLD_SIZE", "1") != "1":
            return _in_several_processes(name, rest)
        return COMMANDS[name](rest) or 0
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from recbole_sid.out_of_memory import is_out_of_memory, told

        if not is_out_of_memory(error):
            raise
        print("error:", told(name, _GROWS_WITH.get(name, ()), error), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        print(f"error: {error}; make room or give another folder, and run again", file=sys.stderr)
        return 2


def _in_several_processes(name: str, rest: Sequence[str]) -> int:
    """A command as torchrun has started it: the first process prints, and tells of errors."""
    from recbole_sid import distributed

    try:
        with distributed.joined() as world:
            if not world.alone and name not in _IN_SEVERAL:
                raise InputError(
                    f"{name} runs in one process: start it without torchrun. In several run "
                    f"{', '.join(_IN_SEVERAL)}"
                )
            return COMMANDS[name](rest) or 0
    except distributed.Stopped:
        return 2
