"""Images of items as frozen vectors: the user's own, or read from image files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm import tqdm

from recbole_sid.checkpoint import Checkpoint
from recbole_sid.errors import InputError, preview
from recbole_sid.items import encoder
from recbole_sid.items.table import ItemTable
from recbole_sid.items.vectors import load_vector_sets
from recbole_sid.precision import resolve_precision
from recbole_sid.settings import require

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("recbole_sid")

PLAIN = "plain"
SEPARATOR = "|"
# The plain featuriser: pixels of a side, bins of hue, saturation and value, pixels of an edge cell.
PLAIN_SIDE = 128
PLAIN_BINS = (8, 3, 3)
PLAIN_CELL = 32

# Pixels (images of any size) to vectors (images, d).
Reader = Callable[[Sequence["Image"]], np.ndarray]


@dataclass(frozen=True)
class ImageSettings:
    """Where image vectors come from. Defaults and meanings: ``properties/schema.yaml``."""

    item_image_file: str | None
    item_image_ids: str | None
    item_image_field: str | None
    item_image_model: str | None
    item_image_max: int
    item_image_batch_size: int
    item_image_precision: Literal["auto", "float32", "bf16"]

    def __post_init__(self) -> None:
        model, batch = self.item_image_model, self.item_image_batch_size
        require(
            self.item_image_ids is None or self.item_image_file is not None,
            "item_image_ids",
            self.item_image_ids,
            "empty (~) without item_image_file",
        )
        require(
            model is None or self.item_image_file is None,
            "item_image_model",
            model,
            "empty (~) with item_image_file, which holds vectors already",
        )
        require(
            model is None or (model != "" and self.item_image_field is not None),
            "item_image_model",
            model,
            "a model's name or folder, with item_image_field naming the column of image files",
        )
        require(self.item_image_max >= 1, "item_image_max", self.item_image_max, "at least 1")
        require(batch >= 1, "item_image_batch_size", batch, "at least 1")


class ItemImages(NamedTuple):
    """The images of n items, rows as those of the item table.

    Attributes:
        vectors: float32 (n, m, d), zero where there is no image.
        mask: bool (n, m), True for an image that is there; those of an item come first.
    """

    vectors: np.ndarray
    mask: np.ndarray


def image_columns(settings: ImageSettings) -> list[str]:
    """The columns of the item table that :func:`item_images` reads."""
    if settings.item_image_model is None or settings.item_image_field is None:
        return []
    return [settings.item_image_field]


def item_images(
    table: ItemTable,
    settings: ImageSettings,
    folder: Path,
    cache_dir: Path,
    device: torch.device | str,
    progress: bool,
) -> ItemImages | None:
    """The image vectors of all items; None if no setting asks for any.

    Vectors that are read from images have length 1 and are cached by the content of the images and
    of the model's files: each distinct image is read once, and never again while the cache lives.
    If the process is killed, the next one goes on after the images that were written by then.

    Args:
        table: n items, with the columns of :func:`image_columns`.
        folder: where relative names of image files begin.
        cache_dir: folder of the cache; created if missing.
        device: where the model runs.
        progress: show progress bars.

    Raises:
        InputError: no item has an image, files are missing or are no images, there is no such
            model, a package is missing, or the user's file of vectors does not fit.
    """
    most = settings.item_image_max
    if settings.item_image_file is not None:
        images = ItemImages(
            *load_vector_sets(
                settings.item_image_file, settings.item_image_ids, table.tokens, "item_image", most
            )
        )
    elif settings.item_image_model is not None and settings.item_image_field is not None:
        cells = table.columns[settings.item_image_field]
        names = [[part.strip() for part in cell.split(SEPARATOR)] for cell in cells]
        files = [[Path(folder, part) for part in row if part][:most] for row in names]
        name = settings.item_image_model
        images = _read_all(files, table.tokens, name, settings, cache_dir, device, progress)
    else:
        return None
    logger.info(
        "Item images: %d vectors of %d numbers; %d of %d items have none",
        int(images.mask.sum()),
        images.vectors.shape[-1],
        int((~images.mask.any(axis=1)).sum()),
        len(table.tokens),
    )
    return images


def _read_all(
    files: list[list[Path]],
    tokens: tuple[str, ...],
    name: str,
    settings: ImageSettings,
    cache_dir: Path,
    device: torch.device | str,
    progress: bool,
) -> ItemImages:
    """The vectors of all files, from the cache or from the model."""
    distinct = list(dict.fromkeys(file for row in files for file in row))
    if not distinct:
        raise InputError(
            f"empty image column: none of the {len(tokens)} items names an image in "
            f"{settings.item_image_field!r}. Set item_image_field to a column of image files, or "
            "item_image_model to ~"
        )
    missing = [file for file in distinct if not file.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(distinct)} image files of column "
            f"{settings.item_image_field!r} do not exist: {preview(map(str, missing))}. Names are "
            f"seen from the data set's folder, several are separated by {SEPARATOR!r}, and the "
            "cell of an item without an image is empty"
        )
    bar = tqdm(distinct, desc="image files", disable=not progress)
    content = {file: encoder.sha256(file) for file in bar}
    by_content = {digest: file for file, digest in content.items()}
    order = sorted(by_content)
    vectors = _vectors(
        [by_content[digest] for digest in order], order, name, settings, cache_dir, device, progress
    )
    row_of = {digest: row for row, digest in enumerate(order)}

    counts = np.fromiter(map(len, files), np.int64, len(files))
    mask = np.arange(counts.max()) < counts[:, None]  # (n, m)
    placed = np.zeros((*mask.shape, vectors.shape[1]), np.float32)
    placed[mask] = vectors[[row_of[content[file]] for row in files for file in row]]
    return ItemImages(placed, mask)


def _vectors(
    files: list[Path],
    digests: list[str],
    name: str,
    settings: ImageSettings,
    cache_dir: Path,
    device: torch.device | str,
    progress: bool,
) -> np.ndarray:
    """One vector a file, float32 (files, d)."""
    dtype = resolve_precision(settings.item_image_precision, device)
    if name == PLAIN:
        identity = [PLAIN, _skimage_version()]
        make_reader: Callable[[], Reader] = _plain_reader
    else:
        model = _model_folder(name)
        identity = [str(dtype), *model_identity(model)]

        def make_reader() -> Reader:
            return _model_reader(name, model, settings, dtype, device)

    # Raise the number when the rules of this file change.
    parts = ["recbole_sid image vectors 1", *identity, str(len(digests)), *digests]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    path = Path(cache_dir) / f"image-{key[:32]}.safetensors"

    def run(checkpoint: Checkpoint) -> np.ndarray:
        return _run(files, make_reader(), settings, progress, checkpoint)

    return encoder.cached_vectors(path, key, "Item images", run)


def _run(
    files: list[Path],
    read: Reader,
    settings: ImageSettings,
    progress: bool,
    checkpoint: Checkpoint,
) -> np.ndarray:
    written = checkpoint.load("cpu")
    parts = [] if written is None else [written["vectors"].numpy()]  # (images, d) each
    done = sum(map(len, parts))
    if done > 0:
        logger.info("Item images: resuming after %d images", done)
    size = settings.item_image_batch_size
    with tqdm(total=len(files), initial=done, desc="item images", disable=not progress) as bar:
        for start in range(done, len(files), size):
            batch = files[start : start + size]
            part = np.asarray(read([_opened(file) for file in batch]), np.float32)
            if not np.isfinite(part).all():
                raise InputError(
                    f"image model {settings.item_image_model!r} returned NaN or infinity. Set "
                    "item_image_precision to 'float32' or use another model"
                )
            parts.append(part)
            checkpoint.save_when_due(lambda: {"vectors": torch.from_numpy(np.concatenate(parts))})
            bar.update(len(batch))
    return np.concatenate(parts)


def _opened(file: Path) -> Image:
    """The pixels in RGB, upright, on white where they are transparent; of a film the first one."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise _package_missing("pillow") from error
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            layer = upright.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert(
                "RGB"
            )
    # Pillow's decoders fail with any of these on a damaged file; a bomb is too many pixels.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{str(file)!r} cannot be read as an image ({error}). Repair it, or empty its cell"
        ) from error


def _package_missing(name: str) -> InputError:
    return InputError(
        f"setting 'item_image_model' needs the package {name}, which is not installed: "
        'pip install "recbole-sid[images]", or give your own vectors with item_image_file'
    )


def _skimage_version() -> str:
    try:
        return importlib.metadata.version("scikit-image")
    except importlib.metadata.PackageNotFoundError as error:
        raise _package_missing("scikit-image") from error


def _plain_reader() -> Reader:
    return lambda images: np.stack([plain_features(image) for image in images])


def plain_features(image: Image) -> np.ndarray:
    """Colours and edges of one image, without anything learned: float32 (396,) of length 1.

    The first 72 are the square roots of the shares of colours, by hue, saturation and value; the
    others are histograms of oriented gradients (Dalal and Triggs, 2005) of the image scaled to
    a square. Both halves have the same length; an image without any edge has the first alone.
    """
    from skimage.color import rgb2gray, rgb2hsv
    from skimage.feature import hog
    from skimage.transform import resize

    square = resize(np.asarray(image), (PLAIN_SIDE, PLAIN_SIDE), anti_aliasing=True)  # 0 to 1
    bounds = [(0.0, 1.0)] * 3
    colours, _ = np.histogramdd(rgb2hsv(square).reshape(-1, 3), PLAIN_BINS, bounds)
    edges = hog(
        rgb2gray(square),
        orientations=9,
        pixels_per_cell=(PLAIN_CELL, PLAIN_CELL),
        cells_per_block=(2, 2),
    )
    # Real edges have a norm near 1 a block; rounding, far below, must not be blown up.
    halves = [np.sqrt(colours.ravel() / colours.sum()), edges / max(np.linalg.norm(edges), 1e-3)]
    features = np.concatenate(halves)
    return (features / np.linalg.norm(features)).astype(np.float32)


def _model_folder(name: str) -> Path:
    try:
        return encoder.model_folder(name)
    except InputError as error:
        raise InputError(
            f"setting 'item_image_model' is {name!r}, but there is no such folder of a "
            "sentence-transformers model, no local copy, and it cannot be downloaded. Give the "
            "folder of an image model such as CLIP, 'plain' for simple features, or your own "
            "vectors with item_image_file"
        ) from error


def model_identity(folder: Path) -> list[str]:
    """Names and hashes of the files that the vectors depend on."""
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in encoder.MODEL_FILES]
    return [
        part
        for file in files
        if file.is_file()
        for part in (file.relative_to(folder).as_posix(), encoder.sha256(file))
    ]


def _model_reader(
    name: str,
    folder: Path,
    settings: ImageSettings,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Reader:
    """A sentence-transformers model; it runs under autocast unless in float32."""
    from sentence_transformers import SentenceTransformer

    # What libraries raise for a folder of something else, or for images given to a text model.
    wrong = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)

    def refused(error: Exception) -> InputError:
        return InputError(
            f"image model {name!r}: the folder {str(folder)!r} is no sentence-transformers model "
            f"that reads images ({error})"
        )

    try:
        model: Any = SentenceTransformer(str(folder), device=str(device))
    except wrong as error:
        raise refused(error) from error
    logger.info("Item images: reading images with %s in %s", folder.name, dtype)

    def read(images: Sequence[Image]) -> np.ndarray:
        kind = torch.device(device).type
        try:
            with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
                found = model.encode(
                    list(images),
                    batch_size=settings.item_image_batch_size,
                    show_progress_bar=False,
                    convert_to_tensor=True,
                )
        except wrong as error:
            raise refused(error) from error
        return torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy()

    return read
