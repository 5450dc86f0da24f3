"""The one family of errors that means "your input, not our bug"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200  # characters of a value in a message


class InputError(ValueError):
    """Bad input from the user: a setting, a file, a name.

    The message names the value, the bound and the remedy. The command line prints it alone,
    without a traceback, and exits with code 2.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first; case is ignored. May be empty."""
    by_lower = {k.lower(): k for k in known}
    # A name may be a text of any length; none that is known is this long.
    hits = difflib.get_close_matches(name[:_LONGEST].lower(), list(by_lower), n=count, cutoff=0.5)
    return [by_lower[hit] for hit in hits]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'a' or 'b'?`` with a leading space, or an empty string if nothing is near."""
    hits = nearest(name, known)
    return f" Did you mean {' or '.join(repr(hit) for hit in hits)}?" if hits else ""


def short(value: object) -> str:
    """``repr`` of a value for a message, cut where it is long."""
    spelled = repr(value)
    return spelled if len(spelled) <= _LONGEST else f"{spelled[:_LONGEST]}…"


def preview(values: Iterable[object], count: int = 10) -> str:
    """The first ``count`` values, comma separated, with ``…`` when there are more."""
    shown: list[str] = []
    for value in values:
        if len(shown) == count:
            shown.append("…")
            break
        shown.append(short(value))
    return ", ".join(shown)
