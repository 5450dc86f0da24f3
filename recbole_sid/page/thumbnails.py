"""Small copies of the items' images, as text that the page itself holds."""

from __future__ import annotations

import base64
import importlib.util
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SIDE = 96  # pixels, at most
QUALITY = 70  # of JPEG


@dataclass(frozen=True)
class Thumbnails:
    """``images``: JPEG in base64, each once. ``image_of``: by raw id, the number of its image.

    ``missing``: why items that name an image have none; empty where all have theirs.
    """

    images: tuple[str, ...]
    image_of: Mapping[str, int]
    missing: str

    @property
    def size(self) -> int:
        """Characters of all images together."""
        return sum(map(len, self.images))


NONE = Thumbnails((), {}, "")


def draw_thumbnails(files: Mapping[str, Path], limit: int) -> Thumbnails:
    """Thumbnails of the files of items, in their order, as many as ``limit`` characters hold.

    Args:
        files: the image file of every item that names one, by raw id; they need not exist.
        limit: characters of base64. The first image beyond it is the end.
    """
    if not files:
        return NONE
    if importlib.util.find_spec("PIL") is None:
        return Thumbnails((), {}, 'Pillow is not installed: pip install "recbole-sid[images]"')
    images: dict[str, int] = {}
    numbers: dict[Path, int | None] = {}  # None: the file is no image
    used = 0
    for file in dict.fromkeys(files.values()):
        image = _thumbnail(file)
        if image is not None and image not in images:
            used += len(image)
            if used > limit:
                break
            images[image] = len(images)
        numbers[file] = None if image is None else images[image]
    image_of = {
        item: number for item, file in files.items() if (number := numbers.get(file)) is not None
    }
    bad = [file for file in files.values() if numbers.get(file, 0) is None]
    reasons = []
    if bad:
        first = bad[0].name
        reasons.append(f"{len(bad):,} of {len(files):,} files cannot be read, '{first}' first")
    cut = len(files) - len(image_of) - len(bad)
    if cut:
        reasons.append(f"{cut:,} items go without, since image_bytes allows no more")
    return Thumbnails(tuple(images), image_of, "; ".join(reasons))


def _thumbnail(file: Path) -> str | None:
    """At most ``SIDE`` pixels a side, on white; None if the file is missing or is no image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Of an image that would fill the memory, Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                whole = image.convert("RGBA")
    # What Pillow raises for broken files of its many formats.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError,
            Image.DecompressionBombWarning):  # fmt: skip
        return None
    whole.thumbnail((SIDE, SIDE))
    small = Image.new("RGB", whole.size, "white")
    small.paste(whole, mask=whole.getchannel("A"))
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(packed.getvalue()).decode("ascii")
