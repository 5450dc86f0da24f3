"""IntRR: one token a history item, and a small recursive network for its codes (Wang et al.,
arXiv 2602.20704).

A causal transformer runs over items, not over codes; its last hidden state is decoded level by
level by a :class:`RecursiveCodebook`. All prefixes of a window are trained in one pass, and beams
live in the small network alone. Since a level sees the vector and the code before and nothing else,
all items can be scored exactly as well.

In the paper an item's token is its vector after the same recursive network (``item_token:
recursive``); by default it is here the sum of the item's own code embeddings and its vector
(``codes``), normalised. An item's vector may be an embedding of its own, which new items lack, a
projection of its content vector, or both. A level's softmax is the paper's over all its codes
(``softmax: level``), or over those that lead on (``children``, :mod:`.trie_softmax`), where the
items' vectors can take part in the score (``node_vectors``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.backbone import shape_of
from recbole_sid.generator.base import Generator, require_window_targets
from recbole_sid.generator.beam import Beams, Ranked, Step, rank_items, search
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.dropout import Dropout
from recbole_sid.generator.hstu import HSTULayer
from recbole_sid.generator.kept import Kept
from recbole_sid.generator.layers import EncoderLayer, init_weights
from recbole_sid.generator.recursive import RecursiveCodebook
from recbole_sid.generator.trie_softmax import TrieSoftmax
from recbole_sid.settings import require

# Numbers that scoring all items may hold at once, in float32: 256 MB.
_SCORES_AT_ONCE = 2**26


@dataclass(frozen=True)
class IntRRSettings:
    """Settings of :class:`IntRR`; meanings and defaults in ``properties/generator/intrr.yaml``."""

    backbone: Literal["transformer", "hstu"]
    item_token: Literal["codes", "recursive"]
    item_embedding: bool
    content_vectors: bool
    softmax: Literal["level", "children"]
    node_vectors: bool
    window_stride: int
    window_targets: int | None
    decoding: Literal["exact", "beam"]
    beam_size: int
    hidden_size: int
    inner_size: int
    n_heads: int
    head_size: int
    layers: int
    codebook_inner_size: int
    dropout: float
    attention_dropout: float
    codebook_dropout: float
    embedding_init: float
    temperature: float
    reconstruction_weight: float
    label_smoothing: float

    def __post_init__(self) -> None:
        require(
            self.item_token == "codes" or self.item_embedding or self.content_vectors,
            "item_token",
            self.item_token,
            "'codes' where item_embedding and content_vectors are both off",
            "The recursive network needs a vector of the item to start from.",
        )
        require(
            not self.node_vectors or self.item_embedding or self.content_vectors,
            "node_vectors",
            True,
            "False where item_embedding and content_vectors are both off",
        )
        require(
            not self.node_vectors or self.softmax == "children",
            "node_vectors",
            True,
            "False where softmax is 'level'",
            "The codes of a level are shared by all nodes of its depth.",
        )
        require(
            self.label_smoothing == 0 or self.softmax == "level",
            "label_smoothing",
            self.label_smoothing,
            "0 where softmax is 'children'",
        )
        for key in ("window_stride", "beam_size", "hidden_size", "inner_size", "n_heads"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("head_size", "layers", "codebook_inner_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require_window_targets(self.window_targets)
        for key in ("dropout", "attention_dropout", "codebook_dropout", "label_smoothing"):
            value = getattr(self, key)
            require(0 <= value < 1, key, value, "at least 0 and below 1")
        for key in ("embedding_init", "temperature"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        weight = self.reconstruction_weight
        require(weight >= 0, "reconstruction_weight", weight, "at least 0")


class IntRR(Generator):
    """One token an item, one recursive codebook network. See the module for the paper."""

    Settings: ClassVar[type] = IntRRSettings
    decoding_settings: ClassVar[frozenset[str]] = frozenset({"beam_size", "decoding"})
    packs = True

    def __init__(
        self, settings: IntRRSettings, catalogue: Catalogue, window: int, user_buckets: Tensor
    ):
        super().__init__(settings, catalogue, window, user_buckets)
        self.settings = settings
        self._kept_tables: Kept[list[Tensor]] = Kept()
        width = settings.hidden_size
        shape = shape_of(settings)
        self.codebook = RecursiveCodebook(
            catalogue.sizes, width, settings.codebook_inner_size, settings.codebook_dropout
        )
        self.trie_softmax = TrieSoftmax(catalogue) if settings.softmax == "children" else None
        self.item_embedding = (
            nn.Embedding(catalogue.n_items + 1, width, padding_idx=0)
            if settings.item_embedding
            else None
        )
        self.content: nn.Linear | None = None
        if settings.content_vectors:
            assert catalogue.vectors is not None, "needs_vectors says that they are needed"
            self.content = nn.Linear(catalogue.vectors.shape[1], width)
        self.position = nn.Embedding(window, width)
        self.input_norm = nn.LayerNorm(width)
        layer = EncoderLayer if settings.backbone == "transformer" else HSTULayer
        self.layers = nn.ModuleList(layer(shape) for _ in range(settings.layers))
        self.output_norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=settings.embedding_init)
        if self.item_embedding is not None:
            with torch.no_grad():
                self.item_embedding.weight[0].zero_()

    @staticmethod
    def needs_vectors(settings: IntRRSettings) -> bool:
        return settings.content_vectors

    def packed_loss(
        self, users: Tensor, history: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        tokens, logits = self._items(history)
        hidden = self._backbone(tokens)  # (B, T, width)
        row, target = (targets > 0).nonzero(as_tuple=True)  # (N,) each
        loss = self._cross_entropy(hidden[row, places[row, target]], targets[row, target])
        if logits and self.settings.reconstruction_weight:
            held = history > 0
            codes = self.catalogue.codes[history[held]]
            losses = [
                F.cross_entropy(level_logits[held].float(), codes[:, level])
                for level, level_logits in enumerate(logits)
            ]
            loss = loss + self.settings.reconstruction_weight * torch.stack(losses).sum()
        return loss

    def prefix_loss(
        self, users: Tensor, history: Tensor, lengths: Tensor, targets: Tensor
    ) -> Tensor:
        return self._cross_entropy(self._last(history, lengths), targets)

    def rank(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        beam_size: int,
        available: Available | None = None,
    ) -> Ranked:
        decode = self._beams if self.settings.decoding == "beam" else self._best_leaves
        size = beam_size if self.settings.decoding == "beam" else k
        found = together(list(decode(self._last(history, lengths), size, available)))
        return rank_items(found, self.catalogue, k, available)

    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        hidden = self._last(history, lengths)[:, None].expand(*items.shape, -1)  # (B, C, width)
        return self._item_log_probs(hidden.flatten(0, 1), items.flatten()).view(items.shape)

    def _vectors(self, items: Tensor) -> Tensor | None:
        """Vectors (..., width) of items, None where the settings give items none."""
        vectors = None if self.item_embedding is None else self.item_embedding(items)
        if self.content is not None and self.catalogue.vectors is not None:
            content = self.content(self.catalogue.vectors[items])
            vectors = content if vectors is None else vectors + content
        return vectors

    def _items(self, items: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens of items (..., width), and the recursive network's logits where it made them."""
        vectors = self._vectors(items)
        if self.settings.item_token == "recursive":
            assert vectors is not None, "the settings see to it"
            return self.codebook.quantise(vectors, self.settings.temperature)
        tokens = self.codebook.embed(self.catalogue.codes[items])
        return tokens if vectors is None else tokens + vectors, []

    def _backbone(self, tokens: Tensor) -> Tensor:
        """Hidden states of left-aligned item tokens, (B, T, width); padding stands on the right,
        where a causal network never looks."""
        x = tokens + self.position.weight[: tokens.shape[1]]
        x = self.dropout(self.input_norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.output_norm(x)

    def _last(self, history: Tensor, lengths: Tensor) -> Tensor:
        """Hidden state (B, width) of each history's last item."""
        hidden = self._backbone(self._items(history)[0])
        return hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1]

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples of the sum over levels; hidden (N, width), targets (N,)."""
        if self.settings.softmax == "children":
            return -self._item_log_probs(hidden, targets).mean()
        codes = self.catalogue.codes[targets]
        losses = [
            F.cross_entropy(
                logits.float(), codes[:, level], label_smoothing=self.settings.label_smoothing
            )
            for level, logits in enumerate(self.codebook.teacher_forced(hidden, codes))
        ]
        return torch.stack(losses).sum()

    def _item_log_probs(self, hidden: Tensor, items: Tensor) -> Tensor:
        """Log-likelihood (N,) of ``items`` (N,), each from its own ``hidden`` (N, width)."""
        if self.trie_softmax is not None:
            tables = self._node_tables(self.trie_softmax)
            return self.trie_softmax.log_likelihood(self.codebook, tables, hidden, items)
        codes = self.catalogue.codes[items]  # (N, L)
        scores = torch.zeros(len(items), device=items.device)
        for level, logits in enumerate(self.codebook.teacher_forced(hidden, codes)):
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            scores += log_probs.gather(1, codes[:, level, None])[:, 0]
        return scores

    def _node_tables(self, trie_softmax: TrieSoftmax) -> list[Tensor]:
        """The nodes' vectors."""
        return self._kept_tables.get(
            self,
            self._token_weights(),
            lambda: trie_softmax.tables(self.codebook, self._all_vectors()),
        )

    def _all_vectors(self) -> Tensor | None:
        """Vectors (n_items + 1, width) of all items where the nodes are scored by them."""
        if not self.settings.node_vectors:
            return None
        vectors = None if self.item_embedding is None else self.item_embedding.weight
        if self.content is not None and self.catalogue.vectors is not None:
            content = self.content(self.catalogue.vectors)
            vectors = content if vectors is None else vectors + content
        return vectors

    def _token_weights(self) -> list[Tensor | None]:
        """All that the items' tokens and the nodes' vectors are made of."""
        weights = [*self.codebook.weights, self.catalogue.vectors]
        if self.item_embedding is not None:
            weights.append(self.item_embedding.weight)
        if self.content is not None:
            weights += [self.content.weight, self.content.bias]
        return weights

    def forget(self) -> None:
        """Drop what evaluation has kept."""
        self._kept_tables.forget()

    def train(self, mode: bool = True) -> IntRR:
        self.forget()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.forget()
        return super()._apply(fn, recurse)

    def _beams(
        self, hidden: Tensor, beam_size: int, available: Available | None = None
    ) -> Iterator[Beams]:
        """The best ``beam_size`` leaves that a beam of that width finds, some users at a time."""
        tables, a_beam = None, max(self.catalogue.sizes)
        if self.trie_softmax is not None:
            tables = self._node_tables(self.trie_softmax)
            a_beam = self.trie_softmax.numbers_per_beam(tables)
        at_once = max(1, _SCORES_AT_ONCE // (beam_size * a_beam))
        for some, of_some in _in_parts(hidden, available, at_once):
            yield search(_Scorer(self, some, tables), self.catalogue, beam_size, of_some)

    def _best_leaves(
        self, hidden: Tensor, k: int, available: Available | None = None
    ) -> Iterator[Beams]:
        """The best ``k`` leaves of all, scored exactly, in bounded chunks of users and leaves."""
        n_leaves = len(self.catalogue.leaves()[0]) - 1
        if self.trie_softmax is not None:
            tables = self._node_tables(self.trie_softmax)
            at_once = max(1, _SCORES_AT_ONCE // (4 * n_leaves))
            for some, of_some in _in_parts(hidden, available, at_once):
                scores = self.trie_softmax.leaf_log_probs(
                    self.codebook, tables, some, _SCORES_AT_ONCE
                )
                if of_some is not None:
                    scores = torch.where(of_some.leaves(0, n_leaves), scores, -torch.inf)
                scores, leaves = scores.topk(min(k, n_leaves), dim=1)
                yield _without_dead(Beams(leaves, scores))
            return
        sizes = self.catalogue.sizes
        pairs = sizes[0] + sum(a * b for a, b in itertools.pairwise(sizes))
        for some, of_some in _in_parts(hidden, available, max(1, _SCORES_AT_ONCE // pairs)):
            yield self._best_of_pairs(self.codebook.pair_log_probs(some), k, of_some)

    def _best_of_pairs(self, tables: list[Tensor], k: int, available: Available | None) -> Beams:
        first, leaf_items = self.catalogue.leaves()
        codes = self.catalogue.codes[leaf_items[first[:-1]]]  # (n_leaves, L)
        flat = [table.flatten(1) for table in tables]
        best = Beams(codes.new_empty(len(flat[0]), 0), flat[0].new_empty(len(flat[0]), 0))
        leaves_at_once = max(k, _SCORES_AT_ONCE // len(flat[0]))
        for start in range(0, len(codes), leaves_at_once):
            some = codes[start : start + leaves_at_once]
            scores = flat[0][:, some[:, 0]]  # (B, M)
            for level in range(1, self.catalogue.n_levels):
                pair = some[:, level - 1] * self.catalogue.sizes[level] + some[:, level]
                scores += flat[level][:, pair]
            if available is not None:
                alive = available.leaves(start, start + len(some))
                scores = torch.where(alive, scores, -torch.inf)
            leaves = torch.arange(start, start + len(some), device=scores.device)
            scores = torch.cat([best.scores, scores], dim=1)
            leaves = torch.cat([best.leaves, leaves.expand(len(scores), -1)], dim=1)
            scores, chosen = scores.topk(min(k, scores.shape[1]), dim=1)
            best = Beams(leaves.gather(1, chosen), scores)
        return _without_dead(best)


def _in_parts(
    hidden: Tensor, available: Available | None, at_once: int
) -> Iterator[tuple[Tensor, Available | None]]:
    """``hidden`` (B, width) and what is available, some rows at a time."""
    for start in range(0, max(1, len(hidden)), at_once):
        rows = slice(start, start + at_once)
        yield hidden[rows], None if available is None else available.rows(rows)


def together(parts: list[Beams]) -> Beams:
    """The parts in one; where there are few leaves, one part may be narrower than another."""
    width = max(part.leaves.shape[1] for part in parts)
    missing = [(0, width - part.leaves.shape[1]) for part in parts]
    pairs = list(zip(parts, missing, strict=True))
    return Beams(
        torch.cat([F.pad(part.leaves, pad) for part, pad in pairs]),
        torch.cat([F.pad(part.scores, pad, value=-torch.inf) for part, pad in pairs]),
    )


def _without_dead(beams: Beams) -> Beams:
    """Leaf 0 in the places where nothing is."""
    return Beams(torch.where(beams.scores > -torch.inf, beams.leaves, 0), beams.scores)


class _Scorer:
    """IntRR for :func:`search`: one hidden state a user, beams in the recursive network."""

    def __init__(self, model: IntRR, hidden: Tensor, tables: list[Tensor] | None):
        self.model, self.hidden, self.tables = model, hidden, tables
        self.batch_size, self.device = len(hidden), hidden.device

    def log_probs(self, step: Step) -> Tensor:
        codebook, trie_softmax = self.model.codebook, self.model.trie_softmax
        if trie_softmax is not None and self.tables is not None:
            return trie_softmax.child_log_probs(codebook, self.tables, self.hidden, step)
        before = None if step.codes is None else codebook.weights[step.level - 1][step.codes]
        logits = codebook.logits(step.level, self.hidden[:, None], before)  # (B, W, size)
        return torch.log_softmax(logits.float(), dim=-1).gather(-1, step.child_codes)
