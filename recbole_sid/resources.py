"""Where the files that travel with the package are: ``properties/`` and ``dataset_configs/``."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """The folder ``name``: inside the package (a wheel) or beside it (a checkout).

    Raises:
        FileNotFoundError: the folder is in neither place: the installation is incomplete.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(
        f"the folder '{name}' is neither in {_PACKAGE} nor beside it: "
        "the installation of recbole-sid is incomplete, install it again"
    )
