"""Damage to valid files, chosen by a seed: bytes, pieces and lines, and words of the format."""

from __future__ import annotations

import random
from collections.abc import Sequence

# What breaks readers, whatever the format.
WORDS = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (
        *("\0", "\n", "\r", "\r\n", "\t", "\x1a", "\x85", "\u2028", "\ufeff", "\u200b", "\u202e"),
        *("e\u0301", "\u00e9", "\u212a", "\ud800", "\U0001f600", '"', "'", "\\", "\\u", "\\ud83d"),
        *("NaN", "nan", "Infinity", "-inf", "1e999", "-1", "-0", "0.5", "1_000", "0x1F", "1e5"),
        *("9" * 30, "9" * 5000, "null", "None", "true", "~", "{}", "[]", '""', "{", "}", "[", "]"),
        *("(", ")", ":", ",", "<", ">", "=", "--", "%", "../", "/etc/passwd", "C:\\", "*", "**"),
        *("&a ", "*a", "<<: ", "!!python/object/apply:os.getcwd []", "!!binary ", "2020-01-01"),
        *("__import__('os')", "lambda: 0", "{title}", "[" * 200, "(" * 200, "{a: " * 60, "é" * 99),
    )
)
_NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutated(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """``content`` after one to six mutations; ``seeds`` are whole files, to take pieces from."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        content = rng.choice(_MUTATIONS)(content, rng, seeds)
    return content


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randint(0, len(content))


def _piece(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, min(len(content), start + rng.choice((1, 2, 4, 8, 30, 200)))


def _flip(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return (
        content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    )


def _cut(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, end = _piece(content, rng)
    return content[:start] + content[end:]


def _truncate(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return content[: _place(content, rng)]


def _double(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, end = _piece(content, rng)
    return content[:start] + content[start:end] * rng.choice((2, 3, 50)) + content[end:]


def _splice(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    start, end = _piece(other, rng)
    place = _place(content, rng)
    return content[:place] + other[start:end] + content[place:]


def _insert(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.choice(WORDS) + content[place:]


def _replace(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start, end = _piece(content, rng)
    return content[:start] + rng.choice(WORDS) + content[end:]


def _word(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Another word where a word, number or text stands."""
    marks = [n for n, byte in enumerate(content[:20_000]) if byte in b' \t\n,:="[]{}|']
    if len(marks) < 2:
        return content
    first = rng.randrange(len(marks) - 1)
    return content[: marks[first] + 1] + rng.choice(WORDS) + content[marks[first + 1] :]


def _lines(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """A line doubled, dropped, or moved."""
    lines = content.split(b"\n")
    line = lines.pop(rng.randrange(len(lines)))
    for _copy in range(rng.choice((0, 1, 2))):
        lines.insert(rng.randint(0, len(lines)), line)
    return b"\n".join(lines)


def _number(content: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """A number in binary, as lengths and sizes stand in headers."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_NUMBERS) % 256**width
    place = _place(content, rng)
    return content[:place] + value.to_bytes(width, "little") + content[place + width :]


_MUTATIONS = (
    _flip, _cut, _truncate, _double, _splice, _insert, _replace, _word, _lines, _number
)  # fmt: skip
