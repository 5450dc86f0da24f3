"""The command line: ``python run_recbole_sid.py [command] --key=value …``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence

from recbole_sid.errors import InputError, did_you_mean
from recbole_sid.parsing import parse_command_line
from recbole_sid.resources import resource_dir

USAGE = """usage: recbole-sid [run] [--model NAME] [--dataset NAME] [--KEY VALUE …]

Trains and tests one model, ours or RecBole's, and writes everything into one folder.
Without arguments: TIGER on ml-100k, which RecBole ships.

  --model NAME          TIGER, or any model of RecBole (SASRec, BPR, …)
  --dataset NAME        a folder NAME with NAME.inter and NAME.item in --data_path
  --config_files FILES  yaml files, separated by spaces; later ones win
  --tokenizer NAME      rqkmeans, rqvae, random, file (with --sid_file)
  --collision RULE      dedup, none
  --output FOLDER       the run's folder; default runs/DATASET-MODEL-HASH
  --resume              go on with an unfinished run of the same settings
  --overwrite           run again over a folder that is finished or unfinished
  --KEY VALUE           any other setting of properties/ or of RecBole

Order of precedence: command line, config files, dataset_configs/, properties/."""


def run_command(arguments: Sequence[str]) -> None:
    """``run``: train and test one model."""
    from recbole_sid.quick_start import run

    values, _ = parse_command_line(arguments)
    files = str(values.get("config_files", "")).split()
    # The default model and dataset stand below everything that the user gives.
    defaults = str(resource_dir("properties") / "run.yaml")
    result = run(config_file_list=[defaults, *files], command_line=arguments)
    for split, key in (("valid", "best_valid_result"), ("test", "test_result")):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in (result[key] or {}).items())
        print(f"{split}: {figures or 'not measured'}")
    print(f"run folder: {result['run_folder']}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"run": run_command}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it succeeds, 2 with one line on standard error for bad input."""
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
        COMMANDS[name](rest)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0
