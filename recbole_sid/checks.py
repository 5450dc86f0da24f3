"""Bad input, found in the first second: keys, metrics, data files, columns. Nothing is written."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import recbole
from recbole.evaluator.register import metric_information, metric_types, metrics_dict
from recbole.utils import (
    EvaluatorType,
    ModelType,
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.items.encoder import EncoderSettings
from recbole_sid.items.pairs import PairSettings
from recbole_sid.items.prompt import Prompt, PromptSettings
from recbole_sid.items.source import needed_columns, settings_of
from recbole_sid.items.table import ItemFields
from recbole_sid.items.vectors import VectorSettings
from recbole_sid.limits import LONGEST_LINE
from recbole_sid.model.behaviour import BehaviourSettings
from recbole_sid.parsing import read_yaml
from recbole_sid.registry import ComponentSpec, components
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build, require
from recbole_sid.sid.table import CAPACITY_RULES
from recbole_sid.tokenizer.sid_file import SIDFile

Settings = Mapping[str, Any]
logger = logging.getLogger("recbole_sid")

_MOST_SHOWN = 50  # columns in a message

# Settings that RecBole reads although none of its yaml files has them.
RECBOLE_KEYS = frozenset(
    [
        "model",
        "dataset",
        "config_files",
        "config_file",
        "nproc",
        "world_size",
        "ip",
        "port",
        "local_rank",
        "offset",
        "verbose",
        "numerical_features",
        "reg_weight",
        "encoding",
        "tail_ratio",
    ]
)


@dataclass(frozen=True)
class Numbers:
    """Numbers among RecBole's settings, which RecBole itself does not check."""

    seed: int
    epochs: int
    train_batch_size: int
    eval_batch_size: int
    eval_step: int
    stopping_step: int
    learning_rate: float
    weight_decay: float
    MAX_ITEM_LIST_LENGTH: int

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        for key in ("epochs", "eval_step", "stopping_step", "weight_decay"):
            value = vars(self)[key]
            require(value >= 0, key, value, "0 or more")
        for key in ("train_batch_size", "eval_batch_size", "MAX_ITEM_LIST_LENGTH"):
            value = vars(self)[key]
            require(value >= 1, key, value, "1 or more")


def check_keys(given: Iterable[str], known: Iterable[str], used: Iterable[ComponentSpec]) -> None:
    """Refuse settings that nothing reads.

    Args:
        given: keys of the user's files, dictionary and command line.
        known: keys that have a default, and RecBole's own.
        used: the tokenizer of this run, and its generator or the model that has none.

    Raises:
        InputError: a key belongs to another component, or to nothing; the nearest key is named.
    """
    in_use = {spec.kind: spec for spec in used}
    own = {key for spec in in_use.values() for key in spec.keys}
    known = {*known, *own, *RECBOLE_KEYS}
    for key in given:
        if key not in own and (owners := owners_of(key)):
            kind = owners[0].kind
            names = " or ".join(f"'{spec.name}'" for spec in owners if spec.kind == kind)
            problem, choice = "which is not run here", f", or choose --{kind}={owners[0].name}"
            if kind in in_use:
                problem = f"not to '{in_use[kind].name}'"
            elif kind == "generator":
                problem, choice = f"and '{in_use['model'].name}' has none", ""
            raise InputError(
                f"setting '{key}' belongs to {kind} {names}, {problem}: remove it{choice}"
            )
        if key not in known:
            raise InputError(f"unknown setting '{key}'.{did_you_mean(key, known)}")


def check_stock_keys(given: Iterable[str], known: Iterable[str]) -> None:
    """Warn of settings that a run of one of RecBole's models does not read.

    The class of such a model may be the user's own and read settings that stand in no yaml file, so
    that an unknown one is no error.

    Args:
        given: keys of the user's files, dictionary and command line.
        known: keys that have a default for this model, and RecBole's own.

    Raises:
        InputError: a key belongs to a tokenizer or generator and to nothing of RecBole.
    """
    for key in sorted({*given}.difference(known, RECBOLE_KEYS)):
        if key in recbole_keys():
            continue
        if owners := owners_of(key):
            raise InputError(
                f"setting '{key}' belongs to {owners[0].kind} '{owners[0].name}', but the model is "
                "RecBole's and has none: remove it, or choose a model of recbole_sid"
            )
        if key not in our_keys():
            logger.warning(
                "unknown setting '%s': it is in no yaml file of RecBole or recbole_sid.%s",
                key,
                did_you_mean(key, {*known, *recbole_keys()}),
            )


def check_stock_code(model: str, given: Settings) -> None:
    """Refuse a text that one of RecBole's models would evaluate as Python.

    KD_DAGFM takes ``teacher`` for an expression (kd_dagfm.py:44), which is meant to name one of the
    networks in that file.
    """
    if model != "KD_DAGFM" or "teacher" not in given:
        return
    module = importlib.import_module("recbole.model.context_aware_recommender.kd_dagfm")
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and name != model
    ]
    teacher = given["teacher"]
    require(teacher in names, "teacher", teacher, "one of " + ", ".join(names))


def check_stock_files(model: str, values: Settings) -> None:
    """Refuse a file of the data set that one of RecBole's models would unpickle.

    LDiffRec reads ``item_emb.npy`` beside the interactions with ``allow_pickle``
    (ldiffrec.py:232), where an array of numbers needs none.
    """
    path = Path(values["data_path"]) / "item_emb.npy"
    if model != "LDiffRec" or not path.is_file():
        return
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{path}' is no array of numbers, or holds pickled objects, which could run code: "
            "write it with numpy.save from a float array"
        ) from error


@cache
def recbole_keys() -> frozenset[str]:
    """Every setting of RecBole: of its yaml files, of its argument lists, and those beside them."""
    files = (Path(recbole.__file__).parent / "properties").rglob("*.yaml")
    lists = (general_arguments, training_arguments, evaluation_arguments, dataset_arguments)
    return RECBOLE_KEYS.union(*map(read_yaml, files), *lists)


def our_keys() -> set[str]:
    """Every setting of our yaml files, and of all components that are registered."""
    files = [
        file
        for folder in ("properties", "dataset_configs")
        for file in resource_dir(folder).rglob("*.yaml")
    ]
    own = [spec.keys for spec in components()]
    return set().union(*map(read_yaml, files), *own)


def owners_of(key: str) -> list[ComponentSpec]:
    """The components, of all that are registered, that have a setting called ``key``."""
    return [spec for spec in components() if key in spec.keys]


def refused_pair(tokenizer: ComponentSpec, generator: ComponentSpec) -> str:
    """Why ``generator`` cannot read the codes of ``tokenizer``; empty if it can.

    A generator that writes codes in any order needs codes that mean something by themselves. Those
    of a file may be of either kind: they pass. So does the digit of ``collision: dedup``, although
    it means nothing without the codes before it.
    """
    cls = tokenizer.cls
    if not generator.cls.needs_parallel_codes or cls.parallel or issubclass(cls, SIDFile):
        return ""
    known = components()
    parallel = [spec.name for spec in known if spec.kind == "tokenizer" and spec.cls.parallel]
    ordered = [
        spec.name
        for spec in known
        if spec.kind == "generator" and not spec.cls.needs_parallel_codes
    ]
    return (
        f"the codes of tokenizer '{tokenizer.name}' are residual, each refines those before it, "
        f"but generator '{generator.name}' writes them in any order: choose tokenizer "
        f"{', '.join([*parallel, 'file'])}, or generator {', '.join(ordered)}"
    )


def check_pair(tokenizer: ComponentSpec, generator: ComponentSpec) -> None:
    """Refuse what :func:`refused_pair` gives a reason against."""
    if reason := refused_pair(tokenizer, generator):
        raise InputError(reason)
    if generator.cls.needs_parallel_codes and issubclass(tokenizer.cls, SIDFile):
        logger.warning(
            "generator '%s' writes the codes of an item in any order; whether those of the SID "
            "file mean something by themselves is not known",
            generator.name,
        )


def check_metrics(settings: Settings, ours: bool) -> None:
    """Metrics, list lengths and the early-stopping metric fit each other, and the model.

    Args:
        settings: the merged settings, before RecBole completes them.
        ours: whether the model generates its list, so that most items have no score.
    """
    columns = measured(settings, ours)
    _check_filters(settings, ours)
    shared = settings["collision"] == "none" or (
        settings["collision"] in CAPACITY_RULES and settings["collision_capacity"] != 1
    )
    if ours and shared:
        sampled = [mode for mode in _modes(settings) if str(mode).startswith(("uni", "pop"))]
        if sampled:
            raise InputError(
                f"setting 'eval_args: mode' is {sampled[0]!r}, but must be full with collision: "
                f"{settings['collision']}: items that share a SID have equal scores, and a sampled "
                "list would credit each of them with the whole hit. Use full evaluation, or "
                "collision: dedup"
            )
    valid = settings["valid_metric"]
    if not isinstance(valid, str) or valid.lower() not in columns:
        raise InputError(
            f"setting 'valid_metric' is {valid!r}, but must be one of the measured "
            f"{', '.join(columns)}: change valid_metric, metrics or topk"
        )
    if ours and "beam_size" in settings:
        longest = max(_listed(settings["topk"], int))
        check_beam_size(settings["beam_size"], longest, "max(topk)", "shorten topk")


def check_beam_size(beam_size: Any, longest: int, name: str, or_else: str) -> None:
    """The search is at least as wide as the longest list, which ``name`` gives."""
    require(type(beam_size) is int, "beam_size", beam_size, "a whole number")
    require(
        beam_size >= longest,
        "beam_size",
        beam_size,
        f"at least {name} = {longest}",
        f"Raise beam_size or {or_else}.",
    )


def measured(settings: Settings, ours: bool) -> list[str]:
    """The names of what is measured, such as ``recall@5``; arguments as in check_metrics."""
    metrics, topk = settings["metrics"], settings["topk"]
    metrics, topk = _listed(metrics, str), _listed(topk, int)
    require(isinstance(metrics, list) and bool(metrics), "metrics", metrics, "a list of names")
    require(
        isinstance(topk, list) and bool(topk) and all(type(k) is int and k > 0 for k in topk),
        "topk",
        topk,
        "a whole number above 0, or a list of them",
    )
    names = [cls.__name__ for cls in metrics_dict.values()]
    columns: list[str] = []
    for metric in metrics:
        name = str(metric).lower()
        if name not in metrics_dict:
            raise InputError(
                f"unknown metric {metric!r}.{did_you_mean(name, names)} Known: {', '.join(names)}"
            )
        cut_off = {"rec.topk", "rec.items"} & set(metric_information[name])
        columns += [f"{name}@{k}" for k in topk] if cut_off else [name]
        if ours and not cut_off and "full" in _modes(settings):
            raise InputError(
                f"metric {metric!r} needs the score or rank of every item, but a semantic-ID model "
                "generates only the best ones. Use Recall, NDCG, MRR, Hit …, or sampled "
                "evaluation: eval_args: {split: {LS: valid_and_test}, order: TO, mode: uni100}"
            )
    values = [name for name in metrics if metric_types[name.lower()] is EvaluatorType.VALUE]
    if values and len(values) < len(metrics):
        raise InputError(f"{preview(values)} cannot be measured together with ranking metrics")
    return columns


def _check_filters(settings: Settings, ours: bool) -> None:
    for key in ("exclude_history", "filter_unavailable"):
        on = settings.get(key, False)
        require(isinstance(on, bool), key, on, "true or false")
    for key, off, of_recbole in (
        (
            "exclude_history",
            "False",
            "its general models leave the history out always, its sequential ones cannot",
        ),
        ("filter_unavailable", "False", "it ranks all items"),
        ("allowed_items", "empty (~)", "it ranks all items"),
    ):
        value = settings.get(key)
        if value in (None, False):
            continue
        if not ours:
            raise InputError(
                f"setting '{key}' is {value!r}, but the model is RecBole's: {of_recbole}. Set it "
                f"to {off}, or choose a model of recbole_sid"
            )
        if any(mode != "full" for mode in _modes(settings)):
            raise InputError(
                f"setting '{key}' is {value!r}, but 'eval_args: mode' is {_modes(settings)}: "
                "RecBole itself draws the items of a sampled list. Use mode: full"
            )


def _listed(value: Any, kind: type) -> Any:
    """A single value of this kind as a list of one; anything else as it is."""
    return [value] if isinstance(value, kind) else value


def check_interactions(settings: Settings) -> None:
    """The interaction files are there, with the columns that the split needs, which are loaded.

    Args:
        settings: the final settings; ``data_path`` is the data set's own folder.
    """
    order = settings["eval_args"]["order"]
    sequential = settings["MODEL_TYPE"] is ModelType.SEQUENTIAL
    choices = ("TO",) if sequential else ("RO", "TO")
    require(order in choices, "eval_args: order", order, " or ".join(choices))
    folder, dataset = Path(settings["data_path"]), settings["dataset"]
    remedy = "Name the folder that holds it with --data_path"
    if not folder.is_dir():
        raise InputError(
            f"the data folder '{folder}' does not exist. {remedy}: "
            f"the folder above '{dataset}', which holds {dataset}.inter and {dataset}.item"
        )
    columns = [settings["USER_ID_FIELD"], settings["ITEM_ID_FIELD"]]
    files = [folder / f"{dataset}.inter"]
    benchmark = settings["benchmark_filename"]
    if benchmark is not None:
        require(
            isinstance(benchmark, list) and len(benchmark) == 3,
            "benchmark_filename",
            benchmark,
            "a list of three names: train, valid, test",
        )
        files = [folder / f"{dataset}.{part}.inter" for part in benchmark]
        if sequential:
            columns.append(settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"])
    elif order == "TO":
        columns.append(settings["TIME_FIELD"])
    for file in files:
        check_columns(file, columns, settings["field_separator"])
    chosen = settings["load_col"]
    require(
        chosen is None or isinstance(chosen, Mapping),
        "load_col",
        chosen,
        "empty (~) or a mapping, such as {inter: [user_id, item_id, timestamp]}",
    )
    loaded = (chosen or {}).get("inter", columns)
    missing = [name for name in columns if loaded != "*" and name not in loaded]
    if missing:
        raise InputError(
            f"setting 'load_col' loads {loaded} of '{files[0].name}', but {preview(missing)} is "
            f"needed too. Set load_col: {{inter: [{', '.join([*loaded, *missing])}]}}"
        )


def check_items(settings: Settings, tokenizer: Any) -> None:
    """The settings of stage 1 are sound, and ``.item`` holds the columns that are read.

    Args:
        settings: the final settings.
        tokenizer: its class. Unless it reads the items themselves, or needs vectors and the user
            gives none, no item file is read.
    """
    fields = build(ItemFields, settings)
    prompt = Prompt(build(PromptSettings, settings).prompt_template, fields)
    build(EncoderSettings, settings)
    build(PairSettings, settings)
    build(BehaviourSettings, settings, "behaviour_")
    parts = settings_of(settings)
    own = build(VectorSettings, settings)
    files = ["item_embedding_file", "item_embedding_ids"]
    if tokenizer.needs_source:
        files += ["item_image_file", "item_image_ids"]
    for key in files:
        if own.item_embedding_file is None and key == "item_embedding_ids":
            continue  # nothing reads it
        if settings[key] is not None and not Path(settings[key]).is_file():
            raise InputError(f"setting '{key}' is {settings[key]!r}, but there is no such file")
    columns: list[str] = []
    if own.item_embedding_file is None and tokenizer.needs_vectors:
        columns += prompt.fields
    if tokenizer.needs_source:
        columns += needed_columns(*parts)
    if columns:
        file = Path(settings["data_path"]) / f"{settings['dataset']}.item"
        check_columns(
            file,
            [settings["ITEM_ID_FIELD"], *columns],
            settings["field_separator"],
            " Say in item_text_fields which columns hold text",
        )


def check_columns(file: Path, columns: Iterable[str], separator: str, remedy: str = "") -> None:
    """Every column stands in the header of an atomic file, ``name:type`` a column."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            header = lines.readline(LONGEST_LINE).rstrip("\r\n")
    except FileNotFoundError as error:
        raise InputError(
            f"the data file '{file}' does not exist. Name the folder above '{file.parent.name}' "
            "with --data_path"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the data file '{file}' cannot be read: {error}") from error
    present = [cell.partition(":")[0] for cell in header.split(separator)]
    for column in columns:
        if column not in present:
            raise InputError(
                f"'{file}' has no column '{column}'; it has {', '.join(present[:_MOST_SHOWN])}."
                f"{did_you_mean(column, present)}{remedy}"
            )


def _modes(settings: Settings) -> list[str]:
    """The evaluation modes of validation and test, however they are spelled."""
    arguments = settings["eval_args"]
    mode = arguments.get("mode", "full") if isinstance(arguments, Mapping) else "full"
    return list(mode.values()) if isinstance(mode, Mapping) else [mode]
