"""What ``--help`` prints: all commands, or the one that is asked about."""

from __future__ import annotations

from typing import NamedTuple


class Usage(NamedTuple):
    """How one command is called, and what it does."""

    call: str
    text: str


USAGE = {
    "run": Usage(
        "[run] [--model NAME] [--dataset NAME] [--KEY VALUE …]",
        """
run trains and tests one model, ours or RecBole's, and writes everything into one folder.
Without arguments: TIGER on ml-100k, which RecBole ships.

  --model NAME          TIGER, or any model of RecBole (SASRec, BPR, …)
  --dataset NAME        a folder NAME with NAME.inter and NAME.item in --data_path
  --config_files FILES  yaml files, separated by spaces; later ones win
  --tokenizer NAME      rqkmeans, rqvae, quasid, letter, mmq, opq, unisid, random, file
  --collision RULE      dedup, reassign_last, nearest_free, random_free, none
  --output FOLDER       the run's folder; default runs/DATASET-MODEL-HASH
  --resume              go on with an unfinished run of the same settings
  --overwrite           run again over a folder that is finished or unfinished
  --strict              stop when codes of the tokenizer have collapsed; without, warn
  --KEY VALUE           any other setting of properties/ or of RecBole

Order of precedence: command line, config files, dataset_configs/, properties/.
""",
    ),
    "recommend": Usage(
        "recommend --run FOLDER --histories FILE --output FILE [--k 10] …",
        """
recommend ranks the next items of any histories with a finished run of ours.

  --run FOLDER          a run's folder, or an export
  --histories FILE      .jsonl, {"user": "u1", "history": ["i1", "i2"]} a line,
                        or .tsv, u1<TAB>i1 i2 a line: raw ids, oldest first
  --output FILE         .jsonl (user, items, scores) or .tsv (user, rank, item, score)
  --k N                 length of a list; default 10
  --exclude_history     leave out what the user had; default: the run's setting
  --allowed_items FILE  the only items that lists may hold, a raw id a line
  --now TIME            seconds or 2026-01-05: only items that are there at that time
  --unknown RULE        items that the run does not know: skip (default), refuse
  --batch_size N        users that are ranked together
  --beam_size N         width of the search; default: the run's
  --overwrite           replace an output file that exists
""",
    ),
    "evaluate": Usage(
        "evaluate --run FOLDER [--topk 5,10,20] [--beam_size 50] …",
        """
evaluate scores a finished run of ours again, on validation and test, without training.

  --run FOLDER          the run's folder, which stays as it is
  --output FILE         a .json file for the result; --overwrite replaces one that exists
  --topk 5,10,20        and metrics, exclude_history, eval_batch_size, metric_decimal_place,
                        beam_size and other decoding settings of the run's generator
""",
    ),
    "export": Usage(
        "export --run FOLDER --output FOLDER",
        """
export writes all of a finished run that recommending and appending need into one folder of
safetensors and JSON, which recommend and append take in place of the run's, without the data.

  --run FOLDER          the run's folder
  --output FOLDER       a new folder; --overwrite replaces an export that lies there
""",
    ),
    "vectors": Usage(
        "vectors --run FOLDER --output DATA/beauty/beauty.unisid",
        """
vectors writes the dense item vectors that a tokenizer made (unisid) as a file of RecBole, for its
models and yours, and prints the settings that read it. Read it with the run's own data settings.

  --run FOLDER          a folder of run or tokenize
  --output FILE         in the data set's folder: its name, with an ending of its own
  --overwrite           replace a file that exists
""",
    ),
    "append": Usage(
        "append --run FOLDER --items FILE --output FOLDER",
        """
append gives new items their SIDs without moving any old one, and writes an export that recommends
them at once; append_report.json in it says how full the codes are.

  --run FOLDER          a run's folder, or an export; it stays as it is
  --items FILE          an .item file with the columns that the tokenizer read
  --known RULE          items that the run knows: refuse (default), skip
  --item_embedding_file, --item_image_file FILE  of the new items, where the run had such files
  --output FOLDER       a new folder; --overwrite replaces an export that lies there
""",
    ),
    "tokenize": Usage(
        "tokenize [--dataset NAME] [--tokenizer NAME] [--held_out_share 0.2] …",
        """
tokenize makes semantic IDs without training a model on them, and measures them. Data and settings
as for run; its own are those of properties/measures.yaml.

  --tokenizer NAME      as for run; --model NAME brings that model's, with its settings
  --held_out_share X    share of the items that are kept from the tokenizer, and measured on
  --retrieval false     leaves retrieval by dense vectors out
  --output FOLDER       default runs/DATASET-TOKENIZER-HASH; --overwrite as for run
""",
    ),
    "sids": Usage(
        "sids --dataset NAME --sids FILE_OR_FOLDER,… [--labels A,B] [--KEY VALUE …]",
        """
sids measures semantic IDs that exist, side by side, and writes sid_report.md, .csv and .json. Data
and settings as for run; its own are those of properties/sids.yaml.

  --sids A,B            SID files, ours or published ones, or folders of run or tokenize
  --labels A,B          their names; default: those of the files and folders
  --scores FILE         yaml, LABEL: score of a recommender; default: those of the runs, where
                        they are runs, all of one generator; which figures go with them is said
                        from 4 sets on
  --output FOLDER       default runs/DATASET-sids; --overwrite replaces a report that lies there
  --unknown RULE        sets that lack items, or have others: refuse (default), or ignore such items
""",
    ),
    "summarize": Usage(
        "summarize --dataset NAME --output FILE [--summary_model FOLDER] …",
        """
summarize writes the .item file of a data set with one more column, a sentence on every item.

  --output FILE         an .item file; --overwrite replaces one that exists
  --summary_model FOLDER  a causal language model; default: a template
  --summary_batch_size, --summary_max_tokens, --summary_prompt  for that model
  --KEY VALUE           the columns: item_category_field, item_industry_field, item_summary_field
                        (the new one; default summary), item_summary_brand …
""",
    ),
    "prepare": Usage(
        "prepare --mapping FILE --output FOLDER [--name NAME] [--strict]",
        """
prepare writes the files of a data set, FOLDER/NAME/NAME.inter and so on, from your own files.

  --mapping FILE        a yaml file that says which columns mean what, such as
                        dataset_configs/ad_mapping.yaml
  --preset NAME         in its place: amazon-2014, amazon-2018 or amazon-2023, with --reviews FILE
                        and --meta FILE, or taobao, with --folder FOLDER of raw_sample, ad_feature
  --output FOLDER       what a run calls data_path; --overwrite replaces files that exist
  --name NAME           the data set; default: the mapping's, the Amazon category, or taobao
  --strict              refuse bad rows; without, they are counted and written to a file
  --memory_limit 1GB    what is held in memory; the rest goes to --temp_folder
""",
    ),
    "make-ads": Usage(
        "make-ads --output FOLDER [--items 60000] [--events 1000000] …",
        """
make-ads writes a world of synthetic ads: a feed, a log, a mapping for prepare, and the truth.

  --output FOLDER       a new folder; --overwrite replaces a world that lies there
  --items, --users, --events, --days  how many; --seed 2020
  --image_dimensions 64  also vectors like those of images; default: none
""",
    ),
    "compare": Usage(
        "compare --models NAME,NAME,… --dataset NAME [--seeds 3] [--KEY VALUE …]",
        """
compare trains and tests several models on the same users, items and split, one process a run, and
writes comparison.md, .csv, .tex and .json. The same command goes on; finished runs are kept.

  --models A,B,C        names of models, or labels of the settings file; default: all of that file
  --tokenizers A,B      with --generators C,D: all pairs, A+C, A+D, …, beside --models or alone;
                        also writes grid.md, .svg and .png
  --settings FILE       yaml: settings for all: and for single models: {LABEL: {model: NAME, …}},
                        tokenizers: and generators: of the pairs; {tuned: FOLDER} in a model takes
                        the best settings of a finished tune
  --seeds 3             how many, or which: 2020,2021
  --reference NAME      a model that all others are tested against, besides the best
  --output FOLDER       default comparisons/DATASET-HASH; --overwrite runs all again,
                        --overwrite_models A,B these alone
  --KEY VALUE           for all runs; and the settings of properties/compare.yaml
""",
    ),
    "tune": Usage(
        "tune [--model NAME] [--dataset NAME] [--space FILE] [--KEY VALUE …]",
        """
tune searches for the settings that validate best, and writes trials.md, .csv, result.json and
best.yaml, which run takes as --config_files. The same command goes on with a search that stopped.

  --space FILE          keys and values, RecBole's format or yaml; default: the model's in
                        properties/hyper/
  --algo NAME           bayes (default), random, exhaustive; --max_trials 20
  --engine NAME         recbole (default: its HyperTuning), ray (stops bad trials early)
  --output FOLDER       default tunings/DATASET-MODEL-HASH; --overwrite starts anew
  --KEY VALUE           for all trials; and the settings of properties/tune.yaml
""",
    ),
    "report": Usage(
        "report FOLDER … --output FILE.html [--figures FOLDER] [--overwrite]",
        """
report writes one page, which needs no network, from folders of run, compare, tune, tokenize and
sids: tables, curves, plots, the items behind every SID, what was recommended to some test users.

  FOLDER …              one or more, before all options
  --output FILE         an .html file; --overwrite replaces what exists
  --figures FOLDER      the plots also as .svg and .png
  --image_bytes 3000000  thumbnails of the items, at most so many bytes; 0: none
""",
    ),
}


def usage(command: str | None = None) -> str:
    """The help of one command, or of all."""
    shown = USAGE if command is None else {command: USAGE[command]}
    calls = "\n       ".join(f"recbole-sid {each.call}" for each in shown.values())
    return "\n\n".join([f"usage: {calls}", *(each.text.strip("\n") for each in shown.values())])
