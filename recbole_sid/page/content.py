"""From the folders to what the page shows: tables, plots, items, examples, and what is missing."""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recbole_sid import run_folder
from recbole_sid.errors import InputError
from recbole_sid.page.catalogue import Catalogue, read_catalogue, shortened
from recbole_sid.page.comparison_tables import comparison_tables
from recbole_sid.page.curves import read_curves
from recbole_sid.page.examples import Examples, draw_examples
from recbole_sid.page.figures import (
    Plot,
    plot_codes,
    plot_collisions,
    plot_curves,
    plot_frontier,
    plot_groups,
)
from recbole_sid.page.payload import ItemSet
from recbole_sid.page.search_tables import search_tables
from recbole_sid.page.sid_tables import correlation_table, report_table, sids_table
from recbole_sid.page.sources import Document, Run, Sources, spelled
from recbole_sid.page.tables import Table, minutes, runs_table
from recbole_sid.page.thumbnails import Thumbnails, draw_thumbnails
from recbole_sid.sid.table import SemanticIDs

logger = logging.getLogger("recbole_sid")

_NAMES_SHOWN = 3  # runs of equal SIDs that are named


@dataclass(frozen=True)
class Section:
    """What is shown of one data set."""

    name: str
    catalogue: Catalogue
    curves: tuple[Plot, ...]
    frontier: Plot | None
    frontier_caption: str
    collisions: Plot | None
    groups: Plot | None
    codes: tuple[Plot, ...]
    examples: Examples | None

    def title_of(self, item: str) -> str:
        """The title of an item, or its raw id where there is none."""
        return self.catalogue.titles.get(item) or shortened(item)

    @property
    def plots(self) -> list[Plot]:
        single = (self.frontier, self.collisions, self.groups)
        return [*self.curves, *(plot for plot in single if plot is not None), *self.codes]


@dataclass(frozen=True)
class Content:
    """Everything on the page; ``left_out``: a sentence for each thing that is not."""

    title: str
    given: str
    tables: tuple[Table, ...]
    sid_tables: tuple[Table, ...]
    sections: tuple[Section, ...]
    item_sets: tuple[ItemSet, ...]
    left_out: tuple[str, ...]

    @property
    def plots(self) -> list[Plot]:
        return [plot for section in self.sections for plot in section.plots]


def gather(sources: Sources, image_bytes: int) -> Content:
    """Read what the folders hold and draw it; all thumbnails together take ``image_bytes``."""
    left_out = list(sources.left_out)
    by_data: dict[tuple[str, str], list[Run]] = {}
    for run in sources.runs:
        by_data.setdefault(run.data, []).append(run)
    reported: dict[tuple[str, str], list[_Reported]] = {}
    for document in sources.sid_reports:
        key = (str(document.content["dataset"]), str(document.content.get("data_hash")))
        by_data.setdefault(key, [])
        reported.setdefault(key, []).extend(_reported(document))
    sections, item_sets = [], []
    shown: dict[str, tuple[str, SemanticIDs]] = {}
    for number, (key, runs) in enumerate(by_data.items(), start=1):
        names = [name for name, _ in by_data]
        name = spelled(key[0]) + (f" ({number})" if names.count(key[0]) > 1 else "")
        logger.info("%s: reading and drawing %d folders", name, len(runs))
        groups = _sids(runs)
        sids = {group.label: group.sids for group in groups}
        shown |= {label: (name, one) for label, one in sids.items()}
        catalogue = Catalogue({}, {}, {}, "")
        if runs:
            catalogue = read_catalogue(runs)
        if catalogue.missing:
            left_out.append(f"Titles of {name}: {catalogue.missing}")
        sections.append(_section(name, runs, sids, reported.get(key, []), catalogue, left_out))
        if groups:
            browsed = _browsed(groups, left_out)
            thumbnails = _thumbnails(name, browsed, catalogue, image_bytes, left_out)
            image_bytes -= thumbnails.size
            item_sets.append(ItemSet(name, catalogue, browsed, thumbnails))
    if not item_sets:
        left_out.append("Semantic IDs to browse: no folder holds any")
    tables = [table for document in sources.comparisons for table in comparison_tables(document)]
    if sources.trained:
        tables.append(runs_table(sources.trained))
    tables += [table for document in sources.searches for table in search_tables(document)]
    names = [section.name for section in sections]
    names += [spelled(str(document.content["dataset"])) for document in sources.searches]
    return Content(
        "Report on " + ", ".join(dict.fromkeys(names)),
        _given(sources),
        tuple(tables),
        (
            *([sids_table(shown)] if shown else []),
            *(
                table
                for document in sources.sid_reports
                for table in (report_table(document), correlation_table(document))
                if table is not None
            ),
        ),
        tuple(sections),
        tuple(item_sets),
        tuple(left_out),
    )


def _given(sources: Sources) -> str:
    counts = (
        (len(sources.comparisons), "comparison"),
        (len(sources.trained), "run"),
        (len(sources.runs) - len(sources.trained), "tokenizer"),
        (len(sources.searches), "tuning"),
        (len(sources.sid_reports), "SID report"),
    )
    return ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in counts if n)


def _section(
    name: str,
    runs: Sequence[Run],
    sids: Mapping[str, SemanticIDs],
    reported: Sequence[_Reported],
    catalogue: Catalogue,
    left_out: list[str],
) -> Section:
    # A name for files and ids.
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "data"
    trained = [run for run in runs if run.trained]
    known = {one.fingerprint() for one in sids.values()}
    strangers = [one for one in reported if one.fingerprint not in known]
    if strangers:
        left_out.append(
            f"Codes of {', '.join(one.label for one in strangers)}: a SID report holds figures "
            "alone; give the folder of the run or of tokenize to see their use and their items"
        )
    rates = {
        label: [one.groups.collisions(length).collision_rate for length in _lengths(one)]
        for label, one in sids.items()
    }
    rates |= {one.label: one.rates for one in strangers if one.rates}
    frontier, caption = _frontier(slug, name, trained, left_out)
    return Section(
        name,
        catalogue,
        tuple(_curves(slug, trained, left_out)),
        frontier,
        caption,
        plot_collisions(f"{slug}-collisions", rates) if rates else None,
        plot_groups(f"{slug}-groups", sids) if sids else None,
        tuple(
            plot_codes(f"{slug}-codes-{number}", label, one)
            for number, (label, one) in enumerate(sids.items(), start=1)
        ),
        _examples(name, trained, left_out),
    )


def _thumbnails(
    name: str,
    sids: Mapping[str, SemanticIDs],
    catalogue: Catalogue,
    limit: int,
    left_out: list[str],
) -> Thumbnails:
    """Of the items that have a SID, those first that the first set has first."""
    tokens = dict.fromkeys(token for one in sids.values() for token in one.tokens)
    files = {token: catalogue.images[token] for token in tokens if token in catalogue.images}
    if files:
        logger.info("%s: drawing thumbnails of %s items", name, f"{len(files):,}")
    thumbnails = draw_thumbnails(files, limit)
    if thumbnails.missing:
        left_out.append(f"Images of {name}: {spelled(thumbnails.missing)}")
    return thumbnails


def _lengths(sids: SemanticIDs) -> range:
    return range(1, sids.n_base_levels + 1)


class _Group(NamedTuple):
    """Runs of equal SIDs: their names, the SIDs, and whether a model's first run is among them."""

    label: str
    sids: SemanticIDs
    first: bool


def _sids(runs: Sequence[Run]) -> list[_Group]:
    """The sets of SIDs of runs, those that are equal once."""
    tables: dict[str, SemanticIDs] = {}
    of_table: dict[str, list[Run]] = {}
    first: dict[tuple[object, str], str] = {}
    for run in runs:
        if run.has(run_folder.SIDS):
            table = SemanticIDs.load(run.folder / run_folder.SIDS)
            fingerprint = table.fingerprint()
            tables.setdefault(fingerprint, table)
            of_table.setdefault(fingerprint, []).append(run)
            # A model of another comparison is another one, whatever its name.
            first.setdefault((run.folder.parent, run.model), fingerprint)
    groups = []
    for fingerprint, some in of_table.items():
        more = f" and {len(some) - _NAMES_SHOWN} more" if len(some) > _NAMES_SHOWN else ""
        label = ", ".join(run.label for run in some[:_NAMES_SHOWN]) + more
        groups.append(_Group(label, tables[fingerprint], fingerprint in first.values()))
    return groups


def _browsed(groups: Sequence[_Group], left_out: list[str]) -> dict[str, SemanticIDs]:
    """Those that the page holds in full: with all seeds of all models it would be too large."""
    others = [group.label for group in groups if not group.first]
    if others:
        left_out.append(
            f"SIDs of {', '.join(others)} to browse: of a model with several seeds, those of the "
            "first; the figures are of all"
        )
    return {group.label: group.sids for group in groups if group.first}


class _Reported(NamedTuple):
    """A set of a SID report, and its collision rates by prefix."""

    label: str
    fingerprint: str
    rates: list[float]


def _reported(document: Document) -> list[_Reported]:
    found = []
    for entry in document.content["sets"]:
        rates: list[float] = []
        while (key := f"prefix_collision_rate_{len(rates) + 1}") in entry["codes"]:
            rates.append(entry["codes"][key])
        label = spelled(f"{entry['label']} ({document.label})")
        found.append(_Reported(label, str(entry.get("fingerprint")), rates))
    return found


def _curves(slug: str, runs: Sequence[Run], left_out: list[str]) -> list[Plot]:
    found = {}
    without = []
    for run in runs:
        curves = read_curves(run.folder)
        if curves is None:
            without.append(run.label)
        else:
            found[run.label] = (run.model, curves)
    if without:
        left_out.append(f"Training curves of {', '.join(without)}: there are no event files")
    metrics = {str(run.config.get("valid_metric", "score")) for run in runs if run.label in found}
    return plot_curves(slug, found, " / ".join(sorted(metrics)))


def _frontier(
    slug: str, name: str, runs: Sequence[Run], left_out: list[str]
) -> tuple[Plot | None, str]:
    """The models of the runs, means over seeds, by the metric that the first validates by."""
    if not runs:
        return None, ""
    metric = str(runs[0].config.get("valid_metric", "")).lower()
    points: dict[str, list[tuple[float, float]]] = {}
    without = []
    for run in runs:
        test = run.result["test_result"] or {}
        if metric in test:
            points.setdefault(run.model, []).append((minutes(run), test[metric]))
        else:
            without.append(run.label)
    if without:
        left_out.append(f"Quality against time of {', '.join(without)}: no {metric} on test")
    if not points:
        return None, ""
    means = {
        model: (statistics.fmean(x for x, _ in some), statistics.fmean(y for _, y in some))
        for model, some in points.items()
    }
    caption = (
        f"{metric} on the test split of {name} against minutes of SIDs and training; means over "
        "the runs of a model. The line joins what nothing faster is better than. SIDs that the "
        "cache had took no time."
    )
    return plot_frontier(f"{slug}-frontier", f"{metric}, test", means), caption


def _examples(name: str, runs: Sequence[Run], left_out: list[str]) -> Examples | None:
    """Of the first run of each model."""
    first: dict[str, Run] = {}
    without = []
    for run in runs:
        if run.has(run_folder.OUTCOMES):
            first.setdefault(run.model, run)
        else:
            without.append(run.label)
    if without:
        left_out.append(
            f"Examples of {', '.join(without)}: there is no {run_folder.OUTCOMES}, which a run "
            "writes when its test has one target a user and ranks all items"
        )
    if not first:
        return None
    logger.info("%s: reading the histories of test users", name)
    try:
        return draw_examples(list(first.values()))
    except InputError as error:
        left_out.append(f"Examples on {name}: {spelled(str(error))}")
        return None
