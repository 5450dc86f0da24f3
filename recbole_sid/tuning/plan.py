"""What a search runs: settings, space and folder, all checked before the first trial."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from recbole_sid import run_folder
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.files import CannotWrite, remove_leftovers
from recbole_sid.parsing import read_yaml
from recbole_sid.quick_start import checked_config
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build, keys, require
from recbole_sid.tuning.space import Space, read_space

SEARCH = "search.json"
TRIALS = "trials"
# The files that a search writes to its folder, as patterns.
_WRITTEN = (SEARCH, "trials.*", "best.yaml", "result.json", "timing.json")
# Trials that differ in these would not be measured alike, or would not differ at all.
_FIXED = (
    *("model", "dataset", "data_path", "load_col", "benchmark_filename", "seed", "reproducibility"),
    *("metrics", "topk", "valid_metric", "eval_args", "metric_decimal_place", "exclude_history"),
    *("user_inter_num_interval", "item_inter_num_interval", "val_interval", "repeatable"),
    *("output", "resume", "overwrite", "cache_dir", "show_progress", "gpu_id", "worker"),
)


@dataclass(frozen=True)
class TuningSettings:
    """Settings of the search itself; defaults and meanings in ``properties/tune.yaml``."""

    engine: Literal["recbole", "ray"]
    algo: Literal["exhaustive", "random", "bayes"]
    max_trials: int
    bayes_random_trials: int
    parallel: int
    asha_grace: int
    asha_reduction: int

    def __post_init__(self) -> None:
        for key, least in (
            *(("max_trials", 1), ("bayes_random_trials", 1), ("parallel", 1)),
            *(("asha_grace", 1), ("asha_reduction", 2)),
        ):
            value = getattr(self, key)
            require(value >= least, key, value, f"at least {least}")
        alone = self.parallel == 1
        free = alone or self.engine == "ray"
        require(free, "parallel", self.parallel, "1 with engine recbole", "Take --engine ray.")
        # What bayes proposes would hang on which of several trials ends first.
        free = alone or self.algo != "bayes"
        require(free, "parallel", self.parallel, "1 with algo bayes", "Take --algo random.")


@dataclass(frozen=True)
class Plan:
    """A search.

    ``files``, ``given``: the settings of every trial but those that are searched.
    ``metric``: what validation goes by, such as ``ndcg@10``; ``bigger`` is better, or smaller.
    ``total``: how many trials there will be.
    """

    folder: Path
    settings: TuningSettings
    space: Space
    files: tuple[Path, ...]
    given: dict[str, Any]
    base: Config
    metric: str
    bigger: bool
    total: int
    show: bool

    def config(self, tuned: Mapping[str, Any], **more: Any) -> Config:
        """The settings of a trial; InputError when they do not go together."""
        return _config(self.files, {**self.given, **tuned, **more})

    @property
    def seed(self) -> int:
        """Of the run, and of the proposals."""
        return int(self.base["seed"])

    def identity(self) -> dict[str, Any]:
        """What must be the same for a search to go on; more trials may be asked for."""
        search = asdict(self.settings)
        del search["max_trials"]
        return {
            "settings": self.base.settings_hash(),
            "inputs": run_folder.inputs_hash(self.base),
            "search": search,
            "space": self.space.plain(),
        }


def make_plan(
    model: str | None,
    dataset: str | None,
    space: str | Path | None,
    config_file_list: Sequence[str | Path],
    given: Mapping[str, Any],
) -> Plan:
    """Read all settings, and check every value of the space by the Config that it makes.

    Order of precedence, highest first: the space, ``given`` (the command line), the config files,
    ``properties/tune.yaml``.

    Raises:
        InputError: names the setting, or the key and value of the space, that is bad.
    """
    defaults = resource_dir("properties") / "tune.yaml"
    named = {"model": model, "dataset": dataset}
    given = {**given, **{key: value for key, value in named.items() if value is not None}}
    layers = [read_yaml(defaults), *(read_yaml(name) for name in config_file_list), given]
    own = build(TuningSettings, {k: v for layer in layers for k, v in layer.items()})
    if "resume" in given:
        raise InputError("tune goes on with an unfinished search by itself: leave --resume out")
    show, output = given.pop("show_progress", True), given.pop("output", None)
    given.pop("overwrite", None)
    files = (defaults, *map(Path, config_file_list))
    base = _config(files, given)
    if base["eval_step"] < 1:
        raise InputError("setting 'eval_step' is 0, but tuning goes by validation: give 1 or more")
    searched = read_space(_space_file(space, base["model"]))
    _check(searched, files, given)
    total = own.max_trials
    if own.algo == "exhaustive":
        total = len(searched.grid())
        if total > own.max_trials:
            raise InputError(
                f"the space has {total:,} combinations, more than max_trials, {own.max_trials}: "
                f"give --max_trials {total}, a smaller space, or --algo random"
            )
    plan = Plan(
        folder=Path(),
        settings=own,
        space=searched,
        files=files,
        given=given,
        base=base,
        metric=str(base["valid_metric"]).lower(),
        bigger=bool(base["valid_metric_bigger"]),
        total=total,
        show=show,
    )
    identity = plan.identity()
    del identity["inputs"]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    default = Path("tunings") / f"{base['dataset']}-{base['model']}-{name}"
    return replace(plan, folder=Path(output) if output else default)


def open_folder(plan: Plan, overwrite: bool) -> None:
    """Make the folder, or see that what it holds is this very search.

    Raises:
        InputError: it holds something else, or a search of other settings or on other data.
    """
    folder, file = plan.folder, plan.folder / SEARCH
    identity = json.loads(json.dumps(plan.identity()))
    try:
        # What a search leaves that was killed while it wrote.
        remove_leftovers(folder, _WRITTEN)
        remove_leftovers(folder / TRIALS, ["*.json"])
        held = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        if held - {run_folder.LOCK} and not file.is_file():
            raise InputError(f"'{folder}' is not the folder of a search: name another --output")
        if overwrite and file.is_file():
            shutil.rmtree(folder / TRIALS, ignore_errors=True)
            file.unlink()
        if file.is_file():
            stored = run_folder.read_json(file, "start anew with --overwrite")
            other = [key for key in identity if stored.get(key) != identity[key]]
            if other:
                raise InputError(
                    f"'{folder}' holds another search, which differs in: {', '.join(other)} "
                    "(inputs: the data or the code). Name another --output, or --overwrite"
                )
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(file, identity)
        for name in (TRIALS, "logs"):
            (folder / name).mkdir(exist_ok=True)
    except CannotWrite:
        raise
    except OSError as error:
        raise InputError(
            f"the folder '{folder}' cannot be used: {error}. Name another --output"
        ) from error


def _config(files: Sequence[Path], given: Mapping[str, Any]) -> Config:
    """The Config without the settings of the search."""
    values: dict[str, Any] = {}
    for file in files:
        values.update(read_yaml(file))
    values = {k: v for k, v in values.items() if k not in keys(TuningSettings)}
    rest = {k: v for k, v in given.items() if k not in keys(TuningSettings)}
    return checked_config(config_dict={**values, **rest})


def _space_file(space: str | Path | None, model: str) -> Path:
    if space is not None:
        return Path(space)
    shipped = resource_dir("properties") / "hyper"
    file = shipped / f"{model}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
        raise InputError(
            f"no space is shipped for model '{model}', only for {names}: write one and name it "
            "with --space"
        )
    return file


def _check(space: Space, files: Sequence[Path], given: Mapping[str, Any]) -> None:
    for one in space.dimensions:
        if one.key in _FIXED:
            raise InputError(
                f"space, '{one.key}': trials would not be comparable, or not differ: leave it out"
            )
        if one.key in given:
            raise InputError(
                f"'{one.key}' is given and stands in the space: leave --{one.key} out, or name a "
                "space without it with --space"
            )
        # A value may need a value of another setting of the space.
        others = [{two.key: end} for two in space.dimensions for end in two.ends if two != one]
        for value in one.ends:
            refused = [_refusal(files, {**given, one.key: value})]
            while refused[-1] and len(refused) <= len(others):
                with_other = {**given, one.key: value, **others[len(refused) - 1]}
                refused.append(_refusal(files, with_other))
            if refused[-1]:
                raise InputError(f"space, '{one.key}' with {value!r}: {refused[0]}")


def _refusal(files: Sequence[Path], given: Mapping[str, Any]) -> str:
    """Why the settings are refused, or nothing."""
    try:
        _config(files, given)
    except InputError as error:
        return str(error)
    return ""
