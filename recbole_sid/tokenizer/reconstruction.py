"""UniSID's third loss: write an item's one-sentence summary from its SID and EMB states alone.

UniSID (arXiv 2602.10445): h = f_recon([Z_SID; Z_EMB]) goes to a frozen language model, and the loss
is -Σ_t log p(s_t | h, s_<t) over the summary's tokens s, here their mean. ``SmallDecoder`` (ours)
needs no language model; ``LanguageModelDecoder`` is the paper's.

f_recon is one linear layer that all L + 1 states share, and gives as many prefix tokens (the paper
leaves its shape open); the decoder tells them apart by their positions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_sid.errors import InputError
from recbole_sid.items.ragged import starts_of
from recbole_sid.settings import require
from recbole_sid.tokenizer.backbone import Backbone
from recbole_sid.tokenizer.sid_reader import padded

logger = logging.getLogger("recbole_sid")

# Values of the softmax that are in memory at a time: 64 MB.
LOGITS_AT_A_TIME = 1 << 24
# Width of the small decoder's attention heads; the next larger one that divides its width.
HEAD_WIDTH = 64


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of the summary decoder; in yaml each is spelt ``tokenizer_`` + its name.

    Attributes:
        reconstruction_decoder: ``small``, or the folder or name of a causal language model.
        reconstruction_layers: layers of the small decoder.
        reconstruction_vocabulary: tokens that the softmax runs over: ``all`` of them as in the
            paper, or those that occur in some ``summaries`` (ours): far cheaper, and the decoder
            need not learn that the rest never comes.
        reconstruction_max_length: tokens of a summary, its end token included; the rest is cut.
    """

    reconstruction_decoder: str
    reconstruction_layers: int
    reconstruction_vocabulary: Literal["summaries", "all"]
    reconstruction_max_length: int

    def __post_init__(self) -> None:
        decoder = self.reconstruction_decoder
        need = "'small' or a language model's folder"
        require(decoder != "", "tokenizer_reconstruction_decoder", decoder, need)
        layers, length = self.reconstruction_layers, self.reconstruction_max_length
        require(layers >= 1, "tokenizer_reconstruction_layers", layers, "at least 1")
        require(length >= 2, "tokenizer_reconstruction_max_length", length, "at least 2")


class Summaries:
    """Every item's summary as token ids, in one flat array.

    Attributes:
        vocabulary: int64 (V,), the model's ids of the tokens that the softmax runs over.
        targets: int64 (total,), places in ``vocabulary``.
        offsets: int64 (n + 1,), where each item's begin.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: Any, settings: ReconstructionSettings, size: int
    ) -> None:
        """
        Args:
            texts: one an item; an empty one is only an end token.
            tokenizer: a Hugging Face tokenizer that knows an end (or separator) token.
            size: how many token vectors the model has.
        """
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        if end is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path!r} knows neither an end nor a separator "
                "token, which a summary ends with: set eos_token in its tokenizer_config.json"
            )
        if end >= size:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path!r} ends a text with token {end}, but "
                f"the model has only {size} token vectors: they do not belong together"
            )
        most = settings.reconstruction_max_length - 1
        # Distinct texts are few where a template wrote them.
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        encoded = tokenizer(list(place), add_special_tokens=False)["input_ids"] if place else []
        parts = [[*ids[:most], end] for ids in encoded]
        rows = [parts[place[text]] for text in texts]
        self.offsets = starts_of(np.fromiter(map(len, rows), np.int64, len(rows)))
        ids = np.fromiter((token for row in rows for token in row), np.int64, self.offsets[-1])
        if settings.reconstruction_vocabulary == "summaries":
            vocabulary, targets = np.unique(ids, return_inverse=True)
        else:
            vocabulary, targets = np.arange(size), ids
        self.vocabulary = torch.from_numpy(vocabulary)
        self.targets = torch.from_numpy(targets.astype(np.int64))

    def batch(self, rows: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Targets int64 (B, T), and which of them are there: bool (B, T)."""
        targets, lengths = padded(self.targets, self.offsets, rows)
        present = torch.arange(targets.shape[1]) < lengths.unsqueeze(1)
        return targets.to(device), present.to(device)


class SmallDecoder(nn.Module):
    """A causal transformer over the backbone's own word vectors, which stay frozen.

    They are copied once, as they are before any training, and serve as input and, tied, as output.
    The transformer itself is trained, unlike the paper's language model.
    """

    words: Tensor

    def __init__(self, words: Tensor, prefix: int, layers: int, max_length: int) -> None:
        """
        Args:
            words: vectors of the vocabulary, (V, width).
            prefix: tokens that condition it, L + 1.
            layers: of the transformer.
            max_length: tokens of the longest summary.
        """
        super().__init__()
        width = words.shape[1]
        self.register_buffer("words", words.detach().clone(), persistent=False)
        self.head = nn.Linear(width, width)
        spread = float(words.detach().std())
        self.positions = nn.Parameter(spread * torch.randn(prefix + max_length, width))
        heads = max(
            count for count in range(1, max(2, width // HEAD_WIDTH + 1)) if not width % count
        )
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, states: Tensor, targets: Tensor, present: Tensor) -> Tensor:
        """Mean cross-entropy of the next token, over all tokens that are there: a scalar.

        Args:
            states: (B, L + 1, width) of SID and EMB tokens.
            targets: int64 (B, T), rows of ``words``; padding stands at the end.
            present: bool (B, T).
        """
        prefix = states.shape[1]
        given = self.words[targets[:, :-1]]  # (B, T - 1, h)
        inputs = torch.cat([self.head(states), given.to(states.dtype)], dim=1)  # (B, S, h)
        size = inputs.shape[1]
        inputs = inputs + self.positions[:size]
        causal = nn.Transformer.generate_square_subsequent_mask(size, device=inputs.device)
        # In bfloat16, the backward pass of a CPU's fused attention is several times slower.
        plain = sdpa_kernel(SDPBackend.MATH) if inputs.device.type == "cpu" else nullcontext()
        with plain:
            hidden = self.layers(inputs, mask=causal, is_causal=True)[:, prefix - 1 :]  # (B, T, h)
        return _cross_entropy(hidden, self.words, targets, present)


class LanguageModelDecoder(nn.Module):
    """A frozen causal language model; only the head in front of it is trained."""

    vocabulary: Tensor

    def __init__(self, model: Any, vocabulary: Tensor, width: int) -> None:
        """
        Args:
            model: as ``AutoModelForCausalLM`` gives it.
            vocabulary: int64 (V,), the ids that the softmax runs over.
            width: of the states that condition it.
        """
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.register_buffer("vocabulary", vocabulary, persistent=False)
        self.head = nn.Linear(width, model.get_input_embeddings().embedding_dim)
        self._require_plain_logits()

    def train(self, mode: bool = True) -> LanguageModelDecoder:
        """The language model itself stays without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, states: Tensor, targets: Tensor, present: Tensor) -> Tensor:
        """As :meth:`SmallDecoder.forward`; ``targets`` are places in ``vocabulary``."""
        prefix = states.shape[1]
        given = self.model.get_input_embeddings()(self.vocabulary[targets[:, :-1]])
        inputs = torch.cat([self.head(states).to(given.dtype), given], dim=1)  # (B, S, h)
        mask = torch.cat([present.new_ones(len(present), prefix), present[:, :-1]], dim=1)
        hidden = self._hidden(inputs, mask)[:, prefix - 1 :]  # (B, T, h)
        return _cross_entropy(hidden, self._output(), targets, present)

    def _hidden(self, inputs: Tensor, mask: Tensor) -> Tensor:
        model = self.model.base_model
        return model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state

    def _output(self) -> Tensor:
        """Output vectors of the vocabulary, (V, h)."""
        weight = self.model.get_output_embeddings().weight
        return weight if len(self.vocabulary) == len(weight) else weight[self.vocabulary]

    @torch.no_grad()
    def _require_plain_logits(self) -> None:
        """Some models scale, shift or bend their logits, which ``_output`` knows nothing of."""
        ids = self.vocabulary[:8].unsqueeze(0)  # (1, 8): one alone may be padding, a zero vector
        logits = self.model(input_ids=ids, use_cache=False).logits
        inputs = self.model.get_input_embeddings()(ids)
        hidden = self._hidden(inputs, torch.ones_like(ids, dtype=torch.bool))
        plain = hidden @ self.model.get_output_embeddings().weight.T
        if not torch.allclose(logits, plain, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
            raise InputError(
                f"setting 'tokenizer_reconstruction_decoder': the logits of a "
                f"{type(self.model).__name__} are not states times output vectors, which this "
                "decoder needs. Use another language model or 'small'"
            )


def summary_decoder(
    settings: ReconstructionSettings, backbone: Backbone, levels: int, texts: Sequence[str]
) -> tuple[SmallDecoder | LanguageModelDecoder, Summaries]:
    """The decoder that the settings name, and the summaries in its tokens.

    Args:
        backbone: not trained yet, since the small decoder copies its word vectors.
        levels: SID tokens L.
        texts: summary of every item.

    Raises:
        InputError: no such language model, or one that does not fit.
    """
    name = settings.reconstruction_decoder
    prefix = levels + 1
    if name == "small":
        words = backbone.word_vectors
        summaries = Summaries(texts, backbone.tokenizer, settings, len(words))
        used = words[summaries.vocabulary.to(words.device)]
        length, layers = settings.reconstruction_max_length, settings.reconstruction_layers
        decoder: SmallDecoder | LanguageModelDecoder = SmallDecoder(used, prefix, layers, length)
    else:
        model, tokenizer = _load_language_model(name)
        summaries = Summaries(texts, tokenizer, settings, len(model.get_output_embeddings().weight))
        decoder = LanguageModelDecoder(model, summaries.vocabulary, backbone.width)
    logger.info(
        "Summaries: %.1f tokens an item on average, %d tokens in the softmax",
        len(summaries.targets) / len(texts),
        len(summaries.vocabulary),
    )
    return decoder, summaries


def _cross_entropy(hidden: Tensor, words: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    """Mean over the tokens that are there; ``hidden`` is (B, T, h), ``words`` (V, h)."""
    states, wanted = hidden[present], targets[present]  # (n, h), (n,)
    rows = max(1, LOGITS_AT_A_TIME // len(words))
    if len(states) <= rows:
        return _summed(states, words, wanted) / len(states)
    # Logits of all tokens may be gigabytes: a block's are computed again in the backward pass.
    blocks = zip(states.split(rows), wanted.split(rows), strict=True)
    parts = [checkpoint(_summed, part, words, aim, use_reentrant=False) for part, aim in blocks]
    return torch.stack(parts).sum() / len(states)


def _summed(states: Tensor, words: Tensor, wanted: Tensor) -> Tensor:
    logits = (states @ words.T).float()  # (n, V)
    return F.cross_entropy(logits, wanted, reduction="sum")


def _load_language_model(name: str) -> tuple[Any, Any]:
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"setting 'tokenizer_reconstruction_decoder' is {name!r}, which cannot be loaded as a "
            f"causal language model with safetensors weights ({error}). Give such a model's "
            "folder, or 'small'"
        ) from error
    return model.float(), tokenizer
