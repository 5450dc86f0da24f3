"""The lines of a text file, gzip or not, one at a time and of bounded length."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import cast

from recbole_sid.errors import InputError

LONGEST_LINE = 1 << 26  # bytes
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Lines:
    """The decoded lines of a text file, gzip or not.

    Attributes:
        number: of the line given last, from 1.
        characters: in the lines since it was last set to 0.
        spoiled: why a line since the last :meth:`mend` is not text, or None.
    """

    def __init__(self, path: str, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self.number = self.characters = 0
        self.spoiled: str | None = None
        try:
            with Path(path).open("rb") as file:
                start = file.read(3)
            packed = start.startswith(_GZIP)
            if path.endswith(".gz") and start and not packed:
                raise InputError(f"'{path}' is called .gz, but is not a gzip file")
            raw = gzip.GzipFile(path) if packed else io.FileIO(path)
            self._file = io.BufferedReader(cast(io.RawIOBase, raw))
        except OSError as error:
            raise InputError(f"'{path}' cannot be read: {error}") from error

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        try:
            raw = self._file.readline(LONGEST_LINE)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"'{self.path}' breaks off or is damaged after line {self.number}: {error}"
            ) from error
        if not raw:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            if raw.startswith(_UTF_16):
                raise InputError(f"'{self.path}' is UTF-16: convert it to UTF-8")
            if b"\r" in raw.rstrip(b"\r\n") and b"\n" not in raw:
                raise InputError(
                    f"'{self.path}' ends its lines by a carriage return alone: convert these to "
                    "line feeds"
                )
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if len(raw) == LONGEST_LINE:
            raise InputError(
                f"'{self.path}', line {self.number}: longer than {LONGEST_LINE:,} bytes. Is it a "
                "text file with one row a line?"
            )
        try:
            line = raw.decode(self.encoding)
        except UnicodeDecodeError:
            self.spoiled = f"not {self.encoding}"
            line = raw.decode(self.encoding, "replace")
        self.characters += len(line)
        if "\0" in line:
            self.spoiled = "a NUL character"
            line = line.replace("\0", " ")
        return line

    def mend(self) -> str | None:
        """What ``spoiled`` was; from now on it is None."""
        reason, self.spoiled = self.spoiled, None
        return reason
