"""Which versions of other packages this one works with; imports nothing that could break first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Limit:
    """One bound: ``requirement`` in pip's spelling and what happens beyond it."""

    requirement: str
    reason: str


# Each bound was met by running RecBole 1.2.1 against the newer version.
LIMITS = {
    "recbole": Limit("recbole==1.2.1", "this package extends that version"),
    "pandas": Limit(
        "pandas<3",
        "with copy-on-write RecBole's fillna(inplace=True) does nothing, so item features are "
        "corrupted without any error (recbole/data/dataset/dataset.py:501, 648, 650)",
    ),
    "numpy": Limit(
        "numpy<2",
        "RecBole's Config uses np.float_, np.complex_ and np.unicode_, which numpy 2 removed "
        "(recbole/config/configurator.py:625-635)",
    ),
    "scipy": Limit(
        "scipy<1.13",
        "LightGCN, NGCF and five more models use dok_matrix._update, which scipy 1.13 removed "
        "(recbole/model/general_recommender/lightgcn.py:111)",
    ),
}


def check_versions(versions: Mapping[str, str] | None = None) -> None:
    """Refuse to start beside a package version that breaks RecBole, above all silently.

    Args:
        versions: package name to version; the installed ones when not given.

    Raises:
        ImportError: names each package that is missing or out of bounds, why, and the pip command.
    """
    problems, wanted = [], []
    for name, limit in LIMITS.items():
        version = _installed(name) if versions is None else versions.get(name)
        if version is None:
            problems.append(f"{name} is not installed ({limit.requirement} is needed)")
        elif not _within(version, limit.requirement.removeprefix(name)):
            problems.append(f"{name} {version} is installed, but {limit.reason}")
        else:
            continue
        wanted.append(f'"{limit.requirement}"')
    if problems:
        raise ImportError(
            "recbole_sid cannot run here: "
            + "; ".join(problems)
            + f". Remedy: pip install {' '.join(wanted)}"
        )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _within(version: str, bound: str) -> bool:
    if bound.startswith("=="):
        return version == bound.removeprefix("==")
    return _numbers(version) < _numbers(bound.removeprefix("<"))


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor; a release candidate counts as its release."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
