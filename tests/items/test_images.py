"""Image vectors: the user's own, those of an image model, and simple features."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from recbole_sid import settings
from recbole_sid.checkpoint import Checkpoint, save_state
from recbole_sid.errors import InputError
from recbole_sid.items import images as module
from recbole_sid.items.images import (
    ImageSettings,
    ItemImages,
    image_columns,
    item_images,
    plain_features,
)
from recbole_sid.items.table import ItemTable
from recbole_sid.resources import resource_dir

DEFAULTS = yaml.safe_load((resource_dir("properties") / "schema.yaml").read_text(encoding="utf-8"))
COLOURS = {"red.png": (255, 0, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255)}
CELLS = ("red.png", "", "green.png | red.png|", "copy/red.png")
TABLE = ItemTable(("a", "b", "c", "d"), {"file": CELLS})
A, B, C = np.eye(3, dtype=np.float32)
ZERO = np.zeros(3, np.float32)


def build(**changes: Any) -> ImageSettings:
    return settings.build(ImageSettings, DEFAULTS | changes)


def run(
    folder: Path, table: ItemTable = TABLE, cache: Path | None = None, **changes: Any
) -> ItemImages | None:
    cache = cache or folder / "cache"
    return item_images(table, build(**changes), folder, cache, "cpu", progress=False)


def own(path: Path, ids: Path | None = None, **changes: Any) -> ItemImages:
    files: Any = {"item_image_file": str(path), "item_image_ids": ids and str(ids)}
    found = run(path.parent, **files, **changes)
    assert found is not None
    return found


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    (tmp_path / "ids.txt").write_text("c\nx\na\n")
    return tmp_path / "ids.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four image files, two of them the same."""
    folder = tmp_path_factory.mktemp("data")
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 30), colour).save(folder / name)
    (folder / "copy").mkdir()
    shutil.copy(folder / "red.png", folder / "copy" / "red.png")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained CLIP in the form of sentence-transformers."""
    folder = tmp_path_factory.mktemp("clip")
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    words = {"vocab_size": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**sizes, **words},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=6,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    pixels = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    kind = "sentence_transformers.models.CLIPModel"
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def by_model(
    folder: Path, clip: Path, cache: Path, table: ItemTable = TABLE, **changes: Any
) -> ItemImages:
    changes = {"item_image_precision": "float32"} | changes
    found = run(
        folder, table, cache, item_image_model=str(clip), item_image_field="file", **changes
    )
    assert found is not None
    return found


# -- settings ------------------------------------------------------------------------------------


def test_no_images_unless_a_setting_asks_for_them(tmp_path: Path) -> None:
    assert run(tmp_path) is None
    assert run(tmp_path, item_image_field="file") is None  # a column that nothing reads
    assert image_columns(build(item_image_field="file")) == []
    assert image_columns(build(item_image_field="file", item_image_model="plain")) == ["file"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_image_ids": "ids.txt"}, "'item_image_ids' is 'ids.txt'.*without item_image_file"),
        ({"item_image_model": "plain"}, "with item_image_field naming the column"),
        (
            {"item_image_model": "plain", "item_image_field": "f", "item_image_file": "v.npy"},
            "'item_image_model' is 'plain'.*empty",
        ),
        ({"item_image_max": 0}, "at least 1"),
        ({"item_image_batch_size": 0}, "at least 1"),
        ({"item_image_precision": "int8"}, "one of 'auto'"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**changes)


# -- the user's own vectors ------------------------------------------------------------------------


def test_one_vector_an_item(tmp_path: Path, ids: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([C, B, A], np.float64))
    save_file({"c": C, "x": B, "a": A}, tmp_path / "v.safetensors")
    save_file({"vectors": np.array([C, B, A])}, tmp_path / "m.safetensors")
    for found in (
        own(tmp_path / "v.npy", ids),
        own(tmp_path / "v.safetensors"),
        own(tmp_path / "m.safetensors", ids),
    ):
        assert found.vectors.dtype == np.float32
        assert found.vectors.tolist() == [[row.tolist()] for row in (A, ZERO, C, ZERO)]
        assert found.mask.tolist() == [[True], [False], [True], [False]]


def test_several_vectors_an_item(tmp_path: Path, ids: Path) -> None:
    sets = np.array([[C, A], [B, B], [A, B]])
    np.save(tmp_path / "v.npy", sets)
    blob = np.frombuffer(b'["c", "x", "a"]', np.uint8)
    save_file({"vectors": sets, "ids": blob}, tmp_path / "v.safetensors")
    for found in (own(tmp_path / "v.npy", ids), own(tmp_path / "v.safetensors")):
        np.testing.assert_array_equal(found.vectors, [[A, B], [ZERO] * 2, [C, A], [ZERO] * 2])
        assert found.mask.tolist() == [[True] * 2, [False] * 2, [True] * 2, [False] * 2]
    first = own(tmp_path / "v.npy", ids, item_image_max=1)
    np.testing.assert_array_equal(first.vectors, [[A], [ZERO], [C], [ZERO]])


def test_as_many_vectors_as_there_are(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"c": np.array([C, A, B]), "b": B, "x": np.array([A, B, C, A])}, path)
    found = own(path)
    # Three places: item x, which has four, is not asked for.
    np.testing.assert_array_equal(
        found.vectors, [[ZERO] * 3, [B, ZERO, ZERO], [C, A, B], [ZERO] * 3]
    )
    assert found.mask.sum(axis=1).tolist() == [0, 1, 3, 0]
    assert found.mask[1].tolist() == [True, False, False]
    found = own(path, item_image_max=2)
    np.testing.assert_array_equal(found.vectors[2], [C, A])
    assert found.mask.sum(axis=1).tolist() == [0, 1, 2, 0]


def test_an_item_may_be_called_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"vectors": np.array([C, A]), "b": B}, path)
    table = ItemTable(("vectors", "b"), {})
    found = run(tmp_path, table, item_image_file=str(path))
    assert found is not None
    np.testing.assert_array_equal(found.vectors, [[C, A], [B, ZERO]])
    save_file({"vectors": np.array([C, A])}, path)
    with pytest.raises(InputError, match=r"holds no ids .* Set item_image_ids"):
        own(path)


def test_own_vectors_that_do_not_fit(tmp_path: Path, ids: Path) -> None:
    bad = tmp_path / "v.safetensors"
    for tensors, message in (
        ({"y": A}, r"none of the 4 items has a vector .*first ids are 'y'"),
        ({"a": A, "b": np.ones(2)}, r"\(dimensions,\) or \(vectors, dimensions\).* 'b \(2,\)'"),
        ({"a": np.ones((1, 1, 3)), "b": A}, r"1 of 2 tensors differ: 'a \(1, 1, 3\)'"),
        ({"a": np.ones((0, 3)), "b": A}, r"1 of 2 tensors differ: 'a \(0, 3\)'"),
        ({"a": np.array([A, A * np.nan])}, "vectors of 1 items .* NaN.*: 'a'"),
    ):
        save_file(tensors, bad)
        with pytest.raises(InputError, match=message):
            own(bad)
    with pytest.raises(InputError, match=r"'item_image_file' is .* no file"):
        own(tmp_path / "none.npy", ids)
    np.save(tmp_path / "v.npy", np.ones((3, 1, 1, 1)))
    with pytest.raises(InputError, match=r"shape \(3, 1, 1, 1\).*\(items\[, vectors\], dim"):
        own(tmp_path / "v.npy", ids)
    with pytest.raises(InputError, match="Set item_image_ids"):
        own(tmp_path / "v.npy")
    with pytest.raises(InputError, match=r"'item_image_ids' is .*must end in .txt or .json"):
        own(tmp_path / "v.npy", ids.rename(tmp_path / "ids.csv"))


# -- an image model --------------------------------------------------------------------------------


def test_equals_sentence_transformers(folder: Path, clip: Path, tmp_path: Path) -> None:
    found = by_model(folder, clip, tmp_path)
    pixels = [Image.open(folder / name) for name in COLOURS]
    red, green, _ = SentenceTransformer(str(clip), device="cpu").encode(
        pixels, normalize_embeddings=True
    )
    zero = np.zeros(6)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(
        found.vectors, [[red, zero], [zero, zero], [green, red], [red, zero]], atol=1e-5
    )
    assert found.mask.tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]
    assert np.abs(red - green).max() > 0.01


def test_one_image_an_item(folder: Path, clip: Path, tmp_path: Path) -> None:
    found = by_model(folder, clip, tmp_path, item_image_max=1)
    assert found.mask.tolist() == [[1], [0], [1], [1]]
    np.testing.assert_array_equal(found.vectors[0], found.vectors[3])
    assert not np.array_equal(found.vectors[0], found.vectors[2])


def test_bf16_is_near(folder: Path, clip: Path, tmp_path: Path) -> None:
    exact = by_model(folder, clip, tmp_path).vectors[0, 0]
    near = by_model(folder, clip, tmp_path, item_image_precision="bf16").vectors[0, 0]
    assert not np.array_equal(exact, near)
    assert exact @ near > 0.999
    assert np.linalg.norm(near) == pytest.approx(1, abs=1e-5)


def test_a_hit_needs_no_model_and_a_new_image_one(
    folder: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    first = by_model(data, clip, tmp_path)

    def refuse(*_args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(module, "_model_reader", refuse)
    (data / "red.png").rename(data / "rouge.png")
    shutil.copy(data / "copy" / "red.png", data / "red.png")
    second = by_model(data, clip, tmp_path, item_image_batch_size=1)
    np.testing.assert_array_equal(second.vectors, first.vectors)
    green_first = ItemTable(("c", "a"), {"file": (CELLS[2], CELLS[0])})
    third = by_model(data, clip, tmp_path, green_first)
    np.testing.assert_array_equal(third.vectors, first.vectors[[2, 0]])
    Image.new("RGB", (20, 30), (254, 0, 0)).save(data / "red.png")
    with pytest.raises(AssertionError, match="was loaded"):
        by_model(data, clip, tmp_path)


def test_another_model_has_its_own_cache(folder: Path, clip: Path, tmp_path: Path) -> None:
    by_model(folder, clip, tmp_path / "cache")
    other = tmp_path / "clip"
    shutil.copytree(clip, other)
    processor = json.loads((other / "processor_config.json").read_text())
    (other / "processor_config.json").write_text(json.dumps(processor | {"note": "another"}))
    by_model(folder, other, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("image-*.safetensors"))) == 2


def test_goes_on_after_the_images_that_were_written(
    folder: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = by_model(folder, clip, tmp_path / "whole")
    monkeypatch.setattr(Checkpoint, "save_when_due", _save_now)
    monkeypatch.setattr(module, "_opened", _fail_after(1, module._opened))
    with pytest.raises(KeyboardInterrupt):
        by_model(folder, clip, tmp_path / "cut", item_image_batch_size=1)
    assert len(list((tmp_path / "cut").glob("*.training.pt"))) == 1
    monkeypatch.undo()
    monkeypatch.setattr(module, "_opened", _fail_after(1, module._opened))
    # Two distinct images: one was written, so one is left to read.
    rest = by_model(folder, clip, tmp_path / "cut", item_image_batch_size=1)
    np.testing.assert_allclose(rest.vectors, whole.vectors, atol=1e-6)
    assert not list((tmp_path / "cut").glob("*.training.pt"))


def _save_now(self: Checkpoint, state: Any) -> None:
    self.path.parent.mkdir(exist_ok=True)
    save_state(self.path, {"of": self.path.name, "state": state()})


def _fail_after(count: int, function: Any) -> Any:
    calls = []

    def wrapped(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > count:
            raise KeyboardInterrupt
        return function(*args)

    return wrapped


def test_what_cannot_be_read(folder: Path, clip: Path, tmp_path: Path) -> None:
    def table(*cells: str) -> ItemTable:
        return ItemTable(tuple("abc"[: len(cells)]), {"file": cells})

    use = {"item_image_model": str(clip), "item_image_field": "file"}
    with pytest.raises(InputError, match="none of the 2 items names an image in 'file'"):
        run(folder, table("", " | "), tmp_path, **use)
    with pytest.raises(InputError, match=r"1 of 2 image files of column 'file'.*none\.png"):
        run(folder, table("red.png", "none.png"), tmp_path, **use)
    (tmp_path / "junk.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.png' cannot be read as an image"):
        run(tmp_path, table("junk.png"), tmp_path, **use)
    use["item_image_model"] = "minilm"
    with pytest.raises(InputError, match=r"'minilm'.*model that reads images"):
        run(folder, table("red.png"), tmp_path, **use)
    (tmp_path / "empty").mkdir()
    use["item_image_model"] = str(tmp_path / "empty")
    with pytest.raises(InputError, match=r"'item_image_model' is .*empty', but there is no such"):
        run(folder, table("red.png"), tmp_path, **use)


def test_pixels_are_upright_and_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 2), (255, 0, 0, 255))
    clear.putpixel((3, 1), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert module._opened(tmp_path / "clear.png").getpixel((3, 1)) == (255, 255, 255)
    assert module._opened(tmp_path / "clear.png").getpixel((0, 0)) == (255, 0, 0)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("L", (4, 2)).save(tmp_path / "turned.jpg", exif=turned)
    pixels = module._opened(tmp_path / "turned.jpg")
    assert (pixels.mode, pixels.size) == ("RGB", (2, 4))


# -- simple features -------------------------------------------------------------------------------


def test_plain_needs_scikit_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=r'scikit-image.*pip install "recbole-sid\[images\]"'):
        run(folder, item_image_model="plain", item_image_field="file")


def test_plain_features_of_one_colour() -> None:
    red = plain_features(Image.new("RGB", (50, 20), (255, 0, 0)))
    assert red.shape == (396,)
    assert red.dtype == np.float32
    # Hue 0 of 8, full saturation and value: bin 0 * 9 + 2 * 3 + 2. There is no edge.
    assert red[8] == 1
    assert np.count_nonzero(red) == 1
    # Hue 2/3 of blue is in bin 5 of 8; half its value in bin 1 of 3.
    blue = plain_features(Image.new("RGB", (50, 20), (0, 0, 127)))
    assert np.flatnonzero(blue > 1e-6).tolist() == [5 * 9 + 2 * 3 + 1]


def test_plain_features_of_edges() -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[:, 64:] = 255
    standing = plain_features(Image.fromarray(pixels))
    lying = plain_features(Image.fromarray(pixels.transpose(1, 0, 2)))
    # Half black, half white: two bins of colour, and the same ones; edges of another direction.
    np.testing.assert_allclose(np.flatnonzero(standing[:72]), [0, 2])
    np.testing.assert_allclose(standing[[0, 2]], 0.5, atol=0.02)
    np.testing.assert_allclose(standing[:72], lying[:72], atol=1e-6)
    assert np.linalg.norm(standing[72:]) == pytest.approx(np.sqrt(0.5), abs=1e-5)
    assert standing[72:] @ lying[72:] < 0.1


def test_plain_vectors_of_items(folder: Path, tmp_path: Path) -> None:
    found = run(folder, cache=tmp_path, item_image_model="plain", item_image_field="file")
    assert found is not None
    assert found.vectors.shape == (4, 2, 396)
    assert found.mask.tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]
    np.testing.assert_array_equal(found.vectors[0, 0], found.vectors[2, 1])
    assert found.vectors[2, 0] @ found.vectors[2, 1] == 0  # green and red
