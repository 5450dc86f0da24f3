"""Titles and categories of the items on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import recbole

from recbole_sid import run_folder
from recbole_sid.errors import InputError
from recbole_sid.items.images import SEPARATOR, ImageSettings
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.page.sources import Run, spelled
from recbole_sid.parsing import read_yaml
from recbole_sid.resources import resource_dir
from recbole_sid.settings import build

TITLE_LETTERS = 80


@dataclass(frozen=True)
class Catalogue:
    """What a person knows the items of a data set by.

    ``titles``: by raw id, at most 80 letters. ``categories``: by raw id, the path from the root,
    names joined by " > "; empty where there is none. ``images``: by raw id, the first image file
    of an item that names one, which need not exist. ``missing``: why there are no titles, or None.
    """

    titles: Mapping[str, str]
    categories: Mapping[str, str]
    images: Mapping[str, Path]
    missing: str | None


def read_catalogue(runs: Sequence[Run]) -> Catalogue:
    """From the ``.item`` file of the data set that all of ``runs`` were made on.

    The file must be the one that they read: its data set is hashed again. Without it, items are
    known by their ids alone, and ``missing`` says so.
    """
    missing = None
    for run in runs:
        try:
            return _read(run)
        except InputError as error:
            missing = missing or f"{spelled(str(error))}; items are shown by their ids"
    return Catalogue({}, {}, {}, missing)


def _read(run: Run) -> Catalogue:
    # A run of a RecBole model keeps only those of our settings that somebody gave.
    values: dict[str, Any] = {"additional_feat_suffix": None}
    for name in ("items", "schema"):
        values |= read_yaml(resource_dir("properties") / f"{name}.yaml")
    values |= run.config
    values["data_path"] = folder = _data_folder(values)
    path = folder / f"{values['dataset']}.item"
    if not path.is_file():
        raise InputError(f"{path.name} is not where the run '{run.label}' had it")
    if run_folder.data_hash(cast(Any, values)) != run.result["data_hash"]:
        raise InputError(
            f"the files of '{values['dataset']}' have changed since the run '{run.label}'"
        )
    fields = build(ItemFields, values)
    title, category = fields.item_text_fields[0], fields.item_category_field
    image = build(ImageSettings, values).item_image_field
    columns = [name for name in (title, category, image) if name is not None]
    table = ItemTable.read(path, values["ITEM_ID_FIELD"], columns, values["field_separator"])
    paths = [()] * len(table.tokens) if category is None else table.category_paths(fields)
    cells = [""] * len(table.tokens) if image is None else table.columns[image]
    first = [cell.partition(SEPARATOR)[0].strip() for cell in cells]
    return Catalogue(
        {
            token: shortened(text)
            for token, text in zip(table.tokens, table.columns[title], strict=True)
        },
        {
            token: spelled(" > ".join(names))
            for token, names in zip(table.tokens, paths, strict=True)
        },
        {token: folder / name for token, name in zip(table.tokens, first, strict=True) if name},
        None,
    )


def _data_folder(values: Mapping[str, Any]) -> Path:
    """Where RecBole looks for a data set (recbole/config/configurator.py:330)."""
    dataset = str(values["dataset"])
    if dataset == "ml-100k":
        return Path(recbole.__file__).parent / "dataset_example" / dataset
    return Path(str(values["data_path"]), dataset)


def shortened(text: str) -> str:
    """``text`` in one line, cut to 80 letters."""
    line = spelled(text)
    return line if len(line) <= TITLE_LETTERS else line[: TITLE_LETTERS - 1].rstrip() + "…"
