from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.items.schema import ItemInputs
from recbole_sid.tokenizer import unisid_reading
from recbole_sid.tokenizer.backbone import Backbone, BackboneSettings
from recbole_sid.tokenizer.sid_reader import SidReader
from recbole_sid.tokenizer.unisid_reading import _alike, _present_images, image_tensors
from tests.tokenizer.tiny_models import VOCABULARY, tiny

CPU = torch.device("cpu")


def test_batches_are_of_one_length_one_count_and_one_size(monkeypatch):
    monkeypatch.setattr(unisid_reading, "CODE_ROWS", 3)
    lengths = np.array([4, 7, 4, 4, 7, 4, 4, 7])
    counts = np.array([0, 1, 0, 0, 0, 2, 0, 1])
    batches = [(rows.tolist(), size) for rows, size in _alike(lengths, counts)]
    assert batches == [
        ([4, 4, 4], 1),  # length 7, no image
        ([1, 7, 1], 2),
        ([0, 2, 3], 3),
        ([6, 6, 6], 1),
        ([5, 5, 5], 1),
    ]


def inputs() -> ItemInputs:
    """Three items of two tokens, with 1, 0 and 2 images."""
    images = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    mask = np.array([[False, True], [False, False], [True, True]])
    position = np.array([1, 0, 2], np.int32)
    return ItemInputs(np.arange(6, dtype=np.int32), np.array([0, 2, 4, 6]), images, mask, position)


def test_empty_places_of_images_are_left_out():
    found = _present_images(inputs(), np.array([0, 0]), 1, CPU)
    assert found is not None
    assert found.vectors.tolist() == [[[2, 3]], [[2, 3]]]
    assert found.mask.tolist() == [[True], [True]]
    assert found.position.tolist() == [1, 1]
    both = _present_images(inputs(), np.array([2]), 2, CPU)
    assert both is not None
    assert both.vectors.tolist() == [[[8, 9], [10, 11]]]
    assert _present_images(inputs(), np.array([1]), 0, CPU) is None
    none = inputs()._replace(images=None, image_mask=None)
    assert _present_images(none, np.array([0]), 0, CPU) is None
    assert image_tensors(none) is None


@pytest.mark.parametrize("insert", ["top", "bottom"])
def test_what_enters_is_what_a_training_keeps(tmp_path: Path, insert):
    settings = BackboneSettings(
        backbone=tiny("bert", tmp_path), backbone_train="none", backbone_top_layers=1,
        backbone_lora_rank=1, backbone_lora_alpha=1, backbone_attention_dropout=0.0,
        backbone_checkpointing=False, backbone_content_sees_sids=False, backbone_insert=insert,
    )  # fmt: skip
    reader = SidReader(Backbone(settings), 3, None)
    ids, offsets = np.array([3, 4, 5, 6, 7, 8], np.int32), np.array([0, 3, 6])
    kept = reader.content(ids, offsets, torch.float16, 2, False)
    whole, _ = kept.batch(np.array([0, 1]), CPU)
    entering = reader.entering(torch.from_numpy(ids).long().view(2, 3), torch.float16)
    assert entering.dtype == torch.float32
    assert torch.equal(entering, whole)
    with pytest.raises(InputError, match=f"token {VOCABULARY} is unknown"):
        reader.entering(torch.full((1, 2), VOCABULARY), torch.float16)
    if insert == "top":
        with pytest.raises(InputError, match="an item takes 36 tokens"):
            reader.entering(torch.ones(1, 32, dtype=torch.int64), torch.float16)
