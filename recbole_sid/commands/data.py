"""The commands on files of data and of results: prepare, make-ads, summarize, sids, report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from recbole_sid.commands.arguments import checked_arguments, config_files

_SUMMARIZE = (
    *("output", "overwrite", "summary_model"),
    *("summary_batch_size", "summary_max_tokens", "summary_prompt"),
)
_MAKE_ADS = (
    *("output", "items", "users", "events", "days", "seed", "image_dimensions"),
    *("overwrite", "progress"),
)
_PREPARE = (
    *("output", "mapping", "preset", "reviews", "meta", "folder", "name"),
    *("strict", "overwrite", "memory_limit", "temp_folder"),
)


def prepare_command(arguments: Sequence[str]) -> None:
    """``prepare``: from any item table and event log to RecBole's files."""
    from recbole_sid.logs import logging_run
    from recbole_sid.preparing import prepare

    values = checked_arguments("prepare", arguments, _PREPARE, ("output",))
    values |= {key: str(values[key]) for key in ("name", "memory_limit") if key in values}
    with logging_run():
        report = prepare(**values)
    for key in ("users", "items_with_interactions", "interactions", "positive"):
        if key in report["result"]:  # positive, where labels were asked for
            print(f"{key.replace('_', ' ')}: {report['result'][key]:,}")
    print(f"folder: {report['folder']}")


def make_ads_command(arguments: Sequence[str]) -> None:
    """``make-ads``: a world of synthetic ads."""
    from recbole_sid.ads.world import make_ads
    from recbole_sid.logs import logging_run

    values = checked_arguments("make-ads", arguments, _MAKE_ADS, ("output",))
    with logging_run():
        result = make_ads(**values)
    counts = result["counts"]
    print(f"synthetic ads: {counts['ads']:,}, events: {counts['events']:,}")
    print(f"folder: {result['folder']}")


def summarize_command(arguments: Sequence[str]) -> None:
    """``summarize``: an item file with a column of summaries."""
    from recbole_sid.logs import logging_run
    from recbole_sid.summarizing import summarize

    values = checked_arguments("summarize", arguments, None, ("dataset", "output"))
    own = {key: values.pop(key) for key in _SUMMARIZE if key in values}
    files = config_files(values)
    values.pop("config_files", None)
    with logging_run():
        n_written = summarize(config_file_list=files, config_dict=values, **own)
    print(f"{n_written:,} items with a summary in {own['output']}")


def sids_command(arguments: Sequence[str]) -> None:
    """``sids``: sets of SIDs side by side."""
    from recbole_sid.logs import logging_run
    from recbole_sid.sid_report import compare_sids

    values = checked_arguments("sids", arguments, None, ("dataset", "sids"))
    names = ("output", "unknown", "overwrite", "scores")
    own: dict[str, Any] = {key: values.pop(key) for key in names if key in values}
    for key in ("sids", "labels"):
        if key in values:
            own[key] = [part.strip() for part in str(values.pop(key)).split(",")]
    files = config_files(values)
    values.pop("config_files", None)
    with logging_run():
        result = compare_sids(config_file_list=files, config_dict=values, **own)
    print(Path(result["folder"], "sid_report.md").read_text(encoding="utf-8"))
    print(f"folder: {result['folder']}")


def report_command(arguments: Sequence[str]) -> None:
    """``report``: one page from the folders of finished work."""
    from recbole_sid.logs import logging_run
    from recbole_sid.page.report import report

    folders = list(takewhile(lambda word: not word.startswith("--"), arguments))
    known = ("output", "figures", "image_bytes", "overwrite")
    values = checked_arguments("report", arguments[len(folders) :], known, ("output",))
    with logging_run():
        result = report(folders, **values)
    print(f"page: {result['output']}, {result['bytes']:,} bytes")
