"""The command ``summarize``: a data set's item file with a column of written summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.histories import check_output
from recbole_sid.items.summaries import SummarySettings, write_summaries
from recbole_sid.items.table import ItemFields
from recbole_sid.settings import build

# Arguments of write_summaries by the names that they have here.
_OF_THE_MODEL = {
    "summary_batch_size": "batch_size",
    "summary_max_tokens": "max_tokens",
    "summary_prompt": "prompt",
}
_TYPES = {"summary_batch_size": int, "summary_max_tokens": int, "summary_prompt": str}


def summarize(
    output: str | Path,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    summary_model: str | Path | None = None,
    overwrite: bool = False,
    **of_the_model: Any,
) -> int:
    """Write the data set's ``.item`` file with one more column, a sentence on every item.

    The column is ``item_summary_field``, else ``summary``; it is written from the columns of
    category and industry, and of the brand with ``item_summary_brand``. See
    :func:`.write_summaries`, also on how it goes on after it was killed.

    Args:
        output: a file that ends in ``.item``; the data set's own is possible, with ``overwrite``.
        config_file_list, config_dict: settings, as for :func:`recbole_sid.run`; they name a model
            of ours and the data set.
        summary_model: folder of a causal language model; None writes by the template.
        overwrite: whether a file that exists may be replaced.
        of_the_model: ``summary_batch_size``, ``summary_max_tokens`` and ``summary_prompt``, for
            the language model only.

    Returns:
        How many items got a summary.

    Raises:
        InputError: bad settings, a malformed item file or a model that cannot be loaded.
    """
    output = check_output(output, (".item",), overwrite)
    _check_arguments(summary_model, of_the_model)
    config = Config(
        config_file_list=list(config_file_list or ()), config_dict=config_dict, stage_1=False
    )
    if config.model_spec is None:
        raise InputError(
            f"summarize reads the settings of our models, but '{config['model']}' is RecBole's: "
            "leave --model out"
        )
    values = config.final_config_dict
    return write_summaries(
        Path(config["data_path"]) / f"{config['dataset']}.item",
        output,
        build(ItemFields, values),
        build(SummarySettings, values),
        summary_model,
        id_field=config["ITEM_ID_FIELD"],
        separator=config["field_separator"],
        device=config["device"],
        progress=bool(config["show_progress"]),
        **{_OF_THE_MODEL[key]: value for key, value in of_the_model.items()},
    )


def _check_arguments(summary_model: Any, of_the_model: Mapping[str, Any]) -> None:
    for key, value in of_the_model.items():
        if summary_model is None:
            raise InputError(f"--{key} is for a language model: name its folder, --summary_model")
        if type(value) is not _TYPES[key]:
            kind = "a whole number" if _TYPES[key] is int else "text"
            raise InputError(f"--{key} is {value!r}, but must be {kind}")
