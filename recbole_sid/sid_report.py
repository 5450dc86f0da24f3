"""The command ``sids``: one or several sets of SIDs of a data set, side by side, in numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid import run_folder
from recbole_sid.config import Config
from recbole_sid.errors import InputError, preview
from recbole_sid.items.encoder import EncoderSettings
from recbole_sid.items.pairs import Interactions, PairSettings
from recbole_sid.items.prompt import Prompt
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.measures.hit_rate import check_k
from recbole_sid.measures.report_settings import ReportSettings
from recbole_sid.measures.v_measure import finest_categories
from recbole_sid.model.dataset import training_interactions
from recbole_sid.reading import read_data
from recbole_sid.settings import build
from recbole_sid.sid.published import read_sids
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid_report_figures import AboutItems, measured
from recbole_sid.sid_report_scores import correlated, read_scores
from recbole_sid.sid_report_table import check_folder, write_report
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.pipeline import item_vectors, pairs_of
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")


def compare_sids(
    sids: Sequence[str | Path],
    labels: Sequence[str] | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    scores: str | Path | None = None,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure sets of SIDs of one data set, and write ``sid_report.md``, ``.csv`` and ``.json``.

    What is measured says nothing about a recommender by itself. All of it is of the codes without
    a dedup digit; a published file does not say whether its last level is one.

    Args:
        sids: files that :func:`recbole_sid.read_sids` reads, or folders of ``run`` or ``tokenize``.
        labels: the names of the sets; default: those of the files and folders.
        config_file_list, config_dict: settings, as for :func:`recbole_sid.run`, and those of
            ``properties/sids.yaml``; they name the data set.
        output: the folder that is written to; default ``runs/<dataset>-sids``.
        scores: a yaml file with a recommender's score of each set, ``LABEL: score`` or a list of
            those of several seeds; default: ``report_score`` on the validation split, where
            ``sids`` are folders of finished runs. From four scored sets on the report says which
            figures order the sets as the scores do; runs must then be of one generator with one
            training, seeds aside. Sets that are equal count once, with the mean of their scores.
        unknown: "refuse" sets that lack items of the data or have others; or "ignore" such items:
            then all sets are measured on the items of the data that each of them has.
        overwrite: whether a report that lies there may be replaced.

    Returns:
        What ``sid_report.json`` holds, and ``folder``. For each of ``sets``: ``codes``, see
        :func:`.sid_report_figures.use`, and the same ``before`` and ``after`` the collision rule,
        as far as the file tells; ``largest_groups``; ``v_measure``, see
        :func:`.level_agreement`; ``hit_rate``, see :func:`.hit_rate.hit_rate`;
        ``neighbourhood``, see :func:`.neighbourhood.neighbourhood`;
        ``score``. ``item_vectors`` has the hit rate by item vectors, the yardstick;
        ``correlations`` the rows of :func:`.rank_correlations`, ``scores_from`` where the scores
        are from, ``scored_as_one`` and ``least_p`` as in :class:`.Related`. None stands for what
        was left out, and ``left_out`` says why.

    Raises:
        InputError: bad settings, files that cannot be read or do not fit the data; nothing is
            written then.
    """
    named = _named(sids, labels)
    if unknown not in ("refuse", "ignore"):
        raise InputError(f"unknown is {unknown!r}, but must be 'refuse' or 'ignore'")
    config = Config(
        config_file_list=list(config_file_list or ()),
        config_dict=config_dict,
        stage_1=False,
        sid_report=True,
    )
    if config.model_spec is None:
        raise InputError(
            f"sids reads the settings of our models, but '{config['model']}' is RecBole's: leave "
            "--model out"
        )
    settings = build(ReportSettings, config.final_config_dict)
    described = _settings(config, settings)
    folder = Path("runs", f"{config['dataset']}-sids") if output is None else Path(output)
    check_folder(folder, overwrite)
    scored, scores_from = read_scores(named, scores, settings.report_score)
    tables = {label: _read(path) for label, path in named.items()}
    tokens, training = _data(config)
    n_data = len(tokens)
    counts = {label: _fit(table, tokens) for label, table in tables.items()}
    if unknown == "refuse":
        _refuse_strangers(counts, n_data)
    tokens, training = _common(tokens, training, tables)
    check_k(settings.report_neighbours, len(tokens))
    aligned = {label: t.aligned(tokens, unknown="ignore") for label, t in tables.items()}
    left_out: list[str] = []
    about = AboutItems(
        tokens,
        _titles(config, tokens, left_out),
        _categories(config, tokens, left_out),
        item_vectors(config, tokens) if settings.report_vectors else None,
    )
    pairs = pairs_of(config, Items(tokens, about.vectors), training)
    entries, yardstick = measured(about, aligned, pairs, settings.report_neighbours, left_out)
    sets = [
        {
            "label": label,
            "source": named[label].name,
            "fingerprint": tables[label].fingerprint(),
            "score": scored.get(label),
            **counts[label],
            **entry,
        }
        for label, entry in zip(named, entries, strict=True)
    ]
    related = correlated(sets, scored, config["seed"]) if scored else None
    if isinstance(related, str):
        left_out.append(f"Correlation with a recommender's scores: {related}")
        related = None
    result = {
        "dataset": config["dataset"],
        "items": len(tokens),
        "items_in_data": n_data,
        "recbole_sid": __version__,
        "data_hash": run_folder.data_hash(config),
        "settings": described,
        "sets": sets,
        "item_vectors": yardstick,
        "scores_from": scores_from,
        "correlations": None if related is None else related.rows,
        "scored_as_one": [] if related is None else related.as_one,
        "least_p": None if related is None else related.least_p,
        "left_out": left_out,
    }
    return write_report(folder, result) | {"folder": str(folder)}


def _named(sids: Sequence[str | Path], labels: Sequence[str] | None) -> dict[str, Path]:
    """The file of each set by its label."""
    if isinstance(sids, (str, Path)) or not sids:
        raise InputError(f"sids is {sids!r}, but must list one file or folder at least")
    paths = [Path(path) / run_folder.SIDS if Path(path).is_dir() else Path(path) for path in sids]
    if labels is None:
        labels = [
            path.resolve().parent.name if path.name == run_folder.SIDS else path.stem
            for path in paths
        ]
    if len(labels) != len(paths) or len(set(labels)) < len(labels) or not all(labels):
        raise InputError(
            f"{len(paths)} sets of SIDs have the labels {preview(labels)}: give each its own, "
            "--labels=A,B"
        )
    return dict(zip(labels, paths, strict=True))


def _read(path: Path) -> SemanticIDs:
    if not path.is_file():
        raise InputError(
            f"there is no SID file '{path}': name a .json or .safetensors file, or the folder of "
            "a run"
        )
    return read_sids(path)


def _data(config: Config) -> tuple[tuple[str, ...], Interactions]:
    """Raw item ids, sorted, and the training interactions with their rows."""
    data, loaders = read_data(config)
    training = training_interactions(loaders[0].dataset, config)
    tokens = data.field2id_token[config["ITEM_ID_FIELD"]][1:].tolist()
    order = np.asarray(sorted(range(len(tokens)), key=tokens.__getitem__))
    place = np.argsort(order)
    return tuple(tokens[row] for row in order), training._replace(items=place[training.items])


def _fit(table: SemanticIDs, tokens: tuple[str, ...]) -> dict[str, Any]:
    """How the items of a set and of the data differ."""
    ours, theirs = set(tokens), set(table.tokens)
    return {
        "items_in_file": len(theirs),
        "items_missing": len(ours - theirs),
        "items_unknown": len(theirs - ours),
    }


def _refuse_strangers(counts: Mapping[str, Mapping[str, Any]], n_data: int) -> None:
    for label, count in counts.items():
        if count["items_missing"] or count["items_unknown"]:
            raise InputError(
                f"SIDs of '{label}': {count['items_missing']} of the {n_data} items in the data "
                f"have none, and {count['items_unknown']} of the {count['items_in_file']} items "
                "in the file are not in the data. Use the SIDs of this data set, or measure all "
                "sets on the items that each of them has, --unknown=ignore"
            )


def _common(
    tokens: tuple[str, ...], training: Interactions, tables: Mapping[str, SemanticIDs]
) -> tuple[tuple[str, ...], Interactions]:
    """The items that every set has, and the interactions with them."""
    kept = set(tokens).intersection(*(table.tokens for table in tables.values()))
    if not kept:
        raise InputError("the data and the sets of SIDs have no item in common: check the item ids")
    is_kept = np.array([token in kept for token in tokens])
    number = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
    items = number[training.items]
    common = Interactions(training.users[items >= 0], items[items >= 0])
    return tuple(token for token in tokens if token in kept), common


def _titles(config: Config, tokens: tuple[str, ...], left_out: list[str]) -> tuple[str, ...] | None:
    """The text fields of every item, for a person to know it by."""
    prompt = Prompt("{item_text}", build(ItemFields, config.final_config_dict))
    try:
        return tuple(prompt.render(_item_table(config, prompt.fields, tokens)))
    except InputError as error:
        left_out.append(f"Titles, items are shown by their ids: {error}")
        return None


def _categories(config: Config, tokens: tuple[str, ...], left_out: list[str]) -> np.ndarray | None:
    fields = build(ItemFields, config.final_config_dict)
    if fields.item_category_field is None:
        left_out.append("Agreement with categories: no item_category_field is set")
        return None
    table = _item_table(config, [fields.item_category_field], tokens)
    return finest_categories(table.category_paths(fields))


def _item_table(config: Config, columns: Sequence[str], tokens: tuple[str, ...]) -> ItemTable:
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    table = ItemTable.read(path, config["ITEM_ID_FIELD"], columns, config["field_separator"])
    return table.aligned(tokens)


def _settings(config: Config, settings: ReportSettings) -> dict[str, Any]:
    """What the report says of the settings, all checked; a file of vectors by its name."""
    values: Mapping[str, Any] = config.final_config_dict
    encoder = asdict(build(EncoderSettings, values))
    described = {
        **asdict(settings),
        **asdict(build(PairSettings, values)),
        "seed": config["seed"],
        "item_category_field": config["item_category_field"],
    }
    if not settings.report_vectors:
        return described
    if config["item_embedding_file"] is not None:
        return described | {"item_embedding_file": Path(config["item_embedding_file"]).name}
    return described | {"prompt_template": config["prompt_template"]} | encoder
