"""The use of a finished run: items for any history, and its metrics under other settings."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from recbole_sid import distributed, registry
from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.evaluation_checks import measured
from recbole_sid.known_keys import our_keys, recbole_keys
from recbole_sid.memory import keep_freed_memory
from recbole_sid.model.exclusion import Spans
from recbole_sid.model.filters import read_allowed
from recbole_sid.parsing import read_yaml
from recbole_sid.quick_start import trainer_class
from recbole_sid.resources import resource_dir
from recbole_sid.run_folder import CONFIG, WEIGHTS
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.lists import check_list, rank, rows_by_token
from recbole_sid.serving.rules import item_rules, mask_of, parse_now
from recbole_sid.settings import require
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.stored_run import open_run, require_finished

logger = logging.getLogger("recbole_sid")

UNKNOWN = ("skip", "refuse")
EVALUATION_SETTINGS = frozenset(
    [
        *("topk", "metrics", "exclude_history", "eval_batch_size", "metric_decimal_place"),
        *("filter_unavailable", "allowed_items", "available_from_field", "available_until_field"),
    ]
)
Histories = Mapping[str, Sequence[str]] | Sequence[Sequence[str]]


class Recommendation(NamedTuple):
    """The list of one history."""

    user: str | None  # its name, where histories have names
    items: list[str]  # raw tokens, best first
    scores: np.ndarray  # float32, the log-likelihood of each item's SID


def recommend(
    run_folder: str | Path,
    histories: Histories,
    k: int = 10,
    *,
    exclude_history: bool | None = None,
    unknown: str = "skip",
    allowed_items: str | Path | None = None,
    now: float | str | None = None,
    batch_size: int | None = None,
    beam_size: int | None = None,
    show_progress: bool = True,
) -> list[Recommendation]:
    """The ``k`` best next items of every history, by a finished run of ours.

    For the histories of the test split these are the lists that its evaluation scored.

    Args:
        run_folder: the run's, or an export of it. The data set need not exist any more, unless the
            run has rules on its items (``allowed_items``, ``available_from_field``,
            ``available_until_field``) and is not exported: they are read from its files.
        histories: raw item tokens, oldest first: a mapping from users to histories, or histories
            alone. Users need not be known to the run. The model sees the last
            ``MAX_ITEM_LIST_LENGTH`` items.
        k: length of the lists.
        exclude_history: leave out of a list all items of its history, also those before the last
            ``MAX_ITEM_LIST_LENGTH``; None is the run's own setting.
        unknown: what becomes of items that the run does not know: ``skip`` (counted and logged) or
            ``refuse``.
        allowed_items: a text file of raw ids, one a line: lists hold these items only, and of them
            those that the run's own ``allowed_items`` has.
        now: a time, in seconds or as ISO text, at which the items must be available; None leaves
            their times out of account, unless the run has ``filter_unavailable``.
        batch_size: histories that are ranked together; None is the run's ``eval_batch_size``.
        beam_size: width of the search, at least ``k``; None is the run's.
        show_progress: whether to show a progress bar.

    A user's name matters only to a generator with user tokens (``user_tokens``): it is hashed as in
    training, a new name as well. Histories without names share the token of no user ("[PAD]").

    Returns:
        One recommendation a history, in the given order. A list is shorter than ``k`` only where
        fewer items can be ranked; it is empty for a history without a known item, which cannot be
        ranked (they are counted in the log).

    Raises:
        InputError: not a run of ours, an argument is out of bounds, or unknown items are refused.
    """
    names, tokens, lengths = _flatten(histories)
    require(unknown in UNKNOWN, "unknown", unknown, " or ".join(UNKNOWN))
    whole = batch_size is None or (type(batch_size) is int and batch_size >= 1)
    require(whole, "batch_size", batch_size, "a whole number above 0")
    allowed_ids = None if allowed_items is None else read_allowed(allowed_items)
    keep_freed_memory()
    bundle = open_bundle(run_folder)
    beam_size = bundle.beam_size if beam_size is None else beam_size
    check_list(k, bundle.sids.n_items, beam_size, exclude_history)
    _report_unknown(tokens, bundle.sids, unknown)
    if exclude_history is None:
        exclude_history = bundle.exclude_history
    rules = item_rules(bundle)
    seconds = parse_now(bundle, rules, now)
    mask = None
    if allowed_ids is not None:
        mask = mask_of(allowed_ids, bundle.sids.tokens, f"'{allowed_items}'")
    choice = rules.filter(bundle, mask)

    row_of = rows_by_token(bundle)
    ids = np.array([row_of.get(token, 0) for token in tokens], dtype=np.int64)
    spans = _without_unknown(ids, lengths)
    rows = np.flatnonzero(spans.ends > spans.starts)
    if len(rows) < len(lengths):
        logger.warning(
            "%s of %s histories hold no item that the run knows: their lists are empty",
            f"{len(lengths) - len(rows):,}",
            f"{len(lengths):,}",
        )
    users_of: Sequence[str | None] = names or [None] * len(lengths)
    users = bundle.users(users_of)
    catalogue = np.array(["", *bundle.sids.tokens], dtype=object)
    lists: list[tuple[list[str], np.ndarray]] = [([], np.empty(0, np.float32)) for _ in lengths]
    size = int(bundle.settings["eval_batch_size"]) if batch_size is None else batch_size
    with tqdm(total=len(rows), desc="Recommend", unit="users", disable=not show_progress) as bar:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            ranked = rank(
                bundle,
                users[batch],
                spans.padded(batch),
                k,
                beam_size,
                exclude_history,
                choice.at(seconds, len(batch)),
            )
            for row, items, scores in zip(
                batch, ranked.items.cpu().numpy(), ranked.scores.cpu().numpy(), strict=True
            ):
                lists[row] = (catalogue[items[items > 0]].tolist(), scores[items > 0])
            bar.update(len(batch))
    return [Recommendation(user, *each) for user, each in zip(users_of, lists, strict=True)]


def _flatten(histories: Histories) -> tuple[list[str], list[str], np.ndarray]:
    """Names (none for histories alone), all tokens end to end, and the lengths of the histories."""
    names: list[str] = []
    if isinstance(histories, Mapping):
        names, histories = list(histories), list(histories.values())
        for name in names:
            if not isinstance(name, str):
                raise InputError(f"user {name!r} is not text: give raw user tokens")
    if isinstance(histories, str) or not isinstance(histories, (Sequence, np.ndarray)):
        raise InputError(
            f"histories are of type {type(histories).__name__}, but must be a list of histories, "
            "or a mapping from users to histories"
        )
    tokens: list[str] = []
    for place, history in enumerate(histories):
        of = f"user {names[place]!r}" if names else f"history {place}"
        if isinstance(history, str) or not isinstance(history, (Sequence, np.ndarray)):
            raise InputError(f"{of}: {history!r} is not a list of raw item tokens")
        for token in history:
            if not isinstance(token, str):
                raise InputError(f"{of}: item {token!r} is not text: give raw item tokens")
        tokens.extend(history)
    return names, tokens, np.array([len(history) for history in histories], dtype=np.int64)


def _report_unknown(tokens: Sequence[str], sids: SemanticIDs, unknown: str) -> None:
    """Log or refuse the tokens that are no items of the run."""
    items = frozenset(sids.tokens)
    missing = [token for token in tokens if token not in items]
    if missing:
        distinct = list(dict.fromkeys(missing))
        found = (
            f"{len(missing):,} of the {len(tokens):,} items in the histories are unknown to the "
            f"run, {len(distinct):,} different ones: {preview(distinct)}"
        )
        if unknown == "refuse":
            raise InputError(f"{found}. Remove them, or skip them with unknown: skip")
        logger.warning("%s. They are skipped", found)


def _without_unknown(ids: np.ndarray, lengths: np.ndarray) -> Spans:
    """The histories without items 0."""
    ends = np.cumsum(lengths)
    kept_before = np.concatenate([[0], np.cumsum(ids > 0)])
    return Spans(ids[ids > 0], kept_before[ends - lengths], kept_before[ends])


def evaluate(run_folder: str | Path, **settings: Any) -> dict[str, Any]:
    """Score a finished run of ours again on validation and test; nothing is trained or replaced.

    Under ``torchrun`` all processes call it alike, share the users, and get the result.

    Args:
        run_folder: the run's; its dataset must lie where it lay.
        settings: evaluation settings that are to differ from the run's: ``topk``, ``metrics``,
            ``exclude_history``, ``filter_unavailable``, ``available_from_field``,
            ``available_until_field``, ``allowed_items``, ``eval_batch_size``,
            ``metric_decimal_place``, those that the run's generator declares as
            ``decoding_settings`` (``beam_size``), and ``show_progress``.

    Returns:
        ``run_folder``, ``model``, ``dataset``; ``settings``, with the values that were used;
        ``valid_result`` and ``test_result``, None for an empty split.

    Raises:
        InputError: not a run of ours, a setting is unknown or no evaluation setting, or a value is
            out of bounds.
    """
    with distributed.joined():
        return _evaluate(require_finished(Path(run_folder)), settings)


def _evaluate(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    stored = read_yaml(folder / CONFIG)
    if "generator" not in stored:
        raise InputError(
            f"'{folder}' holds a model of clicks, {stored['model']}, which makes no lists to "
            "score: its metrics are in result.json"
        )
    allowed = EVALUATION_SETTINGS | registry.generator(stored["generator"]).cls.decoding_settings
    _refuse_others(settings, allowed | {"show_progress"}, stored)
    overall = read_yaml(resource_dir("properties") / "overall.yaml")
    merged = {**overall, **stored, **settings}
    decimals = merged["metric_decimal_place"]
    good = type(decimals) is int and decimals >= 0
    require(good, "metric_decimal_place", decimals, "a whole number, 0 or more")
    columns = measured(merged, ours=True)
    # It only chose the best epoch, and must be one of what is measured now.
    valid_metric = merged["valid_metric"]
    changes = {
        **settings,
        "valid_metric": valid_metric if valid_metric.lower() in columns else columns[0],
    }
    keep_freed_memory()
    config, model, _, train_data, valid_data, test_data = open_run(folder / WEIGHTS, changes)
    with tempfile.TemporaryDirectory() as nothing_kept:
        config["checkpoint_dir"] = nothing_kept  # RecBole's trainers open event files there
        trainer = trainer_class(config)(config, model)
        trainer.splits = (train_data.dataset, valid_data.dataset)
        trainer.eval_collector.data_collect(train_data)  # for metrics that count items
        results = [
            trainer.evaluate(
                data, load_best_model=False, show_progress=bool(config["show_progress"])
            )
            for data in (valid_data, test_data)
        ]
        trainer.tensorboard.close()
    valid, test = (
        result and {key: float(value) for key, value in result.items()} for result in results
    )
    return {
        "run_folder": str(folder),
        "model": config["model"],
        "dataset": config["dataset"],
        "settings": {key: config[key] for key in sorted(allowed)},
        "valid_result": valid,
        "test_result": test,
    }


def _refuse_others(
    settings: Mapping[str, Any], allowed: frozenset[str], stored: Mapping[str, Any]
) -> None:
    """Only evaluation settings may change."""
    for key in settings:
        if key in allowed:
            continue
        takes = f"evaluate takes {', '.join(sorted(allowed))}"
        if key in stored or key in our_keys() | recbole_keys():
            raise InputError(
                f"setting '{key}' is no evaluation setting, so a finished run cannot change it: "
                f"{takes}"
            )
        raise InputError(f"unknown setting '{key}'.{did_you_mean(key, allowed)} {takes}")
