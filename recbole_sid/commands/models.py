"""The commands that train and measure: run, evaluate, tokenize, compare, tune."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_sid.commands.arguments import checked_arguments, config_files, line, print_figures
from recbole_sid.parsing import parse_command_line, parse_value


def run_command(arguments: Sequence[str]) -> None:
    """``run``: train and test one model."""
    from recbole_sid.quick_start import run

    values, _ = parse_command_line(arguments)
    result = run(config_file_list=config_files(values), command_line=arguments)
    print_figures(result["best_valid_result"], result["test_result"])
    print(f"run folder: {result['run_folder']}")


def evaluate_command(arguments: Sequence[str]) -> None:
    """``evaluate``: print the figures of a finished run under other settings."""
    from recbole_sid import distributed, run_folder
    from recbole_sid.histories import check_output
    from recbole_sid.inference import evaluate
    from recbole_sid.logs import logging_run

    values = checked_arguments("evaluate", arguments, None, ("run",))
    folder, output = values.pop("run"), values.pop("output", None)
    overwrite = values.pop("overwrite", False)
    if output is not None:
        own = (run_folder.SIDS, run_folder.RESULT, run_folder.TIMING)
        output = check_output(output, (".json",), overwrite, [Path(folder) / name for name in own])
    for key in ("topk", "metrics"):
        if isinstance(values.get(key), str) and "," in values[key]:
            values[key] = [parse_value(part.strip()) for part in values[key].split(",")]
    with logging_run():
        result = evaluate(folder, **values)
    print_figures(result["valid_result"], result["test_result"])
    if output is not None and distributed.current().leads:
        run_folder.write_json(output, result)
        print(f"result: {output}")


def tokenize_command(arguments: Sequence[str]) -> None:
    """``tokenize``: SIDs of a data set, and what they are worth by themselves."""
    from recbole_sid.tokenizing import tokenize

    values, _ = parse_command_line(arguments)
    result = tokenize(config_file_list=config_files(values), command_line=arguments)
    shown = ("collision_rate", "distinct_ratio", "perplexity")
    print(line("sids", {k: v for k, v in result["quality"].items() if k.startswith(shown)}))
    agreement, found = result["v_measure"], result["retrieval"]
    if agreement is not None:
        # Codes of no meaning reach a high V-measure if there are many; the other is 0 for them.
        for measure in ("v_measure", "adjusted_mutual_information"):
            figures = {k: v for k, v in agreement.items() if k.startswith(measure)}
            print(line(agreement["measured_on"], figures))
    for name in ("embeddings", "item_vectors"):
        if found is not None and name in found:
            recalls = {k: v for k, v in found[name].items() if k.startswith("recall")}
            print(line(f"retrieval by {name}", recalls))
    print(f"folder: {result['run_folder']}")


def compare_command(arguments: Sequence[str]) -> int:
    """``compare``: several models, one table; 1 if a run failed."""
    from recbole_sid.comparison.compare import compare

    values = checked_arguments("compare", arguments, None, ())
    result = compare(
        _names(values.pop("models", None)),
        tokenizers=_names(values.pop("tokenizers", None)),
        generators=_names(values.pop("generators", None)),
        settings=values.pop("settings", None),
        config_file_list=str(values.pop("config_files", "")).split(),
        config_dict=values,
    )
    print(Path(result["folder"], "comparison.md").read_text(encoding="utf-8"))
    print(f"folder: {result['folder']}")
    runs = [run for row in result["models"] for run in row["runs"]]
    return int(any(run["state"] == "failed" for run in runs))


def _names(value: Any) -> list[str] | None:
    return None if value is None else [name.strip() for name in str(value).split(",")]


def tune_command(arguments: Sequence[str]) -> None:
    """``tune``: the settings that validate best."""
    from recbole_sid.tuning.tune import tune

    values = checked_arguments("tune", arguments, None, ())
    files, space = config_files(values), values.pop("space", None)
    values.pop("config_files", None)
    result = tune(space=space, config_file_list=files, config_dict=values)
    print(Path(result["folder"], "trials.md").read_text(encoding="utf-8"))
    print(f"folder: {result['folder']}")
