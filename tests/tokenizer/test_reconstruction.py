"""The summary decoders: cross-entropy by hand, who gets gradient, padding, bounded softmax."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, CohereForCausalLM

from recbole_sid.errors import InputError
from recbole_sid.tokenizer import reconstruction
from recbole_sid.tokenizer.backbone import Backbone
from recbole_sid.tokenizer.reconstruction import (
    LanguageModelDecoder,
    ReconstructionSettings,
    SmallDecoder,
    Summaries,
    summary_decoder,
)
from tests.tokenizer.test_backbone import SETTINGS as BACKBONE
from tests.tokenizer.tiny_models import VOCABULARY, WIDTH, tiny

SETTINGS = ReconstructionSettings(
    reconstruction_decoder="small",
    reconstruction_layers=2,
    reconstruction_vocabulary="summaries",
    reconstruction_max_length=6,
)
LEVELS = 3
# As ids: 3 5 9 6 (a bowl of home); 10 4 (rose water); none. An end token [SEP] = 2 follows each.
TEXTS = ["a bowl of home", "rose water", "", "rose water"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: tiny(kind, folder) for kind in ("bert", "gpt2", "qwen2")}


@pytest.fixture(scope="module")
def backbone(folders: dict[str, str]) -> Backbone:
    return Backbone(dataclasses.replace(BACKBONE, backbone=folders["bert"]))


def decoder_and_summaries(
    backbone: Backbone, **changes: Any
) -> tuple[SmallDecoder | LanguageModelDecoder, Summaries]:
    torch.manual_seed(0)
    settings = dataclasses.replace(SETTINGS, **changes)
    return summary_decoder(settings, backbone, LEVELS, TEXTS)


def states_of(n: int) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(n, LEVELS + 1, WIDTH, requires_grad=True)


def rows_of(*rows: int) -> np.ndarray:
    return np.array(rows, np.int64)


def test_summaries_in_tokens(backbone: Backbone) -> None:
    found = Summaries(TEXTS, backbone.tokenizer, SETTINGS, VOCABULARY)
    assert found.vocabulary.tolist() == [2, 3, 4, 5, 6, 9, 10]
    assert found.offsets.tolist() == [0, 5, 8, 9, 12]
    targets, present = found.batch(rows_of(1, 0), "cpu")
    assert found.vocabulary[targets[0, :3]].tolist() == [10, 4, 2]
    assert found.vocabulary[targets[1]].tolist() == [3, 5, 9, 6, 2]
    assert present.tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_summaries_over_the_whole_vocabulary_and_cut(backbone: Backbone) -> None:
    settings = dataclasses.replace(
        SETTINGS, reconstruction_vocabulary="all", reconstruction_max_length=3
    )
    found = Summaries(TEXTS, backbone.tokenizer, settings, VOCABULARY)
    assert found.vocabulary.tolist() == list(range(VOCABULARY))
    assert found.targets.tolist() == [3, 5, 2, 10, 4, 2, 2, 10, 4, 2]


def test_a_tokenizer_without_an_end(backbone: Backbone) -> None:
    class Endless:
        eos_token_id = sep_token_id = None
        name_or_path = "endless"

    with pytest.raises(InputError, match="'endless' knows neither an end nor a separator"):
        Summaries(TEXTS, Endless(), SETTINGS, VOCABULARY)


def test_a_tokenizer_of_another_model(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="with token 2, but the model has only 2 token vectors"):
        Summaries(TEXTS, backbone.tokenizer, SETTINGS, 2)


def test_cross_entropy_by_hand() -> None:
    # Two words; states times words are the logits (1, 0), (0, 2) and, in the padding, (9, 9).
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [9.0, 9.0]]])
    targets, present = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[True, True], [True, False]])
    # -ln e/(e+1) = 0.3133, -ln 1/(1+e²) = 2.1269, -ln 1/2 = 0.6931: mean 3.1333 / 3.
    found = reconstruction._cross_entropy(hidden, torch.eye(2), targets, present)
    assert found.item() == pytest.approx((0.31326 + 2.12693 + math.log(2)) / 3, abs=1e-5)


def test_the_small_decoder_step_by_step() -> None:
    """Token t is told from the prefix and the tokens before it, at the place before it."""
    torch.manual_seed(0)
    decoder = SmallDecoder(torch.randn(5, WIDTH), prefix=2, layers=1, max_length=4).eval()
    states = torch.randn(1, 2, WIDTH)
    wanted = [3, 1, 4]
    logs = []
    for t, token in enumerate(wanted):
        tokens = torch.cat([decoder.head(states[0]), decoder.words[wanted[:t]]])  # (2 + t, h)
        # One layer: the last state depends on the layer's inputs alone, so no mask is needed.
        hidden = decoder.layers((tokens + decoder.positions[: 2 + t]).unsqueeze(0))
        logs.append((decoder.words @ hidden[0, -1]).log_softmax(0)[token].item())
    found = decoder(states, torch.tensor([wanted]), torch.ones(1, 3, dtype=torch.bool))
    assert found.item() == pytest.approx(-sum(logs) / 3, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_the_language_model_step_by_step(kind: str, folders: dict[str, str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[kind])
    decoder = LanguageModelDecoder(model, torch.arange(VOCABULARY), width=WIDTH)
    states = states_of(1)
    wanted = [10, 4, 2]
    logs = []
    for t, token in enumerate(wanted):
        words = model.get_input_embeddings()(torch.tensor(wanted[:t], dtype=torch.int64))
        sequence = torch.cat([decoder.head(states[0]), words]).unsqueeze(0)
        logits = model(inputs_embeds=sequence).logits[0, -1]
        logs.append(logits.log_softmax(0)[token].item())
    found = decoder(states, torch.tensor([wanted]), torch.ones(1, 3, dtype=torch.bool))
    assert found.item() == pytest.approx(-sum(logs) / 3, abs=1e-5)


def test_part_of_the_vocabulary(backbone: Backbone, folders: dict[str, str]) -> None:
    """Σ over fewer words: the loss is that of the whole vocabulary, renormalised."""
    for name in ("small", folders["gpt2"]):
        part, few = decoder_and_summaries(backbone, reconstruction_decoder=name)
        whole, all_of_them = decoder_and_summaries(
            backbone, reconstruction_decoder=name, reconstruction_vocabulary="all"
        )
        whole.load_state_dict(part.state_dict())
        rows = rows_of(0, 1, 2)
        loss = part(states_of(3), *few.batch(rows, "cpu"))
        assert loss < whole(states_of(3), *all_of_them.batch(rows, "cpu"))
    # The same words in the same order: the loss of the part is that of the whole.
    decoder, summaries = decoder_and_summaries(backbone)
    assert isinstance(decoder, SmallDecoder)
    expected = backbone.word_vectors[summaries.vocabulary]
    assert torch.equal(decoder.words, expected)


@pytest.mark.parametrize("name", ["small", "gpt2"])
def test_padding_and_neighbours(name: str, backbone: Backbone, folders: dict[str, str]) -> None:
    decoder, summaries = decoder_and_summaries(
        backbone, reconstruction_decoder=folders.get(name, name)
    )
    states = states_of(3)
    together = decoder(states, *summaries.batch(rows_of(0, 1, 2), "cpu"))
    # A summary of 5, 3 and 1 tokens: their mean over tokens, not over items.
    alone = [
        decoder(states[row : row + 1], *summaries.batch(rows_of(row), "cpu")).item()
        for row in range(3)
    ]
    expected = (5 * alone[0] + 3 * alone[1] + 1 * alone[2]) / 9
    assert together.item() == pytest.approx(expected, abs=1e-5)
    targets, present = summaries.batch(rows_of(0, 1, 2), "cpu")
    targets = targets.masked_fill(~present, 1)
    assert decoder(states, targets, present).item() == pytest.approx(together.item(), abs=1e-6)


@pytest.mark.parametrize("name", ["small", "gpt2"])
def test_gradient(name: str, backbone: Backbone, folders: dict[str, str]) -> None:
    decoder, summaries = decoder_and_summaries(
        backbone, reconstruction_decoder=folders.get(name, name)
    )
    decoder.train()
    states = states_of(2)
    decoder(states, *summaries.batch(rows_of(0, 1), "cpu")).backward()
    assert states.grad is not None
    # SID and EMB states alike say something about the summary.
    assert (states.grad.abs().sum(dim=2) > 0).all()
    found = {name for name, value in decoder.named_parameters() if value.grad is not None}
    trained = {name for name, value in decoder.named_parameters() if value.requires_grad}
    assert found == trained
    if isinstance(decoder, LanguageModelDecoder):
        assert found == {"head.weight", "head.bias"}
        assert not decoder.model.training
    else:
        assert {"head.weight", "positions"} < found
        assert not decoder.words.requires_grad


def test_words_stay_as_they_were(backbone: Backbone) -> None:
    decoder, _ = decoder_and_summaries(backbone, reconstruction_vocabulary="all")
    assert isinstance(decoder, SmallDecoder)
    before = decoder.words.clone()
    with torch.no_grad():
        backbone.word_vectors.add_(1.0)
        assert torch.equal(decoder.words, before)
        backbone.word_vectors.sub_(1.0)


def test_it_learns(backbone: Backbone) -> None:
    """Two items, two summaries: the states tell them apart, so the loss goes to nothing."""
    decoder, summaries = decoder_and_summaries(backbone)
    states = states_of(2).detach()
    batch = summaries.batch(rows_of(0, 1), "cpu")
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = decoder(states, *batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert losses[-1] < 0.05
    swapped = decoder(states.flip(0), *batch)
    assert swapped > 1.0


def test_softmax_in_blocks(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, summaries = decoder_and_summaries(backbone)
    batch = summaries.batch(rows_of(0, 1, 2), "cpu")
    found = []
    # 9 tokens, 7 words: all at once, or two tokens at a time.
    for limit in (1 << 24, 14):
        monkeypatch.setattr(reconstruction, "LOGITS_AT_A_TIME", limit)
        states = states_of(3)
        loss = decoder(states, *batch)
        loss.backward()
        found.append((loss.item(), states.grad))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_bfloat16_autocast(backbone: Backbone, folders: dict[str, str]) -> None:
    for name in ("small", folders["gpt2"]):
        decoder, summaries = decoder_and_summaries(backbone, reconstruction_decoder=name)
        batch = summaries.batch(rows_of(0, 1), "cpu")
        expected = decoder(states_of(2), *batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = decoder(states_of(2), *batch)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected.item(), rel=0.05)


def test_language_models_that_do_not_fit(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'tokenizer_reconstruction_decoder' is .*cannot be"):
        decoder_and_summaries(backbone, reconstruction_decoder=str(tmp_path))
    # Cohere's logits are states times output vectors, times a factor.
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = CohereConfig(vocab_size=11, num_attention_heads=2, logit_scale=0.1, **sizes)
    with pytest.raises(InputError, match="logits of a CohereForCausalLM are not"):
        LanguageModelDecoder(CohereForCausalLM(config), torch.arange(11), WIDTH)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reconstruction_decoder", ""),
        ("reconstruction_layers", 0),
        ("reconstruction_max_length", 1),
    ],
)
def test_settings_out_of_bounds(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"tokenizer_{key}"):
        dataclasses.replace(SETTINGS, **{key: value})
