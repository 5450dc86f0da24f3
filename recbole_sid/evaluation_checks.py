"""What is measured fits the model, its lists, and the rules for what may be in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.evaluator.register import metric_information, metric_types, metrics_dict
from recbole.utils import EvaluatorType

from recbole_sid.errors import InputError, did_you_mean, preview
from recbole_sid.settings import require
from recbole_sid.sid.table import CAPACITY_RULES

Settings = Mapping[str, Any]


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
    for key, off in (
        ("exclude_history", None),
        ("filter_unavailable", "False"),
        ("allowed_items", "empty (~)"),
    ):
        if settings.get(key) in (None, False):
            continue
        value = settings[key]
        if not ours and off is not None:
            raise InputError(
                f"setting '{key}' is {value!r}, but the model is RecBole's, which ranks all items. "
                f"Set it to {off}, or choose a model of recbole_sid"
            )
        if any(mode != "full" for mode in _modes(settings)):
            raise InputError(
                f"setting '{key}' is {value!r}, but 'eval_args: mode' is {_modes(settings)}: "
                "RecBole itself draws the items of a sampled list. Use mode: full"
            )


def _listed(value: Any, kind: type) -> Any:
    """A single value of this kind as a list of one; anything else as it is."""
    return [value] if isinstance(value, kind) else value


def _modes(settings: Settings) -> list[str]:
    """The evaluation modes of validation and test, however they are spelled."""
    arguments = settings["eval_args"]
    mode = arguments.get("mode", "full") if isinstance(arguments, Mapping) else "full"
    return list(mode.values()) if isinstance(mode, Mapping) else [mode]
