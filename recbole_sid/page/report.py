"""``report``: folders of finished work in, one page out."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.files import written_whole
from recbole_sid.histories import check_output
from recbole_sid.page.sources import read_folders
from recbole_sid.settings import require
from recbole_sid.version import __version__

logger = logging.getLogger("recbole_sid")

_HERE = Path(__file__).resolve().parent
_LARGE = 5_000_000


def report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    figures: str | Path | None = None,
    overwrite: bool = False,
    image_bytes: int = 3_000_000,
) -> dict[str, Any]:
    """Write one page that holds all that finished work has to show, and needs no network.

    Tables (sortable), training curves, quality against time, the use of codes, collisions, the
    items of every prefix, and test users with what was recommended to them. The same folders give
    the same bytes.

    Args:
        folders: of ``run`` (our models and RecBole's), ``compare``, ``tokenize``, ``tune`` and
            ``sids``. Those of a comparison bring its finished runs.
        output: the ``.html`` file.
        figures: a folder for the plots as ``.svg`` and ``.png``; made if it is not there.
        overwrite: whether files that exist may be replaced.
        image_bytes: what thumbnails of the items may take of the page; 0 makes none. They are shown
            in the tree where ``item_image_field`` names files that exist.

    Returns:
        ``output``; ``bytes``, its size; ``figures``, the names of the plots; ``left_out``, a
        sentence for each thing that the folders could not give, as on the page.

    Raises:
        InputError: a folder that is none of these, an unfinished run, an output that exists, or
            jinja2 or matplotlib is not installed. Nothing is written then.
    """
    if any(importlib.util.find_spec(name) is None for name in ("jinja2", "matplotlib")):
        raise InputError('report needs jinja2 and matplotlib: pip install "recbole-sid[report]"')
    from recbole_sid.page.content import gather

    path = check_output(output, (".html",), overwrite)
    require(image_bytes >= 0, "image_bytes", image_bytes, "at least 0")
    folder = None if figures is None else _figures_folder(Path(figures))
    sources = read_folders(folders)
    content = gather(sources, image_bytes)
    if folder is not None:
        _refuse_lost_figures(folder, [plot.name for plot in content.plots], overwrite)
    text = _page(content)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in content.plots:
            plot.save(folder)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    size = path.stat().st_size
    if size > _LARGE:
        logger.warning("%s has %.1f MB: fewer folders make it lighter", path, size / 1e6)
    return {
        "output": str(path),
        "bytes": size,
        "figures": [plot.name for plot in content.plots],
        "left_out": list(content.left_out),
    }


def _page(content: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from recbole_sid.page.payload import as_json, payload

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    css, js = (
        "\n" + (_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"script-src {_hash(js)}; style-src {_hash(css)}; style-src-attr 'unsafe-inline'"
    )
    data = payload(content.item_sets)
    return environment.get_template("page.html.j2").render(
        content=content,
        policy=policy,
        css=css,
        js=js,
        data=as_json(data),
        sets=[f"{one['label']} ({data['items'][one['items']]['name']})" for one in data["sids"]],
        version=__version__,
    )


def _hash(text: str) -> str:
    """Of an element's text, as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _figures_folder(folder: Path) -> Path:
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"figures '{folder}': '{nearest}' is not a folder; name another --figures")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"no files may be written in '{nearest}': name another --figures")
    return folder


def _refuse_lost_figures(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    for name in names:
        for file in (folder / f"{name}.svg", folder / f"{name}.png"):
            if os.path.lexists(file) and not overwrite:
                raise InputError(f"'{file}' exists: name another --figures, or add --overwrite")
