"""The defaults of a run: which yaml files count for its model and data set, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid import registry, settings
from recbole_sid.known_keys import owners_of
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.run_settings import RunSettings

# A yaml file of RecBole and what stands in it.
Layer = tuple[Path, dict[str, Any]]

# Settings of overall.yaml that are about generated lists and the training of a generator.
OF_GENERATORS = frozenset(
    [
        "lr_schedule",
        "warmup_steps",
        "precision",
        "exclude_history",
        "available_from_field",
        "available_until_field",
        "filter_unavailable",
        "allowed_items",
    ]
)


def merged(
    stock_layers: Sequence[Layer],
    spec: registry.ModelSpec | None,
    kind: Any,
    dataset: str,
    given: Mapping[str, Any],
    *,
    measures: bool,
    sid_report: bool,
) -> dict[str, Any]:
    """The defaults of a model on a data set; later files go before earlier ones.

    Args:
        stock_layers: the files that RecBole would merge.
        spec: our model, or None for one of RecBole's.
        kind: RecBole's type of the model.
        dataset: its name.
        given: the user's settings; ``tokenizer`` and ``generator`` choose components.
        measures: whether measures.yaml is among ours.
        sid_report: the same of sids.yaml.
    """

    def stock(folder: str) -> list[dict[str, Any]]:
        return [values for file, values in stock_layers if file.parent.name == folder]

    overall = read_yaml(resource_dir("properties") / "overall.yaml")
    if spec is None:
        kept = {*settings.keys(RunSettings), "exclude_history"}
        general = [{key: overall[key] for key in kept}]
        used: list[registry.ComponentSpec] = []
        components: list[dict[str, Any]] = []
    else:
        folder = resource_dir("properties")
        shared = ["items.yaml", "pairs.yaml", "behaviour.yaml", "schema.yaml"]
        if measures:
            shared.append("measures.yaml")
        if sid_report:
            shared.append("sids.yaml")
        general = [overall, *(read_yaml(folder / name) for name in shared)]
        if spec.own is not None:
            general[0] = {k: v for k, v in overall.items() if k not in OF_GENERATORS}
        used, components = _component_layers(spec, given)
    tuned = _in_use(_of_dataset(dataset, spec), used)
    by_kind = stock("quick_start_config")
    judges = spec is not None and spec.own is not None
    layers = [
        *stock("properties"),
        *(stock("model") if spec is None else []),
        *stock("dataset"),
        *(by_kind if judges else []),
        *general,
        *components,
        tuned,
        {"MODEL_TYPE": kind},
        *([] if judges else by_kind),
    ]
    return {k: v for values in layers for k, v in values.items()}


def chosen(spec: registry.ModelSpec, names: Mapping[str, Any]) -> list[registry.ComponentSpec]:
    """The tokenizer and what stage 2 trains, by the settings ``tokenizer`` and ``generator``."""
    second = registry.generator(names["generator"]) if spec.own is None else spec.own
    return [registry.tokenizer(names["tokenizer"]), second]


def _component_layers(
    spec: registry.ModelSpec, given: Mapping[str, Any]
) -> tuple[list[registry.ComponentSpec], list[dict[str, Any]]]:
    """The tokenizer and the generator that are chosen; their defaults, and the model's."""
    names = {"tokenizer": spec.tokenizer}
    if spec.generator is not None:
        names["generator"] = spec.generator
    for kind in names:
        names[kind] = given.get(kind, names[kind])
    used = chosen(spec, names)
    layers = [dict(component.defaults) for component in used]
    return used, [*layers, _in_use(spec.defaults, used), names]


def _of_dataset(dataset: str, spec: registry.ModelSpec | None) -> dict[str, Any]:
    """Our file on the data set; what stands there under ``generative`` is for generators alone."""
    path = resource_dir("dataset_configs") / f"{dataset}.yaml"
    if not path.is_file():
        return {}
    values = read_yaml(path)
    generative = values.pop("generative", {})
    return values | generative if spec is not None and spec.generator is not None else values


def _in_use(values: Mapping[str, Any], used: Sequence[registry.ComponentSpec]) -> dict[str, Any]:
    """``values`` without the settings of other components than ``used``: they mean nothing then.

    A model or a data set may tune its usual tokenizer, and the user may choose another one.
    """
    own = {key for component in used for key in component.keys}
    return {k: v for k, v in values.items() if k in own or not owners_of(k)}
