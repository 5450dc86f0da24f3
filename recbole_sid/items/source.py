"""All that tokenizers which read the items themselves are given: columns, images, summaries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_sid.items.images import ImageSettings, ItemImages, image_columns, item_images
from recbole_sid.items.schema import ItemInputs, SchemaSettings, item_inputs, schema_columns
from recbole_sid.items.summaries import SummarySettings, summaries, summary_columns
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.settings import build

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ItemSource:
    """Items as they stand in the data, one row an item.

    Attributes:
        table: the columns that schema, category path and summaries read.
        images: frozen image vectors, None if there are none.
        fields: which column means what.
        schema: which parts a sequence has.
        summary: where summaries come from.
    """

    table: ItemTable
    images: ItemImages | None
    fields: ItemFields
    schema: SchemaSettings
    summary: SummarySettings

    @classmethod
    def read(
        cls,
        values: Mapping[str, Any],
        tokens: tuple[str, ...],
        cache_dir: Path,
        device: torch.device | str,
        progress: bool,
    ) -> ItemSource:
        """Read ``tokens`` from the data set's ``.item`` file, and their images.

        Args:
            values: all settings.
            cache_dir: of vectors that are computed from image files.

        Raises:
            InputError: a file or a column is missing, or does not fit.
        """
        fields, schema, images, summary = settings_of(values)
        path = Path(values["data_path"]) / f"{values['dataset']}.item"
        columns = needed_columns(fields, schema, images, summary)
        table = ItemTable.read(path, values["ITEM_ID_FIELD"], columns, values["field_separator"])
        table = table.aligned(tokens)
        found = item_images(table, images, path.parent, cache_dir, device, progress)
        return cls(table, found, fields, schema, summary)

    def __len__(self) -> int:
        return len(self.table.tokens)

    def take(self, rows: Sequence[int]) -> ItemSource:
        """The items at ``rows``, in that order."""
        index = np.asarray(rows)
        table = self.table.aligned(tuple(self.table.tokens[row] for row in rows))
        images = self.images
        if images is not None:
            images = ItemImages(images.vectors[index], images.mask[index])
        return replace(self, table=table, images=images)

    def inputs(self, hf_tokenizer: PreTrainedTokenizerBase) -> ItemInputs:
        """The token sequences of all items, see :func:`.schema.item_inputs`."""
        return item_inputs(self.table, self.fields, self.schema, hf_tokenizer, self.images)

    def categories(self) -> list[tuple[str, ...]] | None:
        """The category path of every item; None where no column holds one."""
        if self.fields.item_category_field is None:
            return None
        return list(self.table.category_paths(self.fields))

    def summaries(self) -> list[str]:
        """One sentence an item, see :func:`.summaries.summaries`."""
        return summaries(self.table, self.fields, self.summary)

    def fingerprint(self) -> str:
        """sha256 hex over all that is read of the items, and the settings it is read by."""
        plain = [asdict(part) for part in (self.fields, self.schema, self.summary)]
        digest = hashlib.sha256(json.dumps([plain, self.table.columns], sort_keys=True).encode())
        if self.images is not None:
            digest.update(np.ascontiguousarray(self.images.vectors).tobytes())
            digest.update(np.ascontiguousarray(self.images.mask).tobytes())
        return digest.hexdigest()


def settings_of(
    values: Mapping[str, Any],
) -> tuple[ItemFields, SchemaSettings, ImageSettings, SummarySettings]:
    """The settings that say what is read of an item, checked."""
    return (
        build(ItemFields, values),
        build(SchemaSettings, values),
        build(ImageSettings, values),
        build(SummarySettings, values),
    )


def needed_columns(
    fields: ItemFields, schema: SchemaSettings, images: ImageSettings, summary: SummarySettings
) -> list[str]:
    """Columns of the ``.item`` file that are read, each once."""
    columns = [*schema_columns(schema, fields), *summary_columns(fields, summary)]
    columns += image_columns(images)
    if fields.item_category_field is not None:
        columns.append(fields.item_category_field)
    return list(dict.fromkeys(columns))
