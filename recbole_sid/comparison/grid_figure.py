"""The grid as a heat map, a panel a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from recbole_sid.comparison.grid_table import GridCell
from recbole_sid.page.figures import Plot, style

_EMPTY = "#9a9a9a66"  # of a cell without a figure, readable on white and on a dark page


def plot_grid(
    name: str,
    title: str,
    tokenizers: Sequence[str],
    generators: Sequence[str],
    panels: Mapping[str, Sequence[Sequence[GridCell]]],
) -> Plot:
    """A panel by its heading; in it a row a tokenizer and a column a generator.

    Each panel has colours of its own, from its lowest figure to its highest. A cell without a
    figure is grey and says why.
    """
    with style(name):
        width, height = 1.2 + 1.7 * len(generators), 1.4 + 0.5 * len(tokenizers)
        canvas = Canvas(figsize=(width * len(panels), height), layout="constrained")
        FigureCanvasAgg(canvas)
        canvas.suptitle(title)
        for number, (heading, rows) in enumerate(panels.items(), start=1):
            axes = canvas.add_subplot(1, len(panels), number)
            values = np.array(
                [[np.nan if cell.mean is None else cell.mean for cell in row] for row in rows]
            )  # (T, G)
            colours = mpl.colormaps["viridis"].with_extremes(bad=_EMPTY)
            image = axes.imshow(
                np.ma.masked_invalid(values), cmap=colours, aspect="auto", interpolation="none"
            )
            shades = np.asarray(image.norm(values))  # (T, G), 0 to 1
            for (row, column), value in np.ndenumerate(values):
                colour = mpl.rcParams["text.color"]
                if not np.isnan(value):
                    colour = "black" if shades[row, column] > 0.6 else "white"
                text = rows[row][column].text.replace(" (", "\n(")
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize="small",
                )
            axes.set_title(heading)
            axes.set_xticks(range(len(generators)), generators)
            axes.set_yticks(range(len(tokenizers)), tokenizers)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        return Plot(name, title, canvas)
