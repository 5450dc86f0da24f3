"""The command line: ``python run_recbole_sid.py [command] --key=value …``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import parse_command_line, parse_value
from recbole_sid.resources import resource_dir

USAGE = """usage: recbole-sid [run] [--model NAME] [--dataset NAME] [--KEY VALUE …]
       recbole-sid recommend --run FOLDER --histories FILE --output FILE [--k 10] …
       recbole-sid evaluate --run FOLDER [--topk 5,10,20] [--beam_size 50] …
       recbole-sid tokenize [--dataset NAME] [--tokenizer NAME] [--held_out_share 0.2] …
       recbole-sid sids --dataset NAME --sids FILE_OR_FOLDER,… [--labels A,B] [--KEY VALUE …]
       recbole-sid summarize --dataset NAME --output FILE [--summary_model FOLDER] …
       recbole-sid prepare --mapping FILE --output FOLDER [--name NAME] [--strict]
       recbole-sid compare --models NAME,NAME,… --dataset NAME [--seeds 3] [--KEY VALUE …]
       recbole-sid tune [--model NAME] [--dataset NAME] [--space FILE] [--KEY VALUE …]
       recbole-sid report FOLDER … --output FILE.html [--figures FOLDER] [--overwrite]

run trains and tests one model, ours or RecBole's, and writes everything into one folder.
Without arguments: TIGER on ml-100k, which RecBole ships.

  --model NAME          TIGER, or any model of RecBole (SASRec, BPR, …)
  --dataset NAME        a folder NAME with NAME.inter and NAME.item in --data_path
  --config_files FILES  yaml files, separated by spaces; later ones win
  --tokenizer NAME      rqkmeans, rqvae, random, file (with --sid_file)
  --collision RULE      dedup, reassign_last, nearest_free, none
  --output FOLDER       the run's folder; default runs/DATASET-MODEL-HASH
  --resume              go on with an unfinished run of the same settings
  --overwrite           run again over a folder that is finished or unfinished
  --KEY VALUE           any other setting of properties/ or of RecBole

Order of precedence: command line, config files, dataset_configs/, properties/.

recommend ranks the next items of any histories with a finished run of ours.

  --run FOLDER          the run's folder
  --histories FILE      .jsonl, {"user": "u1", "history": ["i1", "i2"]} a line,
                        or .tsv, u1<TAB>i1 i2 a line: raw ids, oldest first
  --output FILE         .jsonl (user, items, scores) or .tsv (user, rank, item, score)
  --k N                 length of a list; default 10
  --exclude_history     leave out what the user had; default: the run's setting
  --unknown RULE        items that the run does not know: skip (default), refuse
  --batch_size N        users that are ranked together
  --beam_size N         width of the search; default: the run's
  --overwrite           replace an output file that exists

evaluate scores a finished run of ours again, on validation and test, without training.

  --run FOLDER          the run's folder, which stays as it is
  --output FILE         a .json file for the result; --overwrite replaces one that exists
  --topk 5,10,20        and metrics, exclude_history, eval_batch_size, metric_decimal_place,
                        beam_size and other decoding settings of the run's generator

tokenize makes semantic IDs without training a model on them, and measures them. Data and settings
as for run; its own are those of properties/measures.yaml.

  --tokenizer NAME      as for run; --model NAME brings that model's, with its settings
  --held_out_share X    share of the items that are kept from the tokenizer, and measured on
  --retrieval false     leaves retrieval by dense vectors out
  --output FOLDER       default runs/DATASET-TOKENIZER-HASH; --overwrite as for run

sids measures semantic IDs that exist, side by side, and writes sid_report.md, .csv and .json. Data
and settings as for run; its own are those of properties/sids.yaml.

  --sids A,B            SID files, ours or published ones, or folders of run or tokenize
  --labels A,B          their names; default: those of the files and folders
  --output FOLDER       default runs/DATASET-sids; --overwrite replaces a report that lies there
  --unknown RULE        sets that lack items, or have others: refuse (default), or ignore such items

summarize writes the .item file of a data set with one more column, a sentence on every item.

  --output FILE         an .item file; --overwrite replaces one that exists
  --summary_model FOLDER  a causal language model; default: a template
  --summary_batch_size, --summary_max_tokens, --summary_prompt  for that model
  --KEY VALUE           the columns: item_category_field, item_industry_field, item_summary_field
                        (the new one; default summary), item_summary_brand …

prepare writes the files of a data set, FOLDER/NAME/NAME.inter and so on, from your own files.

  --mapping FILE        a yaml file that says which columns mean what, such as
                        dataset_configs/ad_mapping.yaml
  --preset NAME         in its place: amazon-2014, amazon-2018 or amazon-2023, with --reviews FILE
                        and --meta FILE, or taobao, with --folder FOLDER of raw_sample, ad_feature
  --output FOLDER       what a run calls data_path; --overwrite replaces files that exist
  --name NAME           the data set; default: the mapping's, the Amazon category, or taobao
  --strict              refuse bad rows; without, they are counted and written to a file
  --memory_limit 1GB    what is held in memory; the rest goes to --temp_folder

compare trains and tests several models on the same users, items and split, one process a run, and
writes comparison.md, .csv, .tex and .json. The same command goes on; finished runs are kept.

  --models A,B,C        names of models, or labels of the settings file; default: all of that file
  --settings FILE       yaml: settings for all: and for single models: {LABEL: {model: NAME, …}}
  --seeds 3             how many, or which: 2020,2021
  --reference NAME      a model that all others are tested against, besides the best
  --output FOLDER       default comparisons/DATASET-HASH; --overwrite runs all again
  --KEY VALUE           for all runs; and the settings of properties/compare.yaml

tune searches for the settings that validate best, and writes trials.md, .csv, result.json and
best.yaml, which run takes as --config_files. The same command goes on with a search that stopped.

  --space FILE          keys and values, RecBole's format or yaml; default: the model's in
                        properties/hyper/
  --algo NAME           bayes (default), random, exhaustive; --max_trials 20
  --engine NAME         recbole (default: its HyperTuning), ray (stops bad trials early)
  --output FOLDER       default tunings/DATASET-MODEL-HASH; --overwrite starts anew
  --KEY VALUE           for all trials; and the settings of properties/tune.yaml

report writes one page, which needs no network, from folders of run, compare, tokenize and sids:
tables, curves, plots, the items behind every SID, and what was recommended to some test users.

  FOLDER …              one or more, before all options
  --output FILE         an .html file; --overwrite replaces what exists
  --figures FOLDER      the plots also as .svg and .png"""


def run_command(arguments: Sequence[str]) -> None:
    """``run``: train and test one model."""
    from recbole_sid.quick_start import run

    values, _ = parse_command_line(arguments)
    result = run(config_file_list=_config_files(values), command_line=arguments)
    _print_figures(result["best_valid_result"], result["test_result"])
    print(f"run folder: {result['run_folder']}")


def recommend_command(arguments: Sequence[str]) -> None:
    """``recommend``: from a file of histories to a file of lists."""
    from recbole_sid.histories import check_output, check_users, read_histories, write_lists
    from recbole_sid.inference import recommend
    from recbole_sid.logs import logging_run

    values = _arguments("recommend", arguments, _RECOMMEND, ("run", "histories", "output"))
    folder, source = values.pop("run"), values.pop("histories")
    overwrite = values.pop("overwrite", False)
    output = check_output(values.pop("output"), overwrite=overwrite, kept=[source])
    histories = read_histories(source)
    check_users(histories, output)
    with logging_run():
        lists = recommend(folder, histories, **values)
    write_lists(output, lists)
    print(f"{len(lists):,} lists in {output}")


def evaluate_command(arguments: Sequence[str]) -> None:
    """``evaluate``: print the figures of a finished run under other settings."""
    from recbole_sid import run_folder
    from recbole_sid.histories import check_output
    from recbole_sid.inference import evaluate
    from recbole_sid.logs import logging_run

    values = _arguments("evaluate", arguments, None, ("run",))
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
    _print_figures(result["valid_result"], result["test_result"])
    if output is not None:
        run_folder.write_json(output, result)
        print(f"result: {output}")


def tokenize_command(arguments: Sequence[str]) -> None:
    """``tokenize``: SIDs of a data set, and what they are worth by themselves."""
    from recbole_sid.tokenizing import tokenize

    values, _ = parse_command_line(arguments)
    result = tokenize(config_file_list=_config_files(values), command_line=arguments)
    shown = ("collision_rate", "distinct_ratio", "perplexity")
    print(_line("sids", {k: v for k, v in result["quality"].items() if k.startswith(shown)}))
    agreement, found = result["v_measure"], result["retrieval"]
    if agreement is not None:
        # Codes of no meaning reach a high V-measure if there are many; the other is 0 for them.
        for measure in ("v_measure", "adjusted_mutual_information"):
            figures = {k: v for k, v in agreement.items() if k.startswith(measure)}
            print(_line(agreement["measured_on"], figures))
    for name in ("embeddings", "item_vectors"):
        if found is not None and name in found:
            recalls = {k: v for k, v in found[name].items() if k.startswith("recall")}
            print(_line(f"retrieval by {name}", recalls))
    print(f"folder: {result['run_folder']}")


def sids_command(arguments: Sequence[str]) -> None:
    """``sids``: sets of SIDs side by side."""
    from recbole_sid.logs import logging_run
    from recbole_sid.sid_report import compare_sids

    values = _arguments("sids", arguments, None, ("dataset", "sids"))
    names = ("output", "unknown", "overwrite")
    own: dict[str, Any] = {key: values.pop(key) for key in names if key in values}
    for key in ("sids", "labels"):
        if key in values:
            own[key] = [part.strip() for part in str(values.pop(key)).split(",")]
    files = _config_files(values)
    values.pop("config_files", None)
    with logging_run():
        result = compare_sids(config_file_list=files, config_dict=values, **own)
    print(Path(result["folder"], "sid_report.md").read_text(encoding="utf-8"))
    print(f"folder: {result['folder']}")


def summarize_command(arguments: Sequence[str]) -> None:
    """``summarize``: an item file with a column of summaries."""
    from recbole_sid.logs import logging_run
    from recbole_sid.summarizing import summarize

    values = _arguments("summarize", arguments, None, ("dataset", "output"))
    own = {key: values.pop(key) for key in _SUMMARIZE if key in values}
    files = _config_files(values)
    values.pop("config_files", None)
    with logging_run():
        n_written = summarize(config_file_list=files, config_dict=values, **own)
    print(f"{n_written:,} items with a summary in {own['output']}")


def prepare_command(arguments: Sequence[str]) -> None:
    """``prepare``: from any item table and event log to RecBole's files."""
    from recbole_sid.logs import logging_run
    from recbole_sid.preparing import prepare

    values = _arguments("prepare", arguments, _PREPARE, ("output",))
    values |= {key: str(values[key]) for key in ("name", "memory_limit") if key in values}
    with logging_run():
        report = prepare(**values)
    for key in ("users", "items_with_interactions", "interactions"):
        print(f"{key.replace('_', ' ')}: {report['result'][key]:,}")
    print(f"folder: {report['folder']}")


def compare_command(arguments: Sequence[str]) -> int:
    """``compare``: several models, one table; 1 if a run failed."""
    from recbole_sid.comparison.compare import compare

    values = _arguments("compare", arguments, None, ())
    models, files = values.pop("models", None), values.pop("config_files", "")
    names = None if models is None else [name.strip() for name in str(models).split(",")]
    settings = values.pop("settings", None)
    result = compare(
        names, settings=settings, config_file_list=str(files).split(), config_dict=values
    )
    print(Path(result["folder"], "comparison.md").read_text(encoding="utf-8"))
    print(f"folder: {result['folder']}")
    runs = [run for row in result["models"] for run in row["runs"]]
    return int(any(run["state"] == "failed" for run in runs))


def tune_command(arguments: Sequence[str]) -> None:
    """``tune``: the settings that validate best."""
    from recbole_sid.tuning.tune import tune

    values = _arguments("tune", arguments, None, ())
    files, space = _config_files(values), values.pop("space", None)
    values.pop("config_files", None)
    result = tune(space=space, config_file_list=files, config_dict=values)
    print(Path(result["folder"], "trials.md").read_text(encoding="utf-8"))
    print(f"folder: {result['folder']}")


def report_command(arguments: Sequence[str]) -> None:
    """``report``: one page from the folders of finished work."""
    from recbole_sid.logs import logging_run
    from recbole_sid.page.report import report

    folders = list(takewhile(lambda word: not word.startswith("--"), arguments))
    known = ("output", "figures", "overwrite")
    values = _arguments("report", arguments[len(folders) :], known, ("output",))
    with logging_run():
        result = report(folders, **values)
    print(f"page: {result['output']}, {result['bytes']:,} bytes")


def _config_files(values: Mapping[str, Any]) -> list[str]:
    """The user's files above the default model and dataset."""
    defaults = str(resource_dir("properties") / "run.yaml")
    return [defaults, *str(values.get("config_files", "")).split()]


def _line(name: str, figures: Mapping[str, float]) -> str:
    return f"{name}: " + "  ".join(f"{key} {value:.4f}" for key, value in figures.items())


def _print_figures(valid: Mapping[str, float] | None, test: Mapping[str, float] | None) -> None:
    for split, result in (("valid", valid), ("test", test)):
        print(_line(split, result) if result else f"{split}: not measured")


def _arguments(
    command: str, arguments: Sequence[str], known: Sequence[str] | None, needed: Sequence[str]
) -> dict[str, Any]:
    """The arguments of a command, parsed and checked.

    Args:
        known: all of them; None leaves unknown ones to whom they are given to.
        needed: those that must be given.
    """
    values, alone = parse_command_line(arguments)
    for key in values:
        if known is not None and key not in known:
            raise InputError(
                f"unknown argument --{key} of {command}.{did_you_mean(key, known)} Known: "
                f"{', '.join(known)}"
            )
    for key in needed:
        if key not in values:
            raise InputError(f"{command} needs --{key}; see --help")
    for key in alone:
        if key not in _FLAGS:
            raise InputError(f"argument '{key}' needs a value: --{key}=VALUE")
    for key in _PATHS:
        if key in values and not isinstance(values[key], str):
            raise InputError(f"--{key} is {values[key]!r}, not a name: write it as ./NAME")
    for key in ("overwrite", "strict"):
        if not isinstance(values.get(key, False), bool):
            raise InputError(f"--{key} is {values[key]!r}, but must be true or false")
    return values


_PATHS = (
    *("run", "histories", "output", "summary_model"),
    *("mapping", "preset", "reviews", "meta", "folder", "temp_folder", "settings", "sids"),
    *("space", "figures"),
)
_FLAGS = (
    *("overwrite", "exclude_history", "show_progress", "item_summary_brand", "strict"),
    "report_vectors",
)
_RECOMMEND = (
    *("run", "histories", "output"),
    *("k", "unknown", "exclude_history", "batch_size", "beam_size", "overwrite", "show_progress"),
)
_SUMMARIZE = (
    *("output", "overwrite", "summary_model"),
    *("summary_batch_size", "summary_max_tokens", "summary_prompt"),
)
_PREPARE = (
    *("output", "mapping", "preset", "reviews", "meta", "folder", "name"),
    *("strict", "overwrite", "memory_limit", "temp_folder"),
)
COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "run": run_command,
    "recommend": recommend_command,
    "evaluate": evaluate_command,
    "tokenize": tokenize_command,
    "sids": sids_command,
    "summarize": summarize_command,
    "prepare": prepare_command,
    "compare": compare_command,
    "tune": tune_command,
    "report": report_command,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it succeeds, 1 when runs of a comparison failed, 2 with one line on standard error
        for bad input.
    """
    rest = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in rest or "-h" in rest:
        print(USAGE)
        return 0
    # RecBole 1.2.1 meets these on every run with the pandas and setuptools that it needs.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    name = rest.pop(0) if rest and not rest[0].startswith("-") else "run"
    try:
        if name not in COMMANDS:
            raise InputError(
                f"unknown command '{name}'. Known: {', '.join(COMMANDS)}."
                + did_you_mean(name, COMMANDS)
            )
        return COMMANDS[name](rest) or 0
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
