"""Texts in tables for Markdown, CSV and LaTeX, whatever stands in names, settings and reasons."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MARKDOWN = {ord(char): f"\\{char}" for char in "\\`*_|"} | {
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("&"): "&amp;",
}
_LATEX = {ord(char): f"\\{char}" for char in "_%&#${}"} | {
    ord("\\"): r"\textbackslash{}",
    ord("~"): r"\textasciitilde{}",
    ord("^"): r"\textasciicircum{}",
}
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def in_one_line(text: str) -> str:
    """Without control characters and line ends, which would begin another line or row."""
    return " ".join(_CONTROL.sub(" ", text).split())


def in_markdown(text: str) -> str:
    """Shown as it is: it is no markup, no HTML, no link, and ends no cell.

    An underscore inside a word is none of these: names of settings stay readable.
    """
    escaped = in_one_line(text).translate(_MARKDOWN).replace("](", "]\\(")
    return re.sub(r"(?<=[^\W_])\\_(?=[^\W_])", "_", escaped)


def in_csv(value: Any) -> Any:
    """No formula for a spreadsheet: before a text that begins like one stands an apostrophe."""
    formula = isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA)
    return f"'{value}" if formula else value


def in_latex(text: str) -> str:
    """Typeset as it is."""
    return in_one_line(text).translate(_LATEX)
