"""UniSID's backbone: a Hugging Face model that reads an item into L SID states and one EMB state.

Behind an item's own content stand L learned SID vectors and one learned EMB vector (§3 of UniSID,
arXiv 2602.10445); the model's last states at these L + 1 places are what the heads look at. The
sequences are packed: content, images in their place, SID, EMB, and all padding at the end, so that
positions, left or right padding and batch neighbours make no difference to an item.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from recbole_sid.errors import InputError
from recbole_sid.items.encoder import MINILM, model_folder
from recbole_sid.items.ragged import ranges
from recbole_sid.settings import require

logger = logging.getLogger("recbole_sid")

# What attention adds to a pair that may not see each other; finite in float32 and in bfloat16.
HIDDEN = torch.finfo(torch.bfloat16).min
# A state that moves by less than this, relative to the largest one, has not moved.
UNMOVED = 1e-5
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
    backbone_checkpointing: bool
    backbone_content_sees_sids: bool
    backbone_insert: Literal["bottom", "top"]

    def __post_init__(self) -> None:
        require(self.backbone != "", "tokenizer_backbone", "", "a model's name or folder")
        for name in ("backbone_top_layers", "backbone_lora_rank", "backbone_lora_alpha"):
            value = getattr(self, name)
            require(value >= 1, f"tokenizer_{name}", value, "at least 1")
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
        self.model, self.tokenizer = _load(self.name)
        config: Any = self.model.config.get_text_config()
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
                alike
                and not self._first_sees_last(_visibility(torch.tensor([[0, 0, 0, 0, 0, 1]]))),
                "tokenizer_backbone_content_sees_sids",
                False,
                f"true: not every layer of {self.name!r} keeps to a mask of query times key",
            )
        if self.from_top:
            key = "tokenizer_backbone_insert"
            require(alike, key, "top", f"'bottom': the layers of {self.name!r} differ in kind")
            self._require_layers(self.n_layers - 1)
        self._choose_trained(settings)
        if settings.backbone_checkpointing:
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

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """The last layer's states.

        Args:
            states: (B, S, width), word vectors; with ``backbone_insert: top`` states as
                :meth:`lower` gives them, and only the layers above are run.
            mask: (B, S) true at tokens, or (B, 1, S, S) to be added to the attention scores.

        Returns:
            (B, S, width).
        """
        if not self.from_top:
            return self._run(states, mask)
        entered: list[nn.Module] = list(self._layers())[-self.top_layers :]
        entered[0] = _Entry(entered[0], states)
        with self._only(entered):
            return self._run(states, mask)

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
        output = self.model(inputs_embeds=states, attention_mask=mask, use_cache=False)
        return output.last_hidden_state

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


class Images(NamedTuple):
    """Image vectors of a batch: vectors (B, m, d), mask (B, m) true where there is one, and
    position int64 (B,): after how many tokens of the content they stand."""

    vectors: Tensor
    mask: Tensor
    position: Tensor


class SidReader(nn.Module):
    """The backbone with L learned SID vectors and one EMB vector behind every item's content.

    The learned vectors start as random draws around what enters the backbone at their place (mean
    and deviation of each dimension over a sample of the vocabulary); the paper does not say.
    """

    def __init__(self, backbone: Backbone, levels: int, image_dim: int | None) -> None:
        """
        Args:
            backbone: its settings say what is trained and where the vectors enter. Still on the
                processor that loaded it.
            levels: SID tokens L.
            image_dim: dimensions of the image vectors; None without images.
        """
        super().__init__()
        self.backbone = backbone
        self.levels = levels
        mean, deviation = _entering(backbone)
        self.vectors = nn.Parameter(mean + deviation * torch.randn(levels + 1, backbone.width))
        self.project = None if image_dim is None else nn.Linear(image_dim, backbone.width)

    def forward(self, content: Tensor, lengths: Tensor, images: Images | None = None) -> Tensor:
        """The last states of the SID tokens and of the EMB token.

        Args:
            content: (B, T, width) from :meth:`Content.batch`; what is behind an item's own length
                does not matter.
            lengths: int64 (B,), tokens of each item's content.
            images: absent ones (mask false) take no place: as if the item had none.

        Returns:
            (B, L + 1, width): levels 1 … L, then EMB.

        Raises:
            InputError: the sequence is longer than the model's positions.
        """
        sources = [content]
        if images is not None:
            if self.project is None:
                raise ValueError("this reader was made without image_dim")
            sources.append(self.project(images.vectors).to(content.dtype))  # (B, m, h)
        own = self.vectors.to(content.dtype)
        sources.append(own.expand(len(content), -1, -1))
        bank = torch.cat(sources, dim=1)  # (B, N, h)
        order, filled = self._packing(content.shape[1], lengths, images)  # (B, N), (B,)
        size = int(filled.max())
        self._require_room(size)
        order = order[:, :size]  # (B, S)
        states = _take(bank, order)  # (B, S, h)

        present = torch.arange(size, device=order.device) < filled.unsqueeze(1)  # (B, S)
        mask = present
        if self.backbone.prefix_mask:
            first = bank.shape[1] - self.levels - 1
            # 0 content, 1 SID, 2 EMB; padding only looks at content, and nobody looks at padding.
            rank = (order >= first).long() + (order == bank.shape[1] - 1).long()  # (B, S)
            mask = _visibility(rank.masked_fill(~present, 0), present)
        out = self.backbone(states, mask)  # (B, S, h)
        places = torch.arange(-self.levels - 1, 0, device=order.device)
        return _take(out, filled.unsqueeze(1) + places)  # (B, L + 1, h)

    def content(
        self,
        token_ids: np.ndarray,
        offsets: np.ndarray,
        dtype: torch.dtype,
        batch_size: int,
        progress: bool,
    ) -> Content:
        """All items' content, ready to be drawn in batches.

        With ``backbone_insert: top`` the lower layers run here, once, without dropout, and what
        they give is kept: width times the size of ``dtype`` bytes a token.

        Args:
            token_ids: (total,), the items' tokens one after the other.
            offsets: int64 (n + 1,), where each item begins; every item has a token.
            dtype: type of the states that are kept, such as float16; only for ``top``.
            batch_size: items that are run at a time.
            progress: show a progress bar.

        Raises:
            InputError: an item is too long, or a state is not finite in ``dtype``.
        """
        backbone = self.backbone
        highest, size = int(token_ids.max()), len(backbone.word_vectors)
        if highest >= size:
            raise InputError(
                f"token {highest} is unknown to backbone {backbone.name!r}, which has {size} token "
                "vectors: tokenize with its own tokenizer, or name a folder where both fit"
            )
        kept = Content(torch.from_numpy(token_ids.astype(np.int64)), offsets, backbone)
        if not backbone.from_top:
            return kept
        lengths = np.diff(offsets)
        self._require_room(int(lengths.max()) + self.levels + 1)
        states = torch.empty(len(token_ids), backbone.width, dtype=dtype)
        device = backbone.word_vectors.device
        with tqdm(total=len(lengths), desc="item content", disable=not progress) as bar:
            for rows in bucketed(lengths, batch_size):
                ids, sizes = kept.tokens(rows)
                present = torch.arange(ids.shape[1]) < sizes.unsqueeze(1)  # (B, T)
                found = backbone.lower(ids.to(device), present.to(device)).cpu()
                places = torch.from_numpy(ranges(offsets[rows], lengths[rows]))
                states[places] = found[present].to(dtype)
                bar.update(len(rows))
        if not states.isfinite().all():
            raise InputError(
                f"backbone {backbone.name!r}: states of the content do not fit into {dtype}: keep "
                "them in torch.float32 or set tokenizer_backbone_insert to 'bottom'"
            )
        size = states.numel() * states.element_size()
        logger.info(
            "Item content: %d MB of states kept, %d bytes an item", size >> 20, size // len(lengths)
        )
        return Content(states, offsets, None)

    def _packing(self, width: int, lengths: Tensor, images: Images | None) -> tuple[Tensor, Tensor]:
        """The order (B, N) of [content, images, SID, EMB] that leaves no gap, and its end (B,)."""
        device = lengths.device
        token = torch.arange(width, device=device)
        absent = width + self.levels + 1 + (0 if images is None else images.mask.shape[1])
        keys = token.expand(len(lengths), -1)  # (B, T)
        filled = lengths
        parts: list[Tensor] = []
        if images is not None:
            m = images.mask.shape[1]
            place = images.position.unsqueeze(1)  # (B, 1)
            keys = keys + m * (token >= place)
            image_keys = place + torch.arange(m, device=device)
            parts.append(image_keys.masked_fill(~images.mask, absent))  # (B, m)
            filled = filled + images.mask.sum(dim=1)
        keys = keys.masked_fill(token >= lengths.unsqueeze(1), absent)
        own = torch.arange(absent - self.levels - 1, absent, device=device)
        order = torch.cat([keys, *parts, own.expand(len(lengths), -1)], dim=1)  # (B, N)
        return order.argsort(dim=1, stable=True), filled + self.levels + 1

    def _require_room(self, size: int) -> None:
        bound = self.backbone.max_positions
        if bound is not None and size > bound:
            raise InputError(
                f"an item takes {size} tokens with its images, {self.levels} SID tokens and the "
                f"EMB token, but backbone {self.backbone.name!r} reads at most {bound}: lower "
                f"schema_max_length by at least {size - bound}"
            )


class Content:
    """The content of all items, in one flat array: token ids, or states of the lower layers."""

    def __init__(self, values: Tensor, offsets: np.ndarray, embedder: Backbone | None) -> None:
        """
        Args:
            values: int64 (total,) token ids, with ``embedder``, or (total, width) states, without.
            offsets: int64 (n + 1,).
            embedder: looks the tokens' vectors up.
        """
        self.values = values
        self.offsets = offsets
        self.embedder = embedder

    def tokens(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The values of some items, (B, T, …) with zeros behind the end, and lengths (B,)."""
        return padded(self.values, self.offsets, rows)

    def batch(self, rows: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """What :class:`SidReader` takes: (B, T, width) float, and lengths int64 (B,)."""
        values, lengths = (tensor.to(device) for tensor in self.tokens(rows))
        states = values.float() if self.embedder is None else self.embedder.embed(values)
        return states, lengths


def padded(values: Tensor, offsets: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows of a flat array side by side: (B, longest, …), zeros behind the end; lengths (B,)."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    sizes = torch.from_numpy(lengths.astype(np.int64))
    present = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)  # (B, T)
    out = values.new_zeros(*present.shape, *values.shape[1:])
    out[present] = values[torch.from_numpy(ranges(starts, lengths))]
    return out, sizes


def bucketed(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows in batches of like length, longest first: int64 (at most ``batch_size``,) each."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _take(values: Tensor, places: Tensor) -> Tensor:
    """values (B, N, h) at places (B, S): (B, S, h)."""
    n_rows, n_places, width = values.shape
    first = torch.arange(n_rows, device=places.device).unsqueeze(1) * n_places
    flat = values.reshape(-1, width).index_select(0, (first + places).flatten())
    return flat.view(*places.shape, width)


def _visibility(rank: Tensor, present: Tensor | None = None) -> Tensor:
    """Additive mask (B, 1, S, S): a token sees tokens of its own rank (B, S) and of lower ones."""
    visible = rank.unsqueeze(1) <= rank.unsqueeze(2)  # (B, query, key)
    if present is not None:
        visible = visible & present.unsqueeze(1)
    mask = torch.zeros(visible.shape, device=rank.device).masked_fill_(~visible, HIDDEN)
    return mask.unsqueeze(1)


@torch.no_grad()
def _entering(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Mean and deviation (width,) of what enters where the learned vectors do."""
    size = len(backbone.word_vectors)
    rows = torch.linspace(0, size - 1, min(size, 1024)).long()
    sample = backbone.embed(rows)  # (n, h)
    if backbone.from_top:
        ids = rows[: len(rows) // 8 * 8].view(-1, 8)  # eight words a sequence
        sample = backbone.lower(ids, torch.ones_like(ids, dtype=torch.bool)).flatten(0, 1)
    return sample.mean(dim=0), sample.std(dim=0)


def _load(name: str) -> tuple[Any, Any]:
    """The model, without a pooling layer, and its tokenizer."""
    folder = Path(name).expanduser()
    if name == MINILM or not folder.is_dir():
        try:
            folder = model_folder(name)
        except InputError as error:
            raise InputError(f"setting 'tokenizer_backbone' is {name!r}: {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
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
