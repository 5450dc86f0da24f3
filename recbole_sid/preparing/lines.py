"""The lines of a text file, gzip or not, one at a time and of bounded length.

A file may be made to fill the memory: a gzip file of a few MB that holds many GB, a line without an
end, a row of cells without an end. So each of them has a bound that holds while it is read.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import cast

from recbole_sid.errors import InputError
from recbole_sid.limits import LONGEST_LINE, check_length

# Logs and feeds shrink 5 to 30 times; gzip can shrink a repeated byte 1,032 times. Below so many
# bytes there is no harm in it.
MOST_EXPANDED, FREE = 200, 1 << 28
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Lines:
    """The decoded lines of a text file, gzip or not.

    Attributes:
        number: of the line given last, from 1.
        characters: in the lines since it was last set to 0.
        row: bytes of the lines since it was last set to 0, when a row of several lines began.
        spoiled: why a line since the last :meth:`mend` is not text, or None.
    """

    def __init__(self, path: str, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self.number = self.characters = self.row = self._bytes = 0
        self.spoiled: str | None = None
        try:
            with Path(path).open("rb") as file:
                start = file.read(3)
            packed = start.startswith(_GZIP)
            if path.endswith(".gz") and start and not packed:
                raise InputError(f"'{path}' is called .gz, but is not a gzip file")
            self._most = max(FREE, MOST_EXPANDED * Path(path).stat().st_size) if packed else None
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
            raw = self._file.readline(LONGEST_LINE + 1)
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
        check_length(raw, f"'{self.path}', line {self.number}")
        self._count(len(raw))
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

    def _count(self, size: int) -> None:
        """Refuse a row of lines without an end, and a gzip bomb."""
        self.row += size
        if self.row > LONGEST_LINE:
            raise InputError(
                f"'{self.path}', up to line {self.number}: a row of more than {LONGEST_LINE:,} "
                "bytes. Is a quote left open? Then set quotes to False"
            )
        self._bytes += size
        if self._most is not None and self._bytes > self._most:
            raise InputError(
                f"'{self.path}' holds more than {MOST_EXPANDED} times its own size, after line "
                f"{self.number}: a gzip bomb? If it is what it should be, unpack it first"
            )

    def mend(self) -> str | None:
        """What ``spoiled`` was; from now on it is None."""
        reason, self.spoiled = self.spoiled, None
        return reason
