"""Category paths: from the text of one cell to the names on the path, root first."""

from __future__ import annotations

import re

from recbole_sid.errors import InputError

QUOTES = "'\""
# A quote ends a name only before a comma and the next quote, or at the end of the list.
# So "'Women's', 'Boys', Girls'" holds the two names "Women's" and "Boys', Girls".
_END_OF_NAME = re.compile(r"\s*(?:$|,\s*(?=['\"]))")


def split_category(text: str, form: str, separator: str) -> tuple[str, ...]:
    """The names on the category path in ``text``, root first; empty if there are none.

    Args:
        text: the raw cell.
        form: ``quoted`` for a list of quoted names, as in RecBole's Amazon files; ``separator``
            for names joined by ``separator``; ``plain`` for one name.
        separator: used by the form ``separator`` only.

    Raises:
        InputError: the form is ``quoted`` and ``text`` is not a list of quoted names.
    """
    if form == "quoted":
        names = _split_quoted(text)
    elif form == "separator":
        names = text.split(separator)
    else:
        names = [text]
    return tuple(name.strip() for name in names if name.strip())


def _split_quoted(text: str) -> list[str]:
    """Read ``'a', "b", 'c, d'``; one pair of square brackets around the list is allowed.

    Inside a name a backslash keeps the next quote or backslash as it is, and a quote that is
    followed by neither a comma and the next quote nor the end belongs to the name.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    names = []
    position = 0
    while position < len(text):
        quote = text[position]
        if quote not in QUOTES:
            raise InputError(
                f"category {text!r} is not a list of quoted names: expected a quote at character "
                f"{position + 1}, found {quote!r}. Set item_category_format to 'separator' or "
                "'plain' if the names are not quoted"
            )
        name, position = _read_name(text, position + 1, quote)
        names.append(name)
    return names


def _read_name(text: str, position: int, quote: str) -> tuple[str, int]:
    """The name that starts at ``position``, and where the next name's quote stands."""
    name = []
    while position < len(text):
        char = text[position]
        following = text[position + 1 : position + 2]
        if char == "\\" and following and following in QUOTES + "\\":
            name.append(following)
            position += 2
            continue
        position += 1
        if char == quote and (end := _END_OF_NAME.match(text, position)):
            return "".join(name), end.end()
        name.append(char)
    raise InputError(
        f"category {text!r} is not a list of quoted names: the last name has no closing {quote}. "
        "Set item_category_format to 'separator' or 'plain' if the names are not quoted"
    )
