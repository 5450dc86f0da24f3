"""The grid as a table, tokenizers by generators, and as a plot of the same cells."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.comparison.writing import heading, state
from recbole_sid.escaping import in_markdown
from recbole_sid.files import written_whole

logger = logging.getLogger("recbole_sid")

SPLITS = (("test", "Test"), ("valid", "Validation"))


class GridCell(NamedTuple):
    """A pair: its mean over the seeds that have ended, None without any, and what is written."""

    mean: float | None
    text: str


def write_grid(folder: Path, result: dict[str, Any]) -> None:
    """Write ``grid.md``, and, once there is a figure, ``grid.svg`` and ``grid.png``.

    Plots need matplotlib; without it the log says that there are none.
    """
    with written_whole(folder / "grid.md") as temporary:
        temporary.write_text(grid_markdown(result), encoding="utf-8", newline="")
    panels = {title: grid_cells(result, split) for split, title in SPLITS}
    if all(cell.mean is None for rows in panels.values() for row in rows for cell in row):
        return
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning('grid.svg and .png need matplotlib: pip install "recbole-sid[report]"')
        return
    from recbole_sid.comparison.grid_figure import plot_grid

    grid = result["grid"]
    title = f"{_metric(result)}, {result['dataset']}"
    plot_grid("grid", title, grid["tokenizers"], list(grid["generators"]), panels).save(folder)


def grid_markdown(result: dict[str, Any]) -> str:
    """A table a split: rows are tokenizers, columns generators."""
    generators = result["grid"]["generators"]
    recipes = ", ".join(f"{name} as {model}" for name, model in generators.items())
    parts = [
        f"# Tokenizers and generators on {in_markdown(result['dataset'])}",
        f"{_metric(result)}, mean over seeds ± sample standard deviation; best in bold. Full "
        f"ranking at item level, {result['counts']['test']:,} test users; sha256 of the test "
        f"split: `{result['split_hash']['test']}`.",
        "A pair is trained with the settings of the first model registered with its generator, "
        f"unless the settings file says otherwise: {recipes}.",
    ]
    for split, title in SPLITS:
        rows = grid_cells(result, split)
        means = [cell.mean for row in rows for cell in row if cell.mean is not None]
        lines = [["Tokenizer", *generators], ["---", *["---:"] * len(generators)]]
        for tokenizer, row in zip(result["grid"]["tokenizers"], rows, strict=True):
            shown = [
                f"**{cell.text}**" if means and cell.mean == max(means) else cell.text
                for cell in row
            ]
            lines.append([tokenizer, *shown])
        parts += [f"## {title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    words = [(row["model"], state(row)) for row in _rows(result).values()]
    told = [
        f"- {in_markdown(label)}, {in_markdown(word)}"
        for label, word in words
        if word.startswith(("refused", "failed"))
    ]
    if told:
        parts += ["## Refused and failed", "\n".join(told)]
    return "\n\n".join(parts) + "\n"


def grid_cells(result: Mapping[str, Any], split: str) -> list[list[GridCell]]:
    """The tested metric on ``split`` ("test", "valid"), a row a tokenizer."""
    rows, grid = _rows(result), result["grid"]
    name = f"{split}/{result['metric'].partition('/')[2]}"
    return [
        [_cell(rows[f"{tokenizer}+{generator}"], name) for generator in grid["generators"]]
        for tokenizer in grid["tokenizers"]
    ]


def _cell(row: dict[str, Any], name: str) -> GridCell:
    found = row["cells"].get(name)
    if found is None:
        return GridCell(None, "not measured" if row["cells"] else state(row).partition(":")[0])
    text = f"{found['mean']:.4f}"
    if found["sd"] is not None:
        text += f" ± {found['sd']:.4f}"
    if found["n"] < len(row["runs"]):
        text += f" ({found['n']} of {len(row['runs'])} seeds)"
    return GridCell(found["mean"], text)


def _rows(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of the pairs by label."""
    grid = result["grid"]
    labels = {
        f"{tokenizer}+{name}" for tokenizer in grid["tokenizers"] for name in grid["generators"]
    }
    return {row["model"]: row for row in result["models"] if row["model"] in labels}


def _metric(result: dict[str, Any]) -> str:
    return heading(result["metric"].partition("/")[2])
