"""Bad input, found in the first second: numbers, pairs, data files, columns. Nothing is written."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import ModelType

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.items.encoder import EncoderSettings
from recbole_sid.items.pairs import PairSettings
from recbole_sid.items.prompt import Prompt, PromptSettings
from recbole_sid.items.source import needed_columns, settings_of
from recbole_sid.items.table import ItemFields
from recbole_sid.items.vectors import VectorSettings
from recbole_sid.limits import LONGEST_LINE
from recbole_sid.model.behaviour import BehaviourSettings
from recbole_sid.registry import ComponentSpec, components
from recbole_sid.settings import build, require
from recbole_sid.tokenizer.sid_file import SIDFile

Settings = Mapping[str, Any]
logger = logging.getLogger("recbole_sid")

_MOST_SHOWN = 50  # columns in a message


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
