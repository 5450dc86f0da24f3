"""Stage 1: the items of a dataset to SIDs, cached by content.

The key of the cache covers the tokenizer and its source, its settings, its seed, the item ids and
the item vectors, and the vectors follow from every text and every setting of the encoder. Change
one letter of one title and this stage runs again; change the learning rate of the generator and it
does not. Neither does the collision rule, which is applied to the cached codes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from recbole_sid.checkpoint import Checkpoint, building
from recbole_sid.distributed import World
from recbole_sid.errors import InputError
from recbole_sid.items.encoder import EncoderSettings, encode
from recbole_sid.items.pairs import Interactions, ItemPairs, PairSettings, item_pairs
from recbole_sid.items.prompt import Prompt, PromptSettings
from recbole_sid.items.schema import schema_columns
from recbole_sid.items.source import ItemSource
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.items.vectors import VectorSettings, load_item_vectors
from recbole_sid.out_of_memory import ENCODING, TOKENIZING, memory_for
from recbole_sid.seeds import stage_seed
from recbole_sid.settings import build
from recbole_sid.sid.collisions import apply_collision, needs_space
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items, Tokenizer
from recbole_sid.tokenizer.code_cache import Fitted, read_cache, write_cache
from recbole_sid.tokenizer.code_use import code_use, collapsed

if TYPE_CHECKING:
    from recbole_sid.config import Config
    from recbole_sid.registry import ComponentSpec
    from recbole_sid.run_settings import RunSettings

logger = logging.getLogger("recbole_sid")

# Raise it when what tokenizers share gives other codes, so that no stale file is read.
CACHE_VERSION = 2


class ItemConfig(Protocol):
    """The part of our ``Config`` that reads items and makes the tokenizer."""

    @property
    def final_config_dict(self) -> dict[str, Any]:
        """All settings. The items stand in ``data_path``/``dataset``.item."""

    @property
    def run(self) -> RunSettings: ...

    @property
    def tokenizer_spec(self) -> ComponentSpec: ...

    @property
    def tokenizer_settings(self) -> Any: ...

    def __getitem__(self, key: str) -> Any: ...


class Stage1(NamedTuple):
    """What stage 1 gives.

    Attributes:
        sids: of all items, after the collision rule.
        embeddings: float32 (n_items, d), from tokenizers that make some.
        weights: from tokenizers that can give codes to further items by them.
        seconds: that the tokenizer was fitted for, now or when the cache got its codes; encoding
            of texts, pairs and vectors of behaviour apart.
    """

    sids: SemanticIDs
    embeddings: np.ndarray | None
    weights: Mapping[str, np.ndarray] | None
    seconds: float


def semantic_ids(
    config: Config,
    tokens: tuple[str, ...],
    training: Callable[[], Interactions],
    behaviour: Callable[[], np.ndarray],
) -> Stage1:
    """SIDs of the items ``tokens``, from the cache or by running the configured tokenizer.

    Args:
        config: names the tokenizer and all that it needs.
        tokens: raw item ids; the rows of the result.
        training: gives the interactions of the training split, with rows of ``tokens`` as items;
            only called for a tokenizer that learns from pairs of items.
        behaviour: gives ``Items.behaviour``, rows as in ``tokens``; only called for a tokenizer
            that needs it.

    Raises:
        InputError: the item file, the vectors or the SID file do not fit; nothing is written then.
    """
    tokenizer = configured_tokenizer(config)
    items = catalogue_items(config, tokens)
    if tokenizer.needs_pairs:
        items = replace(items, pairs=pairs_of(config, items, training()))
    if tokenizer.needs_behaviour:
        items = replace(items, behaviour=behaviour())
    fitted = fitted_codes(config, tokenizer, items)
    rule = config.run
    sids = apply_collision(
        fitted.base,
        rule.collision,
        fitted.space,
        rule.collision_capacity,
        rule.collision_headroom,
        seed=stage_seed(config["seed"], "collision"),
    )
    logger.info("Stage 1: %s", describe(sids))
    return Stage1(sids, fitted.embeddings, fitted.weights, fitted.seconds)


def configured_tokenizer(config: ItemConfig) -> Tokenizer:
    """The tokenizer of the settings, not fitted yet."""
    return config.tokenizer_spec.cls(
        config.tokenizer_settings,
        seed=stage_seed(config["seed"], "tokenizer"),
        device=config["device"],
        progress=bool(config["show_progress"]),
    )


def catalogue_items(config: Config, tokens: tuple[str, ...], world: World | None = None) -> Items:
    """What the configured tokenizer reads of each item by itself: all but pairs and behaviour.

    Args:
        world: as for :func:`item_vectors`.
    """
    cls = config.tokenizer_spec.cls
    with memory_for("stage 1, encoding of the items", ENCODING, config.final_config_dict):
        return Items(
            tokens,
            item_vectors(config, tokens, world) if cls.needs_vectors else None,
            source=source_of(config, tokens) if cls.needs_source else None,
        )


def fitted_codes(config: Config, tokenizer: Tokenizer, items: Items) -> Fitted:
    """What ``tokenizer`` makes of ``items``: from the cache, or by fitting it now."""
    spec = config.tokenizer_spec
    settings = {key: config[key] for key in spec.keys}
    source = source_hash(spec.cls) if tokenizer.trains else None
    path = None
    if source is not None:
        key = _key([spec.name, source, settings, tokenizer.seed], items)
        path = config.run.cache_folder / "codes" / f"{key}.safetensors"
        tokenizer.checkpoint = Checkpoint(path)
    with_space = needs_space(config.run.collision)
    if path is None:
        fitted = _fit(config, tokenizer, items, settings)
        _refuse_collapsed(config, tokenizer, fitted.base)
        return fitted
    kept = _cached(path, items.tokens, with_space)
    if kept is None:
        with building(path):
            kept = _cached(path, items.tokens, with_space)  # another process may have made it
            if kept is None:
                kept = _fit(config, tokenizer, items, settings)
                write_cache(path, kept)
    Checkpoint(path).finish()
    _refuse_collapsed(config, tokenizer, kept.base)
    return kept


def _refuse_collapsed(config: Config, tokenizer: Tokenizer, base: SemanticIDs) -> None:
    """Under ``strict`` collapsed codes are an error; else the fit has warned of them."""
    bound = vars(tokenizer.settings).get("collapse_below")
    if bound is None or not config.run.strict:
        return
    found = collapsed(code_use(base.codes, base.sizes), base.sizes, base.n_items, bound)
    if found:
        raise InputError(
            f"strict: tokenizer {config['tokenizer']}: {'; '.join(found)}. Remedy: "
            f"{tokenizer.collapse_remedy}; or run without --strict"
        )


def _cached(path: Path, tokens: tuple[str, ...], with_space: bool) -> Fitted | None:
    fitted = read_cache(path, tokens, with_space)
    if fitted is not None:
        logger.info("Stage 1: SIDs from the cache, %s", path)
    return fitted


def _fit(config: Config, tokenizer: Tokenizer, items: Items, settings: Mapping[str, Any]) -> Fitted:
    stage = f"stage 1, tokenizer {config.tokenizer_spec.name}"
    start = time.perf_counter()
    with memory_for(stage, TOKENIZING, config.final_config_dict):
        made = tokenizer.fit(replace(items, titles=titles(config, items.tokens)))
    extras = {"space": made.space, "embeddings": made.embeddings, "weights": made.weights}
    provenance = {
        "tokenizer": config.tokenizer_spec.name,
        "settings": settings,
        "report": made.report,
        "beside": [name for name, extra in extras.items() if extra is not None],
    }
    if made.space is not None:
        provenance["code_costs"] = made.space.spread(made.codes)
    base = SemanticIDs(items.tokens, made.codes, made.sizes, "none", provenance)
    seconds = round(time.perf_counter() - start, 3)
    return Fitted(base, made.space, made.embeddings, made.weights, seconds)


def describe(sids: SemanticIDs) -> str:
    """One line on a table: its shape, and how good it looks before any generator."""
    figures = quality(sids)
    levels = range(1, sids.n_base_levels + 1)
    perplexity = " / ".join(f"{figures[f'perplexity_{level}']:.0f}" for level in levels)
    shape = f"{sids.n_items} items, levels of {' x '.join(map(str, sids.sizes))} codes"
    shared = f"{figures['collision_rate']:.2%} of the items share their SID"
    if sids.collision == "dedup":
        shape, shared = f"{shape} (the last is the dedup digit)", f"before it {shared}"
    elif sids.collision != "none":
        moves = sids.provenance["collision"]
        cost = moves["mean_cost_added"]
        shared = (
            f"{moves['collision_rate_before']:.2%} of the items shared their SID before "
            f"{sids.collision}, which moved {moves['moved']} items, {moves['moved_up']} of them to "
            f"another prefix{'' if cost is None else f', at a mean cost of {cost:.4g}'}; now "
            f"{figures['collision_rate']:.2%} do"
        )
    return f"{shape}; {shared}, perplexity {perplexity}"


def item_vectors(
    config: ItemConfig, tokens: tuple[str, ...], world: World | None = None
) -> np.ndarray:
    """One vector an item, float32 (n, d): the user's own, or the encoded prompts.

    Args:
        world: processes that all call this alike and share the encoding; None: this one alone.
    """
    values: Mapping[str, Any] = config.final_config_dict
    own = build(VectorSettings, values)
    if own.item_embedding_file is not None:
        return load_item_vectors(own.item_embedding_file, own.item_embedding_ids, tokens)
    return encode(
        item_texts(config, tokens, tell=True),
        build(EncoderSettings, values),
        config.run.cache_folder / "vectors",
        config["device"],
        bool(config["show_progress"]),
        world,
    )


def pairs_of(config: Config, items: Items, training: Interactions) -> ItemPairs:
    """The pairs of ``items`` that the settings ask for, with a line in the log.

    Where scores tie, numbers of items decide: here those of the sorted raw ids, so that the pairs
    do not depend on the order of rows.
    """
    order = np.asarray(sorted(range(len(items.tokens)), key=items.tokens.__getitem__))
    place = np.argsort(order)
    pairs = item_pairs(
        build(PairSettings, config.final_config_dict),
        training._replace(items=place[training.items]),
        len(order),
        None if items.vectors is None else items.vectors[order],
        seed=stage_seed(config["seed"], "pairs"),
        progress=bool(config["show_progress"]),
    )
    logger.info(
        "Pairs by %s: %s neighbours; %d of %d items have none",
        config["pair_source"],
        f"{len(pairs.items):,}",
        int((pairs.counts == 0).sum()),
        len(order),
    )
    return pairs.taken(place)


def source_of(config: ItemConfig, tokens: tuple[str, ...]) -> ItemSource:
    """The columns and images of the items ``tokens``."""
    source = ItemSource.read(
        config.final_config_dict,
        tokens,
        config.run.cache_folder / "vectors",
        config["device"],
        bool(config["show_progress"]),
    )
    read = schema_columns(source.schema, source.fields)
    _tell_columns("inputs", source.table, source.fields, read)
    return source


def titles(config: Config, tokens: tuple[str, ...]) -> tuple[str, ...] | None:
    """The prompt of every item, for logs; None where no text is read."""
    if config["item_embedding_file"] is not None or not config.tokenizer_spec.cls.needs_vectors:
        return None
    return tuple(item_texts(config, tokens))


def item_texts(config: ItemConfig, tokens: tuple[str, ...], *, tell: bool = False) -> list[str]:
    """The prompt of every item; ``tell`` logs what it is made from.

    Raises:
        InputError: the item file or a column is missing, or no item has any text.
    """
    values: Mapping[str, Any] = config.final_config_dict
    fields = build(ItemFields, values)
    prompt = Prompt(build(PromptSettings, values).prompt_template, fields)
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    table = ItemTable.read(path, config["ITEM_ID_FIELD"], prompt.fields, config["field_separator"])
    table = table.aligned(tokens)
    texts = prompt.render(table)
    if tell:
        _tell_columns("texts", table, fields, prompt.fields)
    return texts


def _tell_columns(what: str, table: ItemTable, fields: ItemFields, read: Sequence[str]) -> None:
    """One line on the columns ``read``; a text field is one where some cell has two words."""
    filled = [name for name in read if any(table.columns[name])]
    texts = [name for name in filled if name in fields.item_text_fields]
    words = (" " in cell for name in texts for cell in table.columns[name])
    logger.info(
        "Item %s: made from %s%s",
        what,
        ", ".join(filled) or "no column",
        "" if any(words) else "; no text column",
    )


def source_hash(cls: type) -> str | None:
    """sha256 hex of the source of ``cls``; None when it was typed into a session.

    For a class of this package these are all files of its folder, which use one another. For any
    other it is the file that defines it: a third party's tokenizer changes while it is written, and
    its old codes must not come back.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:
        return None
    ours = cls.__module__.partition(".")[0] == __package__.partition(".")[0]
    digest = hashlib.sha256()
    for path in sorted(Path(file).parent.glob("*.py")) if ours else [Path(file)]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _key(identity: list[Any], items: Items) -> str:
    """sha256 over all that the codes depend on; blind to the order of rows."""
    order = sorted(range(len(items.tokens)), key=items.tokens.__getitem__)
    plain = [CACHE_VERSION, *identity, [items.tokens[row] for row in order]]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    if items.vectors is not None:
        digest.update(np.ascontiguousarray(items.vectors[order]).tobytes())
    if items.pairs is not None:
        digest.update(items.pairs.taken(np.asarray(order)).fingerprint().encode())
    if items.source is not None:
        digest.update(items.source.take(order).fingerprint().encode())
    if items.behaviour is not None:
        digest.update(np.ascontiguousarray(items.behaviour[order]).tobytes())
    return digest.hexdigest()
