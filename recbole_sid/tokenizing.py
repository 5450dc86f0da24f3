"""The command ``tokenize``: stage 1 alone, and what its codes and vectors are worth by themselves.

The measurements are UniSID's (arXiv 2602.10445): agreement of the codes with the categories, on
items that the tokenizer was not fitted on if some are held out, and retrieval by dense vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from recbole.utils import init_seed

from recbole_sid import distributed, run_folder
from recbole_sid.clock import Clock
from recbole_sid.config import Config
from recbole_sid.distributed import World
from recbole_sid.errors import InputError
from recbole_sid.items.pairs import Interactions
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.items.vectors import save_item_vectors
from recbole_sid.logs import RunLog, logging_run
from recbole_sid.measures import NothingToMeasure
from recbole_sid.measures.retrieval import (
    HeldOutPairs,
    RetrievalSettings,
    heldout_pairs,
    retrieval,
)
from recbole_sid.measures.settings import MeasureSettings
from recbole_sid.measures.v_measure import finest_categories, level_agreement, split_items
from recbole_sid.memory import keep_freed_memory
from recbole_sid.model.behaviour import Histories, behaviour_vectors
from recbole_sid.model.dataset import split_rows, training_interactions
from recbole_sid.model.recommender import training_histories
from recbole_sid.quick_start import checked_config
from recbole_sid.reading import read_data
from recbole_sid.registry import components
from recbole_sid.seeds import stage_seed
from recbole_sid.settings import build
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.quality import quality
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items, Tokenizer
from recbole_sid.tokenizer.pipeline import (
    catalogue_items,
    configured_tokenizer,
    describe,
    fitted_codes,
    item_vectors,
    pairs_of,
)
from recbole_sid.tokenizer.shared import assigned_by_all, help_to_assign
from recbole_sid.tokenizer.stored_weights import save_tokenizer_weights
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")


def tokenize(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Sequence[str] | None = (),
) -> dict[str, Any]:
    """Give every item its SID and measure the tokenizer; nothing else is trained.

    Settings and data are read as by :func:`recbole_sid.run`, and the settings of
    ``properties/measures.yaml`` besides. The folder is ``runs/<dataset>-<tokenizer>-<hash>`` unless
    ``output`` names another one. There is nothing to resume: text encoding and tokenizers go on by
    themselves, from the cache.

    With ``held_out_share`` the tokenizer is fitted on the other items, and on their interactions
    alone. It then gives all items their codes, which for the fitted ones are those of the fit.

    Under ``torchrun`` all processes call it alike: they share the encoding of the item texts, and
    the search for the codes of all items where some are held out; the first one fits.

    Args:
        model: one of ours, which brings its tokenizer and their defaults; None takes it from the
            other sources.
        dataset, config_file_list, config_dict, command_line: as for :func:`recbole_sid.run`.

    Returns:
        What identifies it (``tokenizer``, ``dataset``, ``settings_hash``, ``data_hash``,
        ``inputs_hash``, ``recbole_sid``); ``quality`` of the SIDs; ``tokenizer_report``, how the
        fit went; ``v_measure``, see :func:`.level_agreement`, of the codes before the collision
        rule; ``retrieval``, see :func:`.retrieval.retrieval`, by ``item_vectors`` and, where the
        tokenizer makes some, by its ``embeddings``; ``run_folder`` and ``timing``. ``v_measure`` or
        ``retrieval`` is None where there is nothing to measure; the log says why.

    Raises:
        InputError: bad input, before anything is fitted or overwritten.
    """
    with distributed.joined() as world:
        config = checked_config(
            model, dataset, config_file_list, config_dict, command_line, measures=True
        )
        _refuse_what_tokenize_lacks(config)
        if config.run.output is None:
            name = f"{config['dataset']}-{config['tokenizer']}-{config.settings_hash()[:10]}"
            config["output"] = str(Path("runs") / name)
        config["checkpoint_dir"] = str(config.run_folder)
        with run_folder.claimed(config.run_folder):
            finished = world.first(lambda: run_folder.stored_result(config))
            if finished is not None:
                return finished
            keep_freed_memory()
            with logging_run() as log:
                return _tokenize(config, log, world)


def _refuse_what_tokenize_lacks(config: Config) -> None:
    if config.model_spec is None:
        raise InputError(
            f"tokenize makes semantic IDs, but '{config['model']}' is RecBole's model and has "
            "none: leave --model out, or choose a model of recbole_sid"
        )
    if config.run.resume:
        raise InputError(
            "tokenize needs no --resume: the same command goes on by itself, from the cache"
        )
    if config["held_out_share"] > 0 and not config.tokenizer_spec.cls.can_assign:
        able = [s.name for s in components() if s.kind == "tokenizer" and s.cls.can_assign]
        raise InputError(
            f"setting 'held_out_share' is {config['held_out_share']}, but tokenizer "
            f"'{config['tokenizer']}' cannot give codes to items that it was not fitted on: choose "
            f"{' or '.join(able)}, or set held_out_share to 0"
        )


def _tokenize(config: Config, log: RunLog, world: World) -> dict[str, Any]:
    clock = Clock()
    with clock("data"):
        # Before the files can change under a long fit.
        hashes = world.first(
            lambda: {
                "data_hash": run_folder.data_hash(config),
                "inputs_hash": run_folder.inputs_hash(config),
            }
        )
        init_seed(config["seed"], config["reproducibility"])
        data, loaders = read_data(config)
        tokens = tuple(data.field2id_token[config["ITEM_ID_FIELD"]][1:].tolist())
        training = training_interactions(loaders[0].dataset, config)
        categories = _categories(config, tokens)
        queries = _queries(config, loaders, training, len(tokens))
    with clock("tokenize"):
        tokenizer = configured_tokenizer(config)
        items = catalogue_items(config, tokens, world)
        if not world.leads:
            if config["held_out_share"] > 0:
                help_to_assign(tokenizer, items, world)
            return world.told()
        vectors = _frozen_vectors(config, items) if queries is not None else None
        histories = partial(training_histories, loaders[0].dataset, config)
        made = _codes(config, tokenizer, items, training, histories, world)
        rule = config.run
        sids = apply_collision(
            made.base,
            rule.collision,
            made.space,
            rule.collision_capacity,
            rule.collision_headroom,
            seed=stage_seed(config["seed"], "collision"),
        )
    # Bad input has been refused by now: only from here on is anything written.
    folder = run_folder.start(config)
    log.write_to(folder / run_folder.LOG)
    logger.info("%s on %s, folder %s", config["tokenizer"], config["dataset"], folder)
    logger.info(describe(sids))
    sids.save(folder / run_folder.SIDS)
    if made.embeddings is not None:
        save_item_vectors(folder / run_folder.EMBEDDINGS, made.embeddings, tokens)
    if made.weights is not None:
        save_tokenizer_weights(folder / run_folder.TOKENIZER, made.weights)
    with clock("measure"):
        agreement = _agreement(config, made, categories)
        by_vectors = {"item_vectors": vectors, "embeddings": made.embeddings}
        found = _retrieval(config, by_vectors, queries)
    result = {
        "tokenizer": config["tokenizer"],
        "dataset": config["dataset"],
        "settings_hash": config.settings_hash(),
        **hashes,
        "recbole_sid": __version__,
        "quality": quality(sids),
        "tokenizer_report": made.base.provenance["report"],
        "v_measure": agreement,
        "retrieval": found,
    }
    timing = clock.report() | {"fit_seconds": made.seconds}
    run_folder.write_json(folder / run_folder.TIMING, timing)
    run_folder.write_json(folder / run_folder.RESULT, result)
    logger.info("seconds: %s, results in %s", timing["seconds"], folder)
    return world.told(result | {"run_folder": str(folder), "timing": timing})


# -- codes ----------------------------------------------------------------------------------------


class _Made(NamedTuple):
    """The codes of all items, before the collision rule, and what came with them.

    ``weights`` and ``seconds``: those of the fit. ``measured``: the rows that agreement is measured
    on, int64, rising.
    """

    base: SemanticIDs
    space: CodeSpace | None
    embeddings: np.ndarray | None
    weights: Mapping[str, np.ndarray] | None
    seconds: float
    measured: np.ndarray


def _codes(
    config: Config,
    tokenizer: Tokenizer,
    items: Items,
    training: Interactions,
    histories: Callable[[], Histories],
    world: World,
) -> _Made:
    """Fit on all items; with ``held_out_share``, fit on the others and assign codes to all."""
    n_items, share = len(items.tokens), config["held_out_share"]
    if share == 0:
        whole = _with_users(config, tokenizer, items, training, histories)
        fitted = fitted_codes(config, tokenizer, whole)
        return _Made(*fitted, np.arange(n_items))
    kept, held_out = split_items(items.tokens, share, stage_seed(config["seed"], "held_out"))
    logger.info("Held out of the fit: %d of %d items", len(held_out), n_items)
    part = items.take(kept.tolist())
    part = _with_users(
        config,
        tokenizer,
        part,
        _among(training, kept, n_items),
        lambda: histories().among(kept, n_items),
    )
    fitted = fitted_codes(config, tokenizer, part)
    if fitted.weights is None:
        raise InputError(
            f"tokenizer '{config['tokenizer']}' sets can_assign, but its fit gives no weights"
        )
    if part.behaviour is not None:
        behaviour = np.zeros((n_items, part.behaviour.shape[1]), np.float32)
        behaviour[kept] = part.behaviour
        items = replace(items, behaviour=behaviour)
    made = assigned_by_all(tokenizer, items, fitted.weights, world)
    provenance = fitted.base.provenance | {"held_out": {"items": len(held_out), "share": share}}
    base = SemanticIDs(items.tokens, made.codes, made.sizes, "none", provenance)
    return _Made(base, made.space, made.embeddings, fitted.weights, fitted.seconds, held_out)


def _with_users(
    config: Config,
    tokenizer: Tokenizer,
    items: Items,
    training: Interactions,
    histories: Callable[[], Histories],
) -> Items:
    """``items`` with what the tokenizer learns from their users."""
    if tokenizer.needs_pairs:
        items = replace(items, pairs=pairs_of(config, items, training))
    if tokenizer.needs_behaviour:
        items = replace(items, behaviour=behaviour_vectors(config, items.tokens, histories()))
    return items


def _among(interactions: Interactions, rows: np.ndarray, n_items: int) -> Interactions:
    """The interactions with the items ``rows``, which are numbered anew in this order."""
    number = np.full(n_items, -1)
    number[rows] = np.arange(len(rows))
    items = number[interactions.items]
    return Interactions(interactions.users[items >= 0], items[items >= 0])


# -- measurements ---------------------------------------------------------------------------------


def _categories(config: Config, tokens: tuple[str, ...]) -> np.ndarray | None:
    """The finest category of every item by its number; None where no column holds one."""
    fields = build(ItemFields, config.final_config_dict)
    if fields.item_category_field is None:
        return None
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    columns = [fields.item_category_field]
    table = ItemTable.read(path, config["ITEM_ID_FIELD"], columns, config["field_separator"])
    return finest_categories(table.aligned(tokens).category_paths(fields))


def _agreement(config: Config, made: _Made, categories: np.ndarray | None) -> dict[str, Any] | None:
    """How the codes of the measured items agree with their categories."""
    if categories is None:
        logger.warning("V-measure is left out: no item_category_field is set")
        return None
    rows = made.measured
    try:
        figures = level_agreement(made.base.codes[rows], categories[rows])
    except NothingToMeasure as error:
        logger.warning("V-measure is left out: %s", error)
        return None
    on = "held-out items" if config["held_out_share"] > 0 else "all items"
    return {"measured_on": on, **figures}


def _queries(
    config: Config, loaders: Sequence[Any], training: Interactions, n_items: int
) -> HeldOutPairs | None:
    """The retrieval task; None if it is not asked for, or the split gives none."""
    measures = build(MeasureSettings, config.final_config_dict)
    if not measures.retrieval:
        return None
    split = loaders[("train", "valid", "test").index(measures.retrieval_split)].dataset
    users, _, _, targets = split_rows(split, config)
    settings = build(RetrievalSettings, config.final_config_dict)
    try:
        return heldout_pairs(
            training, Interactions(users, targets - 1), n_items, settings, _retrieval_seed(config)
        )
    except NothingToMeasure as error:
        logger.warning("Retrieval is left out: %s", error)
        return None


def _frozen_vectors(config: Config, items: Items) -> np.ndarray:
    """The item vectors, float32 (n, d), also beside a tokenizer that does not read them."""
    if items.vectors is not None:
        return items.vectors
    try:
        return item_vectors(config, items.tokens)
    except InputError as error:
        raise InputError(
            f"item vectors, which retrieval is measured by, cannot be made: {error}. Or leave "
            "retrieval out with retrieval: False"
        ) from error


def _retrieval(
    config: Config, vectors: Mapping[str, np.ndarray | None], queries: HeldOutPairs | None
) -> dict[str, Any] | None:
    """Recall by each kind of vectors that there is."""
    if queries is None:
        return None
    settings = build(RetrievalSettings, config.final_config_dict)
    show = bool(config["show_progress"])
    try:
        found = {
            name: retrieval(array, queries, settings, _retrieval_seed(config), progress=show)
            for name, array in vectors.items()
            if array is not None
        }
    except NothingToMeasure as error:
        logger.warning("Retrieval is left out: %s", error)
        return None
    return {"split": config["retrieval_split"], **found}


def _retrieval_seed(config: Config) -> int:
    return stage_seed(config["seed"], "retrieval")
