"""The commands on finished runs: recommend, export, append, vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from recbole_sid.commands.arguments import checked_arguments
from recbole_sid.errors import InputError

_EXPORT = ("run", "output", "overwrite")
_VECTORS = ("run", "output", "overwrite")
_APPEND = (
    *("run", "items", "output", "known", "overwrite", "cache_dir", "show_progress"),
    *("item_embedding_file", "item_embedding_ids", "item_image_file", "item_image_ids"),
    *("most_moved", "most_drift", "most_appended", "most_filled"),
)
_RECOMMEND = (
    *("run", "histories", "output"),
    *("k", "unknown", "exclude_history", "allowed_items", "now", "batch_size", "beam_size"),
    *("overwrite", "show_progress"),
)


def recommend_command(arguments: Sequence[str]) -> None:
    """``recommend``: from a file of histories to a file of lists."""
    from recbole_sid.histories import check_output, check_users, read_histories, write_lists
    from recbole_sid.inference import recommend
    from recbole_sid.logs import logging_run

    values = checked_arguments("recommend", arguments, _RECOMMEND, ("run", "histories", "output"))
    folder, source = values.pop("run"), values.pop("histories")
    overwrite = values.pop("overwrite", False)
    output = check_output(values.pop("output"), overwrite=overwrite, kept=[source])
    histories = read_histories(source)
    check_users(histories, output)
    with logging_run():
        lists = recommend(folder, histories, **values)
    write_lists(output, lists)
    print(f"{len(lists):,} lists in {output}")


def export_command(arguments: Sequence[str]) -> None:
    """``export``: all of a run that recommends, in one folder."""
    from recbole_sid.logs import logging_run
    from recbole_sid.serving.export import export

    values = checked_arguments("export", arguments, _EXPORT, ("run", "output"))
    with logging_run():
        print(f"folder: {export(**values)}")


def append_command(arguments: Sequence[str]) -> None:
    """``append``: SIDs for new items, by a run that goes on unchanged."""
    from recbole_sid.logs import logging_run
    from recbole_sid.serving.append import append

    values = checked_arguments("append", arguments, _APPEND, ("run", "items", "output"))
    with logging_run():
        report = append(**values | {"items": str(values["items"])})
    print(f"items: {report['items_before']:,}, now {report['items_after']:,}")
    print("; ".join(report["retokenize"]) or "no need to tokenize again")
    print(f"folder: {values['output']}")


def vectors_command(arguments: Sequence[str]) -> None:
    """``vectors``: a tokenizer's dense item vectors as a file of RecBole."""
    from recbole_sid.items.atomic_vectors import write_atomic_vectors
    from recbole_sid.items.vectors import stored_vectors
    from recbole_sid.run_folder import EMBEDDINGS

    values = checked_arguments("vectors", arguments, _VECTORS, ("run", "output"))
    file = Path(values["run"]) / EMBEDDINGS
    if not file.is_file():
        raise InputError(
            f"'{values['run']}' has no {EMBEDDINGS}: name a folder of run or tokenize, of a "
            "tokenizer that makes dense vectors (unisid)"
        )
    tokens, vectors = stored_vectors(file)
    overwrite = values.get("overwrite", False)
    settings = write_atomic_vectors(values["output"], vectors, tokens, overwrite)
    print(f"{len(tokens):,} vectors of {vectors.shape[1]} dimensions in {values['output']}")
    print("RecBole reads them by these settings, beside your other load_col:")
    print(yaml.safe_dump(settings, sort_keys=False).rstrip())
