"""``compare``: several models on the same task, one process a run, one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid import registry, run_folder
from recbole_sid.comparison.grid_table import write_grid
from recbole_sid.comparison.plan import Plan, make_plan, with_batches
from recbole_sid.comparison.running import Ended, finished_before, finished_besides, run_all
from recbole_sid.comparison.splits import Split, check_same, data_key, read_split
from recbole_sid.comparison.table import figures
from recbole_sid.comparison.writing import write_tables
from recbole_sid.errors import InputError
from recbole_sid.files import remove_leftovers
from recbole_sid.logs import logging_run, logging_to

logger = logging.getLogger("recbole_sid")

LOG = "comparison.log"


def compare(
    models: Sequence[str] | None = None,
    dataset: str | None = None,
    *,
    tokenizers: Sequence[str] | None = None,
    generators: Sequence[str] | None = None,
    settings: str | Path | None = None,
    config_file_list: Sequence[str | Path] = (),
    config_dict: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and test several models, ours and RecBole's, on the same users, items and split.

    Runs lie in ``OUTPUT/runs/LABEL-SEED``; those that are finished are kept, a killed one of ours
    goes on, so that the same command with one more model runs that one alone. After each run the
    table is written: ``comparison.md``, ``.csv``, ``.tex``, ``.json``. With ``tokenizers`` and
    ``generators`` all their pairs are models too, called ``rqvae+tiger``, and ``grid.md``, ``.svg``
    and ``.png`` are written. A pair has the training settings of the first model registered with
    its generator (TIGER, IntRR). One whose generator cannot read the codes is not run, and the
    tables say why.

    Args:
        models: names of models, or labels of the settings file; None takes all of that file, or
            none beside a grid.
        dataset: as for :func:`recbole_sid.run`.
        tokenizers, generators: names, both or neither.
        settings: a yaml file with settings for ``all:`` and for single ``models:``. A model may
            stand under any label: ``SASRec-128: {model: SASRec, hidden_size: 128}``. ``seeds`` and
            ``trials`` (of tuning, only shown) may be set there for one of them, or ``tuned``, the
            folder of a finished search (from where the file lies): its best settings and the
            number of its trials. A pair reads those under its label, and under its names in
            ``tokenizers:`` and ``generators:``; ``model`` there is whose training settings it
            takes.
        config_file_list: yaml files with settings for all runs, below the settings file.
        config_dict: settings for all runs, above all others; ``output``, ``overwrite`` and what
            ``properties/compare.yaml`` lists (``seeds``, ``reference``, ``overwrite_models`` …) are
            among them.

    Returns:
        What ``comparison.json`` holds, and ``folder``.

    Raises:
        InputError: bad settings of any run, or models that do not see the same data; before
            anything is trained. A run that fails later is told in the table.
    """
    given = dict(config_dict or {})
    if dataset is not None:
        given["dataset"] = dataset
    show = given.pop("show_progress", True)
    plan = make_plan(models, settings, config_file_list, given, tokenizers, generators)
    with logging_run():
        splits = _splits(plan)
        split = next(iter(splits.values()))
        plan = with_batches(plan, split.counts["items"])
        ended = finished_before(plan.runs)
        _make_folder(plan)
        with run_folder.claimed(plan.folder), logging_to(plan.folder / LOG):
            # What a comparison leaves that was killed while it wrote.
            remove_leftovers(plan.folder, ["comparison.*", "grid.*"])
            remove_leftovers(plan.folder / "settings", ["*.yaml"])
            return _compare(plan, split, ended, show)


def _compare(plan: Plan, split: Split, ended: dict[str, Ended], show: bool) -> dict[str, Any]:
    logger.info(
        "%d models on %s, %d runs, %d of them finished before; the same %s test users, split %s; "
        "folder %s",
        len(plan.models),
        plan.dataset,
        len(plan.runs),
        len(ended),
        f"{split.counts['test']:,}",
        split.hashes["test"][:12],
        plan.folder,
    )
    for model in plan.models:
        if model.refused:
            logger.warning("%s is refused: %s", model.label, model.refused)
    _tell_left_out(plan)
    rest = [run for run in plan.runs if run.name not in ended]
    result = _write(plan, ended, split)
    for end in run_all(rest, plan.folder, show):
        ended[end.run.name] = end
        result = _write(plan, ended, split)
    return result | {"folder": str(plan.folder)}


def _write(plan: Plan, ended: dict[str, Ended], split: Split) -> dict[str, Any]:
    """Write all tables as far as they go; gives what they show."""
    result = figures(plan, ended, split)
    write_tables(plan.folder, result)
    if result["grid"] is not None:
        write_grid(plan.folder, result)
    return result


def _tell_left_out(plan: Plan) -> None:
    """Log the finished runs in the folder that the table leaves out, and what would add them."""
    found = finished_besides(plan)
    if not found:
        return
    named = ", ".join(f"{name} (seed {', '.join(map(str, found[name]))})" for name in found)
    arguments = arguments_for(plan, found)
    logger.warning(
        "Finished runs lie in the folder that are not in the table: %s.%s",
        named,
        f" To add them: {' '.join(arguments)}" if arguments else "",
    )


def arguments_for(plan: Plan, found: Mapping[str, Sequence[int]]) -> list[str]:
    """The arguments that bring the runs ``found``, seeds by label, into the table too."""
    names = {(spec.kind, spec.name) for spec in registry.components()}
    singles = [model.label for model in plan.models if model.pair is None]
    pairs = [(pair.tokenizer, pair.generator) for pair in plan.pairs]
    n_singles, n_pairs = len(singles), len(pairs)
    for label in found:
        tokenizer, _, generator = label.partition("+")
        if ("tokenizer", tokenizer) in names and ("generator", generator) in names:
            pairs.append((tokenizer, generator))
        else:
            singles.append(label)
    arguments = []
    if len(dict.fromkeys(singles)) > n_singles:
        arguments.append(f"--models={','.join(dict.fromkeys(singles))}")
    if len(dict.fromkeys(pairs)) > n_pairs:
        for key, column in zip(("tokenizers", "generators"), zip(*pairs, strict=True), strict=True):
            arguments.append(f"--{key}={','.join(dict.fromkeys(column))}")
    seeds = {seed for model in plan.models for seed in model.seeds}
    more = {seed for of_label in found.values() for seed in of_label}
    if more - seeds:
        arguments.append(f"--seeds={','.join(map(str, sorted(seeds | more)))}")
    return arguments


def _splits(plan: Plan) -> dict[str, Split]:
    """The data of every model, each built once; refused if they differ."""
    built: dict[str, Split] = {}
    splits: dict[str, Split] = {}
    for run in plan.runs:
        key = data_key(run.config)
        if run.label in splits:
            continue
        if key not in built:
            logger.info("The data of %s", run.label)
            try:
                built[key] = read_split(run.config)
            except InputError as error:
                raise InputError(f"model {run.label}: {error}") from error
        splits[run.label] = built[key]
    check_same(splits)
    return splits


def _make_folder(plan: Plan) -> None:
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder '{plan.folder}' cannot be made: {error}. Name another --output"
        ) from error
