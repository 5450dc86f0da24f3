"""The backbone against the plain Hugging Face model, who sees whom, and what is trained."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModel

from recbole_sid.errors import InputError
from recbole_sid.tokenizer import backbone as backbone_module
from recbole_sid.tokenizer.backbone import Backbone, BackboneSettings
from recbole_sid.tokenizer.sid_reader import Content, Images, SidReader, bucketed, padded
from tests.tokenizer.tiny_models import LAYERS, WIDTH, tiny

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")

SETTINGS = BackboneSettings(
    backbone="minilm",
    backbone_train="all",
    backbone_top_layers=2,
    backbone_lora_rank=2,
    backbone_lora_alpha=4,
    backbone_attention_dropout=0.0,
    backbone_checkpointing=False,
    backbone_content_sees_sids=False,
    backbone_insert="bottom",
)
LEVELS = 3
ENCODERS = ["bert", "roberta"]
CAUSAL = ["gpt2", "qwen2"]
KINDS = ENCODERS + CAUSAL
TOP: dict[str, Any] = {"backbone_train": "top", "backbone_insert": "top"}
WAYS: list[dict[str, Any]] = [{}, TOP]
# Three items: 2, 5 and 1 tokens.
TOKENS = np.array([3, 4, 5, 6, 7, 8, 9, 10], np.int32)
OFFSETS = np.array([0, 2, 7, 8])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: tiny(kind, folder) for kind in [*KINDS, "t5"]}


def reader(folder: str, image_dim: int | None = None, **changes: Any) -> SidReader:
    """A reader with dropout off."""
    torch.manual_seed(0)
    settings = dataclasses.replace(SETTINGS, backbone=folder, **changes)
    return SidReader(Backbone(settings), LEVELS, image_dim).eval()


def content(of: SidReader, dtype: torch.dtype = torch.float32) -> Content:
    return of.content(TOKENS, OFFSETS, dtype, batch_size=2, progress=False)


def read(of: SidReader, *rows: int) -> Tensor:
    return of(*content(of).batch(np.array(rows), "cpu"))


def last_states(of: SidReader, row: int) -> Tensor:
    """What the backbone gives for one item at every place of its sequence: (S, h)."""
    return all_states(of, *content(of).batch(np.array([row]), "cpu"))


def all_states(of: SidReader, *batch: Tensor) -> Tensor:
    """The same for a batch of one item."""
    given: list[Any] = []
    handle = of.backbone.register_forward_pre_hook(lambda _m, inputs: given.append(inputs))
    of(*batch)
    handle.remove()
    states, mask, _ = given[0]
    return of.backbone(states, mask, torch.arange(states.shape[1]).unsqueeze(0))[0].detach()


@pytest.mark.parametrize("kind", KINDS)
def test_knows_the_model(kind: str, folders: dict[str, str]) -> None:
    backbone = Backbone(dataclasses.replace(SETTINGS, backbone=folders[kind]))
    assert backbone.causal is (kind in CAUSAL)
    assert (backbone.width, backbone.n_layers) == (WIDTH, LAYERS)
    # RoBERTa's positions begin at 2, behind its padding token 1.
    assert backbone.max_positions == (30 if kind == "roberta" else 32)


def test_a_bert_that_decodes_is_causal(tmp_path: Path) -> None:
    folder = tiny("bert", tmp_path, is_decoder=True)
    backbone = Backbone(dataclasses.replace(SETTINGS, backbone=folder))
    assert backbone.causal
    assert backbone.tokenizer("rose water")["input_ids"] == [10, 4]


def test_minilm() -> None:
    of = SidReader(Backbone(SETTINGS), LEVELS, None).eval()
    assert of.backbone.word_vectors.shape == (30522, 384)
    assert (of.backbone.n_layers, of.backbone.max_positions) == (6, 512)
    ids = of.backbone.tokenizer("Rose water")["input_ids"]
    offsets = np.array([0, len(ids)])
    lone = of.backbone.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    batch = of.content(np.array(ids, np.int32), offsets, torch.float32, 1, progress=False).batch(
        np.array([0]), "cpu"
    )
    assert of(*batch).shape == (1, 4, 384)
    torch.testing.assert_close(all_states(of, *batch)[: len(ids)], lone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ways", WAYS, ids=["bottom", "top"])
@pytest.mark.parametrize("kind", KINDS)
def test_content_is_read_as_without_sid_tokens(
    kind: str, ways: dict[str, Any], folders: dict[str, str]
) -> None:
    of = reader(folders[kind], **ways)
    plain = AutoModel.from_pretrained(folders[kind]).eval()
    alone = plain(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).last_hidden_state[0]
    torch.testing.assert_close(last_states(of, 1)[:5], alone, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        of.vectors.add_(torch.randn(of.vectors.shape))
    torch.testing.assert_close(last_states(of, 1)[:5], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_content_that_sees_sids_is_the_models_own_attention(
    kind: str, folders: dict[str, str]
) -> None:
    of = reader(folders[kind], backbone_content_sees_sids=True)
    plain = AutoModel.from_pretrained(folders[kind]).eval()
    words = plain.get_input_embeddings()(torch.tensor([[5, 6, 7, 8, 9]]))
    together = torch.cat([words, of.vectors.unsqueeze(0)], dim=1)  # (1, 5 + 4, h)
    expected = plain(inputs_embeds=together).last_hidden_state[0]
    torch.testing.assert_close(last_states(of, 1), expected, atol=1e-5, rtol=1e-4)
    if kind in ENCODERS:
        before = last_states(of, 1)[:5]
        with torch.no_grad():
            of.vectors.add_(torch.randn(of.vectors.shape))
        assert (last_states(of, 1)[:5] - before).abs().max() > 1e-3


def dependence(of: SidReader) -> list[list[bool]]:
    """Whether output token a (row) depends on learned vector b (column)."""
    out = read(of, 1)[0] @ torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))  # (L+1,)
    found = []
    for a in range(LEVELS + 1):
        (gradient,) = torch.autograd.grad(out[a], of.vectors, retain_graph=True)
        found.append((gradient.abs().sum(dim=1) > 0).tolist())
    return found


@pytest.mark.parametrize("ways", WAYS, ids=["bottom", "top"])
@pytest.mark.parametrize("kind", KINDS)
def test_who_sees_whom(kind: str, ways: dict[str, Any], folders: dict[str, str]) -> None:
    sids_see_all_sids = [[True, True, True, False]] * 3 + [[True] * 4]
    lower_triangle = [[b <= a for b in range(4)] for a in range(4)]
    expected = lower_triangle if kind in CAUSAL else sids_see_all_sids
    assert dependence(reader(folders[kind], **ways)) == expected


def test_who_sees_whom_in_full_attention(folders: dict[str, str]) -> None:
    of = reader(folders["bert"], backbone_content_sees_sids=True)
    assert dependence(of) == [[True] * 4] * 4


@pytest.mark.parametrize("ways", [*WAYS, {"backbone_content_sees_sids": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_and_padding_make_no_difference(
    kind: str, ways: dict[str, Any], folders: dict[str, str]
) -> None:
    of = reader(folders[kind], **ways)
    together = read(of, 0, 1, 2)
    for row in range(3):
        torch.testing.assert_close(read(of, row)[0], together[row], atol=1e-5, rtol=1e-4)
    # What stands behind an item's own length is not looked at.
    states, lengths = content(of).batch(np.array([0, 1, 2]), "cpu")
    states[0, 2:] = 7.0
    torch.testing.assert_close(of(states, lengths), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("kind", ["bert", "qwen2"])
def test_fused_attention_gives_the_same_as_plain_products(
    kind: str, sees: bool, folders: dict[str, str]
) -> None:
    of = reader(folders[kind], backbone_content_sees_sids=sees)
    config = of.backbone.model.config
    expected = read(of, 0, 1, 2)
    assert config._attn_implementation == "eager"
    with torch.no_grad():
        found = read(of, 0, 1, 2)
    assert config._attn_implementation == "sdpa"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_autocast(folders: dict[str, str]) -> None:
    of = reader(folders["bert"])
    expected = read(of, 0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = read(of, 0, 1)
    assert (found - expected).abs().max() < 0.2 * expected.abs().max()


def test_top_is_run_above_what_the_lower_layers_gave(folders: dict[str, str]) -> None:
    """GPT-2 by hand: the vectors enter below the last two of three blocks."""
    of = reader(folders["gpt2"], **TOP)
    model = of.backbone.model
    words = model.wte(torch.tensor([[5, 6, 7, 8, 9]])) + model.wpe.weight[:5]
    states = model.h[0](words)
    states = torch.cat([states, of.vectors.unsqueeze(0)], dim=1)  # (1, 5 + 4, h)
    for block in model.h[1:]:
        states = block(states)
    torch.testing.assert_close(read(of, 1)[0], model.ln_f(states)[0, 5:], atol=1e-5, rtol=1e-4)


def test_states_kept_in_float16(folders: dict[str, str]) -> None:
    of = reader(folders["bert"], **TOP)
    kept = content(of, torch.float16)
    assert kept.values.dtype == torch.float16
    assert kept.values.shape == (8, WIDTH)
    found = of(*kept.batch(np.array([0, 1]), "cpu"))
    torch.testing.assert_close(found, read(of, 0, 1), atol=1e-2, rtol=1e-2)


def test_states_too_large_for_float16(folders: dict[str, str]) -> None:
    of = reader(folders["gpt2"], **TOP)
    with torch.no_grad():
        of.backbone.model.wte.weight[4] *= 1e6
    with pytest.raises(InputError, match=r"do not fit into torch\.float16.*float32"):
        content(of, torch.float16)


@pytest.mark.parametrize("ways", WAYS, ids=["bottom", "top"])
def test_dropout_acts_in_training_only(ways: dict[str, Any], folders: dict[str, str]) -> None:
    of = reader(folders["bert"], **ways)
    assert torch.equal(read(of, 0, 1), read(of, 0, 1))
    of.train()
    assert not torch.equal(read(of, 0, 1), read(of, 0, 1))
    # The kept states come without it, and leave the mode as it was.
    assert torch.equal(content(of).values, content(of).values)
    assert of.backbone.model.training


def with_gradient(of: SidReader) -> set[str]:
    (read(of.train(), 0, 1) ** 2).sum().backward()
    return {name for name, value in of.named_parameters() if value.grad is not None}


def test_all_is_trained(folders: dict[str, str]) -> None:
    of = reader(folders["qwen2"])
    assert with_gradient(of) == {name for name, _ in of.named_parameters()}


@pytest.mark.parametrize("insert", ["bottom", "top"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_top_is_trained(kind: str, insert: str, folders: dict[str, str]) -> None:
    of = reader(folders[kind], backbone_train="top", backbone_insert=insert)
    expected = {name for name, _ in of.named_parameters() if ".1." in name or ".2." in name}
    assert len(expected) >= 2 * 9
    if kind == "bert":  # the short cut of its last layer leaves out what the softmax does not see
        expected.remove("backbone.model.encoder.layer.2.attention.self.key.bias")
    assert with_gradient(of) == {"vectors", *expected}


def test_nothing_of_the_model_is_trained(folders: dict[str, str]) -> None:
    for insert in ("bottom", "top"):
        of = reader(folders["bert"], backbone_train="none", backbone_insert=insert)
        assert with_gradient(of) == {"vectors"}


def test_attention_dropout_is_the_setting_not_the_model_s(tmp_path: Path) -> None:
    folder = tiny("bert", tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.9)
    for dropout, same in ((0.0, True), (0.5, False)):
        of = reader(folder, backbone_attention_dropout=dropout).train()
        given = torch.randn(1, 4, WIDTH), torch.tensor([4])
        assert torch.equal(of(*given), of(*given)) is same


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_lora(kind: str, folders: dict[str, str]) -> None:
    of = reader(folders[kind], backbone_train="lora")
    plain = reader(folders[kind])
    with torch.no_grad():
        plain.vectors.copy_(of.vectors)
    # An addition starts at zero.
    torch.testing.assert_close(read(of, 0, 1), read(plain, 0, 1))
    found = with_gradient(of) - {"vectors"}
    assert found
    assert all("lora_" in name for name in found)
    ranks = {min(value.shape) for name, value in of.named_parameters() if "lora_" in name}
    assert ranks == {2}


def test_lora_without_peft(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"needs the package peft: pip install .*lora"):
        reader(folders["bert"], backbone_train="lora")


@pytest.mark.parametrize("ways", WAYS, ids=["bottom", "top"])
@pytest.mark.parametrize("kind", ["bert", "qwen2"])
def test_checkpointing_computes_twice_and_gives_the_same(
    kind: str, ways: dict[str, Any], folders: dict[str, str]
) -> None:
    gradients, runs = [], []
    for checkpointing in (False, True):
        of = reader(folders[kind], backbone_checkpointing=checkpointing, **ways)
        kept = content(of).batch(np.array([0, 1]), "cpu")
        of.train()
        for module in of.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        count: list[int] = []
        norm = next(
            m for n, m in of.named_modules() if f".{LAYERS - 1}." in n and "norm" in n.lower()
        )
        norm.register_forward_hook(lambda *_, count=count: count.append(1))
        (of(*kept) ** 2).sum().backward()
        gradients.append(of.vectors.grad)
        runs.append(len(count))
    assert runs == [1, 2]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("kind", KINDS)
def test_images_stand_at_their_place(kind: str, folders: dict[str, str]) -> None:
    of = reader(folders[kind], image_dim=2, backbone_content_sees_sids=True)
    assert of.project is not None
    vectors = torch.randn(2, 3, 2)
    # Item 0 has its last image only, item 1 its first two.
    mask = torch.tensor([[False, False, True], [True, True, False]])
    images = Images(vectors, mask, torch.tensor([1, 5]))
    found = of(*content(of).batch(np.array([0, 1]), "cpu"), images)
    model = of.backbone.model
    words = [model.get_input_embeddings()(torch.tensor(ids)) for ids in ([3, 4], [5, 6, 7, 8, 9])]
    seen = [of.project(vectors[0, 2:]), of.project(vectors[1, :2])]
    sequences = [
        torch.cat([words[0][:1], seen[0], words[0][1:], of.vectors]),
        torch.cat([words[1], seen[1], of.vectors]),
    ]
    for row, sequence in enumerate(sequences):
        expected = model(inputs_embeds=sequence.unsqueeze(0)).last_hidden_state[0, -4:]
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ways", WAYS, ids=["bottom", "top"])
@pytest.mark.parametrize("kind", ["bert", "qwen2"])
def test_absent_images_are_as_none(
    kind: str, ways: dict[str, Any], folders: dict[str, str]
) -> None:
    of = reader(folders[kind], image_dim=2, **ways)
    kept = content(of).batch(np.array([0, 1]), "cpu")
    mask = torch.tensor([[False, False], [True, False]])
    images = Images(torch.randn(2, 2, 2), mask, torch.tensor([1, 0]))
    found, without = of(*kept, images), of(*kept)
    torch.testing.assert_close(found[0], without[0], atol=1e-5, rtol=1e-4)
    assert (found[1] - without[1]).abs().max() > 1e-3
    found[..., 0].sum().backward()  # behind a layer norm, the sum of all is a constant
    assert of.project is not None
    assert of.project.weight.grad is not None
    assert of.project.weight.grad.abs().sum() > 0


def test_a_model_that_ignores_the_mask(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_module, "HIDDEN", 0.0)
    with pytest.raises(InputError, match=r"content_sees_sids' is False, but must be true"):
        reader(folders["bert"])
    reader(folders["bert"], backbone_content_sees_sids=True)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("t5", {}, "an encoder or a causal language model. This one has an encoder and a decoder"),
        ("bert", {"backbone_train": "top", "backbone_top_layers": 4}, "at most 3: .*has 3 layers"),
        ("bert", {**TOP, "backbone_top_layers": 3}, "at most 2: .*has 3 layers"),
    ],
)
def test_models_that_do_not_fit(
    kind: str, changes: dict[str, Any], message: str, folders: dict[str, str]
) -> None:
    with pytest.raises(InputError, match=message):
        reader(folders[kind], **changes)


def test_layers_of_two_kinds(tmp_path: Path) -> None:
    folder = tiny("qwen2", tmp_path, use_sliding_window=True, max_window_layers=2, sliding_window=4)
    reader(folder, backbone_train="top")
    with pytest.raises(InputError, match=r"'bottom': the layers of .* differ in kind"):
        reader(folder, **TOP)


def test_an_encoder_with_local_layers(tmp_path: Path) -> None:
    """A mask of ours would make all of its layers global ones."""
    folder = tiny("modernbert", tmp_path)
    with pytest.raises(InputError, match=r"content_sees_sids' is False, but must be true"):
        reader(folder)
    assert read(reader(folder, backbone_content_sees_sids=True), 0).shape == (1, 4, WIDTH)


def test_no_code_from_the_folder_runs(tmp_path: Path) -> None:
    folder = Path(tiny("bert", tmp_path))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="cannot be loaded"):
        reader(str(folder))
    assert not (tmp_path / "ran").exists()


def test_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"'tokenizer_backbone' is 'no/such-model'"):
        reader("no/such-model")
    with pytest.raises(InputError, match=r"cannot be loaded as a Hugging Face model"):
        reader(str(tmp_path))


def test_weights_must_be_safetensors(tmp_path: Path) -> None:
    folder = Path(tiny("bert", tmp_path))
    state = AutoModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot be loaded .* safetensors"):
        reader(str(folder))


@pytest.mark.parametrize("ways", WAYS, ids=["bottom", "top"])
def test_too_long(ways: dict[str, Any], folders: dict[str, str]) -> None:
    of = reader(folders["bert"], **ways)

    def read_one(length: int) -> None:
        tokens, offsets = np.full(length, 3, np.int32), np.array([0, length])
        kept = of.content(tokens, offsets, torch.float32, 1, progress=False)
        of(*kept.batch(np.array([0]), "cpu"))

    read_one(28)  # 28 + 3 + 1 = 32
    with pytest.raises(InputError, match=r"takes 33 tokens .* at most 32: .* at least 1$"):
        read_one(29)


def test_tokens_of_another_model(folders: dict[str, str]) -> None:
    tokens, offsets = np.array([3, 11], np.int32), np.array([0, 2])
    with pytest.raises(InputError, match=r"token 11 is unknown .* 11 token vectors"):
        reader(folders["bert"]).content(tokens, offsets, torch.float32, 1, progress=False)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"backbone": ""}, "tokenizer_backbone'"),
        ({"backbone_top_layers": 0}, "tokenizer_backbone_top_layers"),
        ({"backbone_lora_rank": 0}, "tokenizer_backbone_lora_rank"),
        ({"backbone_lora_alpha": 0}, "tokenizer_backbone_lora_alpha"),
        ({"backbone_insert": "top"}, "tokenizer_backbone_insert"),
        ({"backbone_insert": "top", "backbone_train": "lora"}, "tokenizer_backbone_insert"),
        ({**TOP, "backbone_content_sees_sids": True}, "tokenizer_backbone_insert"),
    ],
)
def test_settings_out_of_bounds(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        dataclasses.replace(SETTINGS, **changes)


def test_padded() -> None:
    values, lengths = padded(torch.from_numpy(TOKENS), OFFSETS, np.array([2, 1, 0]))
    assert values.tolist() == [[10, 0, 0, 0, 0], [5, 6, 7, 8, 9], [3, 4, 0, 0, 0]]
    assert lengths.tolist() == [1, 5, 2]
    states, _ = padded(torch.eye(8), OFFSETS, np.array([0, 2]))
    assert states.argmax(dim=2).tolist() == [[0, 1], [7, 0]]
    assert states[1, 1].tolist() == [0.0] * 8


def test_bucketed() -> None:
    found = [rows.tolist() for rows in bucketed(np.array([2, 9, 5, 9, 1]), 2)]
    assert found == [[1, 3], [2, 0], [4]]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 7))
def test_every_row_is_in_one_bucket(lengths: list[int], batch_size: int) -> None:
    batches = list(bucketed(np.array(lengths, np.int64), batch_size))
    rows = np.concatenate([*batches, np.empty(0, np.int64)])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert all(len(rows) <= batch_size for rows in batches)
    assert (np.diff(np.array(lengths, np.int64)[rows.astype(np.int64)]) <= 0).all()
