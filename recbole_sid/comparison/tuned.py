"""What a search by ``tune`` found, as settings of a model in a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_sid import run_folder
from recbole_sid.errors import InputError
from recbole_sid.parsing import read_yaml
from recbole_sid.splitting import parse_times

KEY = "tuned"
BEST = "best.yaml"


def with_tuned(
    part: Mapping[str, Any], model: Any, task: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """A part of a settings file, on top of what the search that it names has found.

    Args:
        part: settings; ``tuned`` among them is the folder of a finished search.
        model: whose settings they are.
        task: the settings of all runs, for the data set and its split.
        where: how errors call the part.

    Returns:
        The settings without ``tuned``, below them the best ones of the search; ``trials`` is how
        many it had. A part that names no search comes back as it is.

    Raises:
        InputError: there is no finished search, or it was one of another model, or on another data
            set or split: there its validation may have seen what is tested here.
    """
    if KEY not in part:
        return dict(part)
    folder = Path(part[KEY])
    result = _result(folder, where)
    for what, found, wanted in (
        ("model", result["model"], model),
        ("data set", result["dataset"], task["dataset"]),
        ("split", *map(_split, (read_yaml(folder / BEST), task))),
    ):
        if found != wanted:
            raise InputError(
                f"{where}: 'tuned' leads to '{folder}', a search on another {what}, {found!r}, but "
                f"here it is {wanted!r}. Tune on what is compared, with the same --eval_args, or "
                "write the values and 'trials' by hand"
            )
    rest = {key: value for key, value in part.items() if key != KEY}
    return {**result["best_params"], "trials": len(result["trials"]), **rest}


def _result(folder: Path, where: str) -> dict[str, Any]:
    file = folder / run_folder.RESULT
    if not file.is_file():
        raise InputError(
            f"{where}: 'tuned' leads to '{folder}', where no search has ended: there is no "
            f"{file.name}. Let tune come to its end there, with --output={folder}"
        )
    result = run_folder.read_json(file, "tune anew, with --overwrite")
    if not {"model", "dataset", "best_params", "trials"} <= set(result):
        raise InputError(
            f"{where}: 'tuned' leads to '{folder}', whose {file.name} is not of a search: name "
            "a folder of tune"
        )
    return result


def _split(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What validates and what tests, one spelling for equal ones."""
    arguments = settings.get("eval_args") or {}
    times = parse_times(settings.get("split_times"))
    split = arguments.get("split") if times is None else times
    return {
        "split": split,
        "order": arguments.get("order"),
        "withheld_items": settings.get("withheld_items") or 0,
    }
