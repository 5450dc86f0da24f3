"""What a comparison runs: labels, seeds, and the settings of every run, all checked beforehand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.utils import ModelType

from recbole_sid.comparison.grid import Pair, make_pairs, refuse_kinds
from recbole_sid.comparison.outcomes import METRICS
from recbole_sid.comparison.settings_file import read_settings_file
from recbole_sid.comparison.splits import check_protocol
from recbole_sid.comparison.tuned import KEY as TUNED
from recbole_sid.comparison.tuned import with_tuned
from recbole_sid.config import Config
from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import parse_value, read_yaml
from recbole_sid.quick_start import checked_config
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build, keys, require

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MOST_SEEDS = 100


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of the comparison itself; defaults and meanings in ``properties/compare.yaml``."""

    seeds: Any
    reference: str | None
    resamples: int
    cold_below: int
    scores_at_once: int
    overwrite_models: Any

    def __post_init__(self) -> None:
        require(self.resamples >= 100, "resamples", self.resamples, "at least 100")
        require(self.cold_below >= 1, "cold_below", self.cold_below, "at least 1")
        require(self.scores_at_once >= 1, "scores_at_once", self.scores_at_once, "at least 1")
        value = self.overwrite_models
        good = isinstance(value, (str, list, tuple)) and all(isinstance(v, str) for v in value)
        require(value is None or good, "overwrite_models", value, "labels of models: A,B")

    @property
    def anew(self) -> list[str]:
        """The labels in ``overwrite_models``."""
        value = self.overwrite_models or []
        parts = value.split(",") if isinstance(value, str) else value
        return [part.strip() for part in parts]


@dataclass(frozen=True)
class Model:
    """A row of the table: its label, its settings without the seed, and its seeds.

    ``trials``: how many trials of tuning found the settings, as the user says; None if not said.
    ``pair``: of a row of the grid, what it is made of. A pair that is refused has no runs.
    """

    label: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    trials: int | None
    pair: Pair | None = None

    @property
    def refused(self) -> str:
        """Why it cannot be run; empty if it can."""
        return "" if self.pair is None else self.pair.refused


@dataclass(frozen=True)
class Run:
    """One run of one model: its settings, where it lies, and the Config that they make."""

    label: str
    seed: int
    settings: dict[str, Any]
    folder: Path
    config: Config

    @property
    def name(self) -> str:
        return f"{self.label}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All that is to be run and compared; runs go seed by seed, so that a table grows evenly.

    ``tested``: metrics with their k whose significance is tested; validation goes by the first one.
    """

    folder: Path
    dataset: str
    settings: ComparisonSettings
    models: tuple[Model, ...]
    runs: tuple[Run, ...]
    tested: tuple[tuple[str, int], ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The grid, tokenizer by tokenizer; empty without one."""
        return tuple(model.pair for model in self.models if model.pair is not None)


def make_plan(
    models: Sequence[str] | None,
    settings_file: str | Path | None,
    config_file_list: Sequence[str | Path],
    given: Mapping[str, Any],
    tokenizers: Sequence[str] | None = None,
    generators: Sequence[str] | None = None,
) -> Plan:
    """Read all settings and build the Config of every run.

    Order of precedence, highest first: ``given`` (the command line), the settings of the model in
    the settings file (of a pair: of its label, its generator, its tokenizer; in each, what it says
    itself before what its ``tuned`` found), its ``all``, the config files,
    ``properties/compare.yaml``.

    Raises:
        InputError: names the model whose settings are bad; or no pair of the grid can be run.
    """
    file = read_settings_file(settings_file, keys(ComparisonSettings))
    pairs = make_pairs(tokenizers, generators)
    defaults = read_yaml(resource_dir("properties") / "compare.yaml")
    layers = [*map(read_yaml, config_file_list), file["all"], dict(given)]
    shared = {key: value for layer in layers for key, value in layer.items()}
    if shared.get("split_times") is not None:
        # It stands in the place of a split: only one that the user gives besides is refused.
        defaults["eval_args"]["split"] = None
    shared = defaults | shared
    if "model" in shared:
        raise InputError("'model' is given for all runs: name the models with --models")
    if "resume" in shared:
        raise InputError("compare goes on with unfinished runs by itself: leave --resume out")
    if TUNED in shared:
        raise InputError(
            f"'{TUNED}' is given for all runs, but it is what a search found for one model: it "
            "stands inside one of 'models:' or 'generators:' in the settings file"
        )
    own = build(ComparisonSettings, shared)
    shared = {key: value for key, value in shared.items() if key not in keys(ComparisonSettings)}
    if pairs:
        refuse_kinds(shared, "for all runs")
    if models is None:
        models = [] if pairs else list(file["models"])
    labels = _labels([*models, *(pair.label for pair in pairs)])
    refused = {pair.label: pair.refused for pair in pairs if pair.refused}
    to_run = [label for label in labels if label not in refused]
    if not to_run:
        raise InputError(f"no pair of the grid can be run: {'; '.join(refused.values())}")
    if own.reference is not None and own.reference not in to_run:
        raise InputError(
            f"setting 'reference' is '{own.reference}', which is not among the models "
            f"{', '.join(to_run)}.{did_you_mean(own.reference, to_run)}"
        )
    for label in own.anew:
        if label not in to_run:
            raise InputError(
                f"setting 'overwrite_models' has '{label}', which is not among the models "
                f"{', '.join(to_run)}.{did_you_mean(label, to_run)}"
            )
    if own.anew and shared.get("overwrite"):
        raise InputError(
            "--overwrite runs all models anew, --overwrite_models those that it names: give one of "
            "them"
        )
    dataset = shared.get("dataset")
    if dataset is None:
        raise InputError("no dataset is given: name one with --dataset, for example ml-100k")
    output = shared.pop("output", None)
    folder = Path(output or Path("comparisons") / f"{dataset}-{_short_hash(shared)}")
    rows = [_model(name, [file["models"].get(name, {})], shared, given, own) for name in models]
    rows += [_model(p.label, p.parts_of(file), shared, given, own, p) for p in pairs]
    most = max(len(row.seeds) for row in rows)
    runs = [
        make_run(folder, row, row.seeds[n], {})
        for n in range(most)
        for row in rows
        if n < len(row.seeds) and not row.refused
    ]
    tested = _tested_metrics(runs)
    return Plan(folder, str(dataset), own, tuple(rows), tuple(runs), tested)


def make_run(folder: Path, model: Model, seed: int, changes: Mapping[str, Any]) -> Run:
    """A run of ``model`` with ``seed``; ``changes`` stand below its own settings."""
    # Its settings go to it as a yaml file, whose texts are not parsed.
    given = {k: parse_value(v) if isinstance(v, str) else v for k, v in model.settings.items()}
    settings = {**changes, **given, "seed": seed, "show_progress": False}
    where = folder / "runs" / f"{model.label}-{seed}"
    try:
        config = checked_config(config_dict={**settings, "output": str(where)})
    except InputError as error:
        raise InputError(f"model {model.label}: {error}") from error
    check_protocol(model.label, config)
    return Run(model.label, seed, settings, where, config)


def with_batches(plan: Plan, n_items: int) -> Plan:
    """The plan with an evaluation batch for RecBole's models, unless the user gave one.

    RecBole counts users in the batch of a sequential model, and scores in that of another one
    (recbole/data/dataloader/general_dataloader.py:247).
    """
    n_users = max(1, plan.settings.scores_at_once // (n_items + 1))
    models = {model.label: model for model in plan.models}
    runs = []
    for run in plan.runs:
        if run.config.model_spec is None and "eval_batch_size" not in run.settings:
            sequential = run.config["MODEL_TYPE"] is ModelType.SEQUENTIAL
            size = n_users if sequential else n_users * (n_items + 1)
            changes = {"eval_batch_size": size}
            run = make_run(plan.folder, models[run.label], run.seed, changes)
        runs.append(run)
    return Plan(**{**vars(plan), "runs": tuple(runs)})


def seeds_of(value: Any, first: int) -> tuple[int, ...]:
    """A number of seeds from ``first`` on, or the seeds themselves: ``3``, ``[7, 8]``, ``7,8``."""
    if isinstance(value, str) and "," in value:
        value = [parse_value(part.strip()) for part in value.split(",") if part.strip()]
    if type(value) is int and 1 <= value <= _MOST_SEEDS:
        return tuple(range(first, first + value))
    good = isinstance(value, (list, tuple)) and value and all(type(seed) is int for seed in value)
    require(
        bool(good and len(set(value)) == len(value)),
        "seeds",
        value,
        f"how many (1 to {_MOST_SEEDS}), or a list of different seeds",
        "A single one is written [2020].",
    )
    return tuple(value)


def _labels(labels: list[str]) -> list[str]:
    if not labels:
        raise InputError("no models are given: name them with --models, for example TIGER,SASRec")
    for label in labels:
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise InputError(
                f"model {label!r} is no label: letters, digits, dots, dashes and underscores, "
                "models separated by commas"
            )
    if len({label.lower() for label in labels}) != len(labels):
        raise InputError(
            f"a model is named twice in {', '.join(labels)}: give the second one a label of its "
            "own in the settings file, LABEL: {model: NAME, …}"
        )
    return labels


def _model(
    label: str,
    parts: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Any],
    given: Mapping[str, Any],
    own: ComparisonSettings,
    pair: Pair | None = None,
) -> Model:
    """A row, from the parts of the settings file that are about it; the last goes before all."""
    where = f"model {label}"
    written = {key: value for part in parts for key, value in part.items()}
    model = written.get("model", label if pair is None else pair.model)
    if TUNED in written and "trials" in {**written, **given}:
        raise InputError(
            f"{where}: 'trials' and '{TUNED}' are both given, but the search says how many trials "
            "it had: leave 'trials' out"
        )
    of_file: dict[str, Any] = {}
    for part in parts:
        of_file |= with_tuned(part, model, shared, where)
    if pair is not None:
        refuse_kinds(of_file, where)
    values = {**shared, **of_file, **given, "model": model}
    values = {k: v for k, v in values.items() if k not in (*keys(ComparisonSettings), "output")}
    if label in own.anew:
        values["overwrite"] = True
    trials = values.pop("trials", None)
    if trials is not None and (type(trials) is not int or trials < 0):
        raise InputError(f"{where}: 'trials' is {trials!r}, but must be 0 or more")
    first = values.pop("seed", 2020)
    if type(first) is not int:
        raise InputError(f"{where}: 'seed' is {first!r}, but must be a whole number")
    wanted = of_file.get("seeds", own.seeds)
    if pair is not None:
        values = pair.checked(values)
    return Model(label, values, seeds_of(wanted, first), trials, pair)


def _short_hash(shared: Mapping[str, Any]) -> str:
    """Of what all runs share, but for where things lie: more models and seeds go to one folder."""
    left_out = ("overwrite", "resume", "data_path", "cache_dir", "show_progress")
    kept = {key: value for key, value in shared.items() if key not in left_out}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _tested_metrics(runs: Sequence[Run]) -> tuple[tuple[str, int], ...]:
    """The metric that validation goes by, and at the longest list Recall, or NDCG beside Recall."""
    names = {str(run.config["valid_metric"]).lower() for run in runs}
    lengths = {tuple(run.config["topk"]) for run in runs}
    measured = {tuple(name.lower() for name in run.config["metrics"]) for run in runs}
    again = {run.config["exclude_history"] for run in runs}
    if any(len(found) > 1 for found in (names, lengths, measured, again)):
        raise InputError(
            "metrics, topk, valid_metric and exclude_history must be the same for all models: "
            "leave them out of the settings of a single one"
        )
    metric, _, k = names.pop().partition("@")
    require(metric in METRICS, "valid_metric", metric, "one of Recall, NDCG, MRR, Hit, with @k")
    # Where one item is right, a hit is a recall.
    other = "ndcg" if metric in ("recall", "hit") else "recall"
    further = [(other, max(lengths.pop()))] if other in measured.pop() else []
    return ((metric, int(k)), *further)
