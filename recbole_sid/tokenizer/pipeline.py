"""Stage 1: the items of a dataset to SIDs, cached by content.

The key of the cache covers the tokenizer and its source, its settings, its seed, the item ids and
the item vectors, and the vectors follow from every text and every setting of the encoder. Change
one letter of one title and this stage runs again; change the learning rate of the generator and it
does not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError
from recbole_sid.items.encoder import EncoderSettings, encode
from recbole_sid.items.prompt import Prompt, PromptSettings
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.items.vectors import VectorSettings, load_item_vectors
from recbole_sid.seeds import stage_seed
from recbole_sid.settings import build
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.quality import quality
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items, Tokenizer

if TYPE_CHECKING:
    from recbole_sid.config import Config

logger = logging.getLogger("recbole_sid")

# Raise it when what tokenizers share gives other codes, so that no stale file is read.
CACHE_VERSION = 1


def semantic_ids(config: Config, tokens: tuple[str, ...]) -> SemanticIDs:
    """SIDs of the items ``tokens``, from the cache or by running the configured tokenizer.

    Args:
        config: names the tokenizer and all that it needs.
        tokens: raw item ids; the rows of the result.

    Raises:
        InputError: the item file, the vectors or the SID file do not fit; nothing is written then.
    """
    spec = config.tokenizer_spec
    seed = stage_seed(config["seed"], "tokenizer")
    tokenizer: Tokenizer = spec.cls(
        config.tokenizer_settings,
        seed=seed,
        device=config["device"],
        progress=bool(config["show_progress"]),
    )
    vectors = item_vectors(config, tokens) if tokenizer.needs_vectors else None
    items = Items(tokens, vectors)
    settings = {key: config[key] for key in spec.keys}
    source = source_hash(spec.cls) if tokenizer.trains else None
    path = None
    if source is not None:
        key = _key([spec.name, source, settings, seed], items)
        path = config.run.cache_folder / "codes" / f"{key}.safetensors"
        tokenizer.checkpoint = Checkpoint(path)
    if path is not None and path.is_file():
        base = SemanticIDs.load(path).aligned(tokens)
        logger.info("Stage 1: SIDs from the cache, %s", path)
    else:
        fitted = tokenizer.fit(items)
        provenance = {"tokenizer": spec.name, "settings": settings, "report": fitted.report}
        base = SemanticIDs(tokens, fitted.codes, fitted.sizes, "none", provenance)
        if path is not None:
            _make_folder(path.parent)
            base.save(path)
    if tokenizer.checkpoint is not None:
        tokenizer.checkpoint.finish()
    sids = apply_collision(base, config.run.collision)
    logger.info("Stage 1: %s", describe(sids))
    return sids


def describe(sids: SemanticIDs) -> str:
    """One line on a table: its shape, and how good it looks before any generator."""
    figures = quality(sids)
    levels = range(1, sids.n_base_levels + 1)
    perplexity = " / ".join(f"{figures[f'perplexity_{level}']:.0f}" for level in levels)
    return (
        f"{sids.n_items} items, levels of {' x '.join(map(str, sids.sizes))} codes"
        f"{' (the last is the dedup digit)' if sids.collision == 'dedup' else ''}; before it "
        f"{figures['collision_rate']:.2%} of the items share their SID, perplexity {perplexity}"
    )


def item_vectors(config: Config, tokens: tuple[str, ...]) -> np.ndarray:
    """One vector an item, float32 (n, d): the user's own, or the encoded prompts."""
    values: Mapping[str, Any] = config.final_config_dict
    own = build(VectorSettings, values)
    if own.item_embedding_file is not None:
        return load_item_vectors(own.item_embedding_file, own.item_embedding_ids, tokens)
    return encode(
        item_texts(config, tokens),
        build(EncoderSettings, values),
        config.run.cache_folder / "vectors",
        config["device"],
        bool(config["show_progress"]),
    )


def item_texts(config: Config, tokens: tuple[str, ...]) -> list[str]:
    """The prompt of every item.

    Raises:
        InputError: the item file or a column is missing, or no item has any text.
    """
    values: Mapping[str, Any] = config.final_config_dict
    fields = build(ItemFields, values)
    prompt = Prompt(build(PromptSettings, values).prompt_template, fields)
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    table = ItemTable.read(path, config["ITEM_ID_FIELD"], prompt.fields, config["field_separator"])
    return prompt.render(table.aligned(tokens))


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache folder '{folder}' cannot be made ({error.strerror}): name another "
            "--cache_dir"
        ) from error


def _key(identity: list[Any], items: Items) -> str:
    """sha256 over all that the codes depend on; blind to the order of rows."""
    order = sorted(range(len(items.tokens)), key=items.tokens.__getitem__)
    plain = [CACHE_VERSION, *identity, [items.tokens[row] for row in order]]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    if items.vectors is not None:
        digest.update(np.ascontiguousarray(items.vectors[order]).tobytes())
    return digest.hexdigest()
