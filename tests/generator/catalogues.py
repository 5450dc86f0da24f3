"""Small catalogues for the tests of generators."""

from __future__ import annotations

import numpy as np
import torch

from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.intrr import IntRR, IntRRSettings
from recbole_sid.generator.tiger import Tiger, TigerSettings
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.table import SemanticIDs


def table(codes: list[list[int]], sizes: tuple[int, ...], collision: str = "none") -> SemanticIDs:
    """SIDs of items "a", "b", … with these base codes."""
    tokens = tuple(f"i{number:03d}" for number in range(len(codes)))
    base = SemanticIDs(tokens, np.array(codes, dtype=np.int32), sizes, "none", {})
    return apply_collision(base, collision)


def random_table(
    rng: np.random.Generator, n_items: int, sizes: tuple[int, ...], collision: str
) -> SemanticIDs:
    codes = np.stack([rng.integers(0, size, n_items) for size in sizes], axis=1)
    return table(codes.tolist(), sizes, collision)


def tiger(sids: SemanticIDs, seed: int = 0, window: int = 6, **changes: object) -> Tiger:
    """A small Tiger in evaluation mode with random weights, float32, no dropout."""
    values: dict[str, object] = {
        "training": "packed",
        "encoder_attention": "causal",
        "history_tokens": "codes",
        "decoder_start": "learned",
        "item_embedding": False,
        "softmax": "level",
        "window_stride": 1,
        "window_targets": None,
        "beam_size": 10,
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "head_size": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "embedding_init": 1.0,
        "item_embedding_init": 1.0,
        "position_init": 1.0,
        "label_smoothing": 0.0,
        "loss_temperature": 1.0,
        "user_tokens": 0,
    }
    torch.manual_seed(seed)
    buckets = torch.arange(50) * 7
    settings = TigerSettings(**(values | changes))  # type: ignore[arg-type]
    return Tiger(settings, Catalogue(sids), window, buckets).eval()


def intrr(
    sids: SemanticIDs,
    seed: int = 0,
    window: int = 6,
    vectors: np.ndarray | None = None,
    **changes: object,
) -> IntRR:
    """A small IntRR in evaluation mode with random weights, float32, no dropout."""
    values: dict[str, object] = {
        "backbone": "transformer",
        "item_token": "codes",
        "item_embedding": True,
        "content_vectors": vectors is not None,
        "softmax": "level",
        "node_vectors": False,
        "window_stride": 1,
        "window_targets": None,
        "decoding": "exact",
        "beam_size": 10,
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "head_size": 8,
        "layers": 2,
        "codebook_inner_size": 24,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "codebook_dropout": 0.0,
        "embedding_init": 0.5,
        "temperature": 1.0,
        "reconstruction_weight": 0.0,
        "label_smoothing": 0.0,
    }
    torch.manual_seed(seed)
    buckets = torch.arange(50) * 7
    settings = IntRRSettings(**(values | changes))  # type: ignore[arg-type]
    return IntRR(settings, Catalogue(sids, vectors), window, buckets).eval()
