"""UniSID's backbone: a Hugging Face model that is given vectors, and which of its weights learn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.bert.modeling_bert import BertLayer

from recbole_sid.errors import InputError
from recbole_sid.items.encoder import MINILM, model_folder
from recbole_sid.settings import require
from recbole_sid.tokenizer.last_layer import ReadAtPlaces, take

logger = logging.getLogger("recbole_sid")

# What attention adds to a pair that may not see each other; finite in float32 and in bfloat16.
HIDDEN = torch.finfo(torch.bfloat16).min
# A state that moves by less than this, relative to the largest one, has not moved.
UNMOVED = 1e-5
# What models call it in their configuration.
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
LORA_REMEDY = 'pip install "recbole_sid[lora]"'


@dataclass(frozen=True)
class BackboneSettings:
    """Settings of the backbone; in yaml each is spelt ``tokenizer_`` + its name.

    Attributes:
        backbone: ``minilm``, a name on the Hugging Face hub, or a folder.
        backbone_train: ``all`` weights; the ``top`` layers; ``lora`` (low-rank additions to every
            linear layer, by peft); or ``none``. The paper trains the whole language model. What
            the reader adds (SID and EMB vectors, the projection of images) is trained always.
        backbone_top_layers: how many layers ``top`` counts from above, in ``backbone_train`` and
            in ``backbone_insert``. A normalisation behind the last layer stays frozen.
        backbone_lora_rank: rank of the additions.
        backbone_lora_alpha: they are scaled by alpha / rank.
        backbone_attention_dropout: of the attention weights, in place of the model's own; costly
            on a CPU.
        backbone_checkpointing: compute activations again in the backward pass: less memory.
        backbone_content_sees_sids: an encoder (causal models never do) lets every token see every
            other one. Without it, content sees content, SIDs see content and SIDs, EMB sees all,
            as close as an encoder comes to the paper's causal model.
        backbone_insert: where images, SID and EMB vectors enter. ``bottom`` is the paper's. ``top``
            is ours: they enter below the top layers, so that the states of the text in all lower,
            frozen layers are computed once per item and kept.
    """

    backbone: str
    backbone_train: Literal["all", "top", "lora", "none"]
    backbone_top_layers: int
    backbone_lora_rank: int
    backbone_lora_alpha: int
    backbone_attention_dropout: float
    backbone_checkpointing: bool
    backbone_content_sees_sids: bool
    backbone_insert: Literal["bottom", "top"]

    def __post_init__(self) -> None:
        require(self.backbone != "", "tokenizer_backbone", "", "a model's name or folder")
        for name in ("backbone_top_layers", "backbone_lora_rank", "backbone_lora_alpha"):
            value = getattr(self, name)
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")
        dropout = self.backbone_attention_dropout
        require(0 <= dropout < 1, "tokenizer_backbone_attention_dropout", dropout, "0 to below 1")
        if self.backbone_insert == "top":
            frozen = self.backbone_train in ("top", "none")
            require(
                frozen and not self.backbone_content_sees_sids,
                "tokenizer_backbone_insert",
                "top",
                "'bottom' unless tokenizer_backbone_train is 'top' or 'none' and "
                "tokenizer_backbone_content_sees_sids is false",
            )


class Backbone(nn.Module):
    """A Hugging Face encoder or causal language model, and which of its weights are trained.

    Attributes:
        tokenizer: the model's fast tokenizer.
        width: dimensions of its states.
        n_layers: how many layers it has.
        max_positions: tokens that a sequence may have; None if the model has no bound.
        causal: whether a token sees only what stands before it. Tried, not read from a name.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        """Load the model's weights (safetensors only, float32; no code from the folder runs).

        Raises:
            InputError: no such model, one of another kind, peft is not installed, or a setting
                that this model cannot follow.
        """
        super().__init__()
        self.name = settings.backbone
        self.model, self.tokenizer = _load(self.name, settings.backbone_attention_dropout)
        config: Any = self.model.config.get_text_config()
        self._attention: str = config._attn_implementation
        self.width: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        self.max_positions = _max_positions(self.model, config)
        self.causal = not self._first_sees_last(None)
        self.top_layers = settings.backbone_top_layers
        self.from_top = settings.backbone_insert == "top"
        self.prefix_mask = not (self.causal or settings.backbone_content_sees_sids)
        kinds = getattr(config, "layer_types", None)
        alike = not kinds or set(kinds) == {"full_attention"}
        if self.prefix_mask:
            require(
                alike and not self._first_sees_last(visibility(torch.tensor([[0, 0, 0, 0, 0, 1]]))),
                "tokenizer_backbone_content_sees_sids",
                False,
                f"true: not every layer of {self.name!r} keeps to a mask of query times key",
            )
        if self.from_top:
            key = "tokenizer_backbone_insert"
            require(alike, key, "top", f"'bottom': the layers of {self.name!r} differ in kind")
            self._require_layers(self.n_layers - 1)
        self._choose_trained(settings)
        self._checkpointing = settings.backbone_checkpointing
        if self._checkpointing:
            able = self.model.supports_gradient_checkpointing
            key = "tokenizer_backbone_checkpointing"
            require(able, key, True, f"false: {self.name!r} has no gradient checkpointing")
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.train()

    @property
    def word_vectors(self) -> Tensor:
        """The input embeddings, (vocabulary, width)."""
        return self.model.get_input_embeddings().weight

    def embed(self, token_ids: Tensor) -> Tensor:
        """Word vectors of ``token_ids``: (…) -> (…, width)."""
        return self.model.get_input_embeddings()(token_ids)

    def forward(self, states: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """The last layer's states at some places of every sequence.

        Args:
            states: (B, S, width), word vectors; with ``backbone_insert: top`` states as
                :meth:`lower` gives them, and only the layers above are run.
            mask: (B, S) true at tokens, or (B, 1, S, S) to be added to the attention scores.
            places: int64 (B, P).

        Returns:
            (B, P, width).
        """
        if self._layers_place() is None:
            return take(self._run(states, mask), places)
        layers: list[nn.Module] = list(self._layers())
        # A checkpointed layer is to compute its activations again, which the short cut does not.
        short = ReadAtPlaces.can_read(layers[-1]) and not self._checkpointing
        if short:
            layers[-1] = ReadAtPlaces(cast(BertLayer, layers[-1]), places)
        if self.from_top:
            layers = layers[-self.top_layers :]
            if short:  # BERT has nothing behind its layers
                self._choose_attention(states)
                for layer in layers:
                    states = layer(states, mask)
                return states
            layers[0] = _Entry(layers[0], states)
        with self._only(layers):
            found = self._run(states, mask)
        return found if short else take(found, places)

    @torch.no_grad()
    def lower(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """States of the content below the top layers: (B, T), (B, T) bool -> (B, T, width).

        They depend on nothing that is trained, and have no dropout.
        """
        below = list(self._layers())[: -self.top_layers]
        found: list[Tensor] = []

        def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        # The model's own output went through a last normalisation that these states must not see.
        handle = below[-1].register_forward_hook(keep)
        try:
            with self._only(below), self._without_dropout():
                self._run(self.embed(token_ids), mask)
        finally:
            handle.remove()
        return found[0]

    def _run(self, states: Tensor, mask: Tensor | None) -> Tensor:
        self._choose_attention(states)
        output = self.model(inputs_embeds=states, attention_mask=mask, use_cache=False)
        return output.last_hidden_state

    def _choose_attention(self, states: Tensor) -> None:
        # In bfloat16, the backward pass of a CPU's fused attention is several times slower than
        # that of plain products.
        plain = states.device.type == "cpu" and torch.is_grad_enabled()
        self.model.set_attn_implementation("eager" if plain else self._attention)

    @torch.no_grad()
    def _first_sees_last(self, mask: Tensor | None) -> bool:
        """Whether the states of the first four tokens depend on the last of six."""
        draws = torch.randn(1, 6, self.width, generator=torch.Generator().manual_seed(0))
        states = self.word_vectors.std() * draws  # (1, 6, h)
        changed = torch.cat([states[:, :-1], -states[:, -1:]], dim=1)
        with self._without_dropout():
            before, after = self._run(states, mask)[:, :4], self._run(changed, mask)[:, :4]
        return bool((before - after).abs().max() > UNMOVED * before.abs().max())

    def _choose_trained(self, settings: BackboneSettings) -> None:
        train = settings.backbone_train
        if train == "lora":
            _add_lora(self.model, settings.backbone_lora_rank, settings.backbone_lora_alpha)
            return
        self.model.requires_grad_(train == "all")
        if train == "top":
            self._require_layers(self.n_layers)
            for layer in list(self._layers())[-self.top_layers :]:
                layer.requires_grad_(True)

    def _require_layers(self, bound: int) -> None:
        require(
            self._layers_place() is not None,
            "tokenizer_backbone_top_layers",
            self.top_layers,
            f"left out: {self.name!r} keeps no list of its {self.n_layers} layers",
            "Set tokenizer_backbone_train: all and tokenizer_backbone_insert: bottom",
        )
        key = "tokenizer_backbone_top_layers"
        require(
            self.top_layers <= bound,
            key,
            self.top_layers,
            f"at most {bound}: {self.name!r} has {self.n_layers} layers",
        )

    def _layers_place(self) -> tuple[nn.Module, str] | None:
        """The module that holds the list of layers, and the list's name there."""
        for parent in self.model.modules():
            for name, child in parent.named_children():
                if isinstance(child, nn.ModuleList) and len(child) == self.n_layers:
                    return parent, name
        return None

    def _layers(self) -> nn.ModuleList:
        place = self._layers_place()
        assert place is not None  # _require_layers came first
        return getattr(*place)

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @contextmanager
    def _only(self, layers: list[nn.Module]) -> Iterator[None]:
        """While this is open, the model consists of its embeddings, ``layers``, and its end."""
        place = self._layers_place()
        assert place is not None
        whole = getattr(*place)
        setattr(*place, nn.ModuleList(layers))
        try:
            yield
        finally:
            setattr(*place, whole)


class _Entry(nn.Module):
    """A layer that is given ``states`` in place of what comes from below."""

    def __init__(self, layer: nn.Module, states: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.states = states

    def forward(self, _below: Tensor, *arguments: Any, **named: Any) -> Any:
        return self.layer(self.states, *arguments, **named)


def visibility(rank: Tensor, present: Tensor | None = None) -> Tensor:
    """Additive mask (B, 1, S, S): a token sees tokens of its own rank (B, S) and of lower ones."""
    visible = rank.unsqueeze(1) <= rank.unsqueeze(2)  # (B, query, key)
    if present is not None:
        visible = visible & present.unsqueeze(1)
    mask = torch.zeros(visible.shape, device=rank.device).masked_fill_(~visible, HIDDEN)
    return mask.unsqueeze(1)


def _load(name: str, attention_dropout: float) -> tuple[Any, Any]:
    """The model, without a pooling layer, and its tokenizer."""
    folder = Path(name).expanduser()
    if name == MINILM or not folder.is_dir():
        try:
            folder = model_folder(name)
        except InputError as error:
            raise InputError(f"setting 'tokenizer_backbone' is {name!r}: {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for key in ATTENTION_DROPOUTS:
            if hasattr(config.get_text_config(), key):
                setattr(config.get_text_config(), key, attention_dropout)
        model = AutoModel.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"setting 'tokenizer_backbone' is {name!r}: {str(folder)!r} cannot be loaded as a "
            f"Hugging Face model with safetensors weights ({error})"
        ) from error
    kind = "an encoder or a causal language model"
    one_sided = not model.config.is_encoder_decoder
    require(one_sided, "tokenizer_backbone", name, kind, "This one has an encoder and a decoder")
    require(tokenizer.is_fast, "tokenizer_backbone", name, "a model with a fast tokenizer")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # reads the first token only; nobody asks for it here
    # A model's file may ask for half precision; training needs float32.
    return model.float(), tokenizer


def _max_positions(model: nn.Module, config: Any) -> int | None:
    bound = getattr(config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin begin to count behind the place of their padding token.
            kept = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - kept
    return bound


def _add_lora(model: Any, rank: int, alpha: int) -> None:
    """Freeze ``model`` and add trainable low-rank matrices to all its linear layers, in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(
            "setting 'tokenizer_backbone_train' is 'lora', which needs the package peft: "
            f"{LORA_REMEDY}"
        ) from error
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
    inject_adapter_in_model(config, model)
