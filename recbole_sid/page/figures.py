"""The plots of the page and of papers, as SVG and PNG, the same bytes each time.

On the page a plot takes the colour of the text around it, so that it can be read on light and on
dark; in files its text is black.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from recbole_sid.files import written_whole
from recbole_sid.page.curves import Curves
from recbole_sid.sid.table import SemanticIDs

# Readable on white and on a dark page.
_COLOURS = ("#3b82f6", "#e8590c", "#2f9e44", "#be4bdb", "#e03131", "#1098ad", "#b08900", "#868e96")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")
_TEXT = "#010203"  # black to the eye, and nothing else in a plot has it
_DPI = 200
_LABEL = 32  # letters of a label


@dataclass(frozen=True)
class Plot:
    """A drawn figure: ``name`` is that of its files, ``title`` says what it shows."""

    name: str
    title: str
    canvas: Canvas

    @property
    def wide(self) -> bool:
        """Whether it would be too small to read on a phone unless one scrolls."""
        return bool(self.canvas.get_figwidth() > 6)

    def inline(self) -> str:
        """SVG to stand inside a page; its ids differ from those of other plots."""
        svg = self._svg().replace(_TEXT, "currentColor")
        svg = svg[svg.index("<svg") :]
        # A style element would hold for the whole page, which says the same in its own.
        svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", svg)
        return re.sub(r"\n\s*", "\n", svg)

    def save(self, folder: Path) -> None:
        """Write ``name.svg`` and ``name.png`` into ``folder``, each whole or not at all."""
        with written_whole(folder / f"{self.name}.svg") as temporary:
            temporary.write_text(self._svg(), encoding="utf-8")
        with written_whole(folder / f"{self.name}.png") as temporary, style(self.name):
            self.canvas.savefig(
                temporary, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None}
            )

    def _svg(self) -> str:
        text = io.StringIO()
        with style(self.name):
            self.canvas.savefig(
                text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
        return text.getvalue()


_COLOURED = ("text.color", "xtick.color", "ytick.color", "axes.edgecolor", "axes.labelcolor")
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(_COLOURED, _TEXT),
    "axes.titlecolor": _TEXT,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    # A label is text, even if it has dollar signs.
    "text.parse_math": False,
}


@contextmanager
def style(name: str) -> Iterator[None]:
    """Our settings of matplotlib, and none of the user's."""
    with warnings.catch_warnings(), mpl.rc_context():
        # The reader's fonts may have the letters that those of matplotlib lack.
        warnings.filterwarnings("ignore", "Glyph")
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": f"recbole_sid {name}"})
        yield


# -- what is drawn --------------------------------------------------------------------------------

Line = tuple[str, str, Sequence[tuple[float, float]]]  # label, model, points


def plot_curves(name: str, curves: Mapping[str, tuple[str, Curves]], metric: str) -> list[Plot]:
    """Training loss and validation score by epoch.

    Args:
        curves: by the label of the run, its model and its curves; one colour a model.
        metric: what the score is.
    """
    parts: tuple[tuple[str, str, str, Callable[[Curves], Any]], ...] = (
        ("loss", "Training loss", "mean loss", lambda found: found.loss),
        ("score", f"Validation, {metric}", metric, lambda found: found.score),
    )
    models = [model for model, _ in curves.values()]
    plots = []
    for part, title, axis, of in parts:
        lines = [(label, model, of(one)) for label, (model, one) in curves.items() if of(one)]
        if part == "loss":
            # RecBole gives a loss of 0 to models that learn nothing by steps, such as Pop.
            lines = [line for line in lines if any(value for _, value in line[2])]
        if lines:
            with style(name):
                plot = _lines(
                    f"{name}-{part}", title, "epoch", axis, lines, models, powers=part == "loss"
                )
            plots.append(plot)
    return plots


def plot_collisions(name: str, rates: Mapping[str, Sequence[float]]) -> Plot:
    """Share of the items whose first l codes another item has too, by l; ``rates`` by set."""
    lines = [
        (label, label, [(length + 1.0, rate) for length, rate in enumerate(values)])
        for label, values in rates.items()
    ]
    with style(name):
        return _lines(name, "Collision rate by prefix", "codes", "share of items", lines)


def plot_groups(name: str, sets: Mapping[str, SemanticIDs]) -> Plot:
    """How many SIDs have 1, 2, 3 … items, before a dedup digit."""
    lines = []
    for label, sids in sets.items():
        sizes, counts = np.unique(sids.groups.sizes(sids.n_base_levels), return_counts=True)
        lines.append((label, label, list(zip(sizes.tolist(), counts.tolist(), strict=True))))
    with style(name):
        plot = _lines(name, "Sizes of groups", "items of a SID", "SIDs", lines, powers=True)
        largest = max(points[-1][0] for _, _, points in lines)
        if largest > 20:
            _logarithmic(plot.canvas.axes[0], "x", largest)
        return plot


def plot_frontier(name: str, metric: str, points: Mapping[str, tuple[float, float]]) -> Plot:
    """Quality against minutes of training; the line joins what nothing faster is better than.

    Args:
        points: minutes and quality by label.
    """
    with style(name):
        canvas, axes = _axes(
            "Quality against training time", "minutes of SIDs and training", metric
        )
        for number, (label, point) in enumerate(points.items()):
            marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
            (drawn,) = axes.plot(*point, marker, color=_COLOURS[number % len(_COLOURS)])
            drawn.set_label(_cut(label))
        best = undominated(list(points.values()))
        axes.plot(*zip(*best, strict=True), color="#868e96", linewidth=1, zorder=0)
        xs = [x for x, _ in points.values()]
        if min(xs) > 0 and max(xs) > 10 * min(xs):
            _logarithmic(axes, "x", max(xs) / min(xs))
        canvas.legend(loc="outside lower center", ncols=2)
        return Plot(name, "Quality against training time", canvas)


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both: each better than all that take less time."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def plot_codes(name: str, label: str, sids: SemanticIDs) -> Plot:
    """A square a level, a cell a code, row by row from 0: how many items have it, grey for none."""
    n_levels = sids.n_base_levels
    with style(name):
        canvas = Canvas(figsize=(2.6 * n_levels, 2.4), layout="constrained")
        FigureCanvasAgg(canvas)
        colours = mpl.colormaps["viridis"].with_extremes(bad="#9a9a9a66")
        for level in range(n_levels):
            counts = np.bincount(sids.codes[:, level], minlength=sids.sizes[level]).astype(float)
            axes = canvas.add_subplot(1, n_levels, level + 1)
            side = int(np.ceil(np.sqrt(len(counts))))
            cells = np.full(side * side, np.nan)
            cells[: len(counts)] = np.where(counts > 0, counts, np.nan)
            image = axes.imshow(
                np.ma.masked_invalid(cells.reshape(side, side)), cmap=colours, interpolation="none"
            )
            used = int((counts > 0).sum())
            axes.set_title(f"level {level + 1}: {used} of {len(counts)}")
            axes.set_xticks([])
            axes.set_yticks([])
            bar = canvas.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
            bar.ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            bar.outline.set_visible(False)
        return Plot(name, f"Items of each code: {label}", canvas)


def _lines(
    name: str,
    title: str,
    x: str,
    y: str,
    lines: Sequence[Line],
    models: Sequence[str] = (),
    powers: bool = False,
) -> Plot:
    """One colour a model.

    Args:
        models: those of a sister plot, whose colours are to agree.
        powers: whether values that span powers of ten stand on a logarithmic axis.
    """
    canvas, axes = _axes(title, x, y)
    order = list(dict.fromkeys([*models, *(model for _, model, _ in lines)]))
    seen: set[str] = set()
    for _, model, points in lines:
        number = order.index(model)
        (drawn,) = axes.plot(
            *zip(*points, strict=True),
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_DASHES[number // len(_COLOURS) % len(_DASHES)],
            marker="o" if len(points) < 15 else None,
            markersize=4,
        )
        drawn.set_label("_" if model in seen else _cut(model))
        seen.add(model)
    values = [value for _, _, points in lines for _, value in points]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if powers and min(values) > 0 and max(values) > 10 * min(values):
        _logarithmic(axes, "y", max(values) / min(values))
    canvas.legend(loc="outside lower center", ncols=2)
    return Plot(name, title, canvas)


def _cut(label: str) -> str:
    """A name for a legend, which would hide those that begin with an underscore."""
    label = f"\u200a{label}" if label.startswith("_") else label
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _logarithmic(axes: Any, which: str, span: float) -> None:
    """A logarithmic axis with plain numbers; ``span``: the greatest value over the least."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 100 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _axes(title: str, x: str, y: str) -> tuple[Canvas, Any]:
    canvas = Canvas(figsize=(4.9, 3.9), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True)
    return canvas, axes
