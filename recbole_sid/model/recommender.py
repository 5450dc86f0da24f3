"""The recommender that RecBole sees: one thin class over (tokenizer, generator)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_sid.generator.availability import Available
from recbole_sid.generator.base import Generator
from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.model.behaviour import Histories, behaviour_vectors
from recbole_sid.model.dataset import split_rows, training_interactions
from recbole_sid.model.ranking import rank_histories
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.pipeline import Stage1, item_vectors, semantic_ids

if TYPE_CHECKING:
    from recbole_sid.config import Config


class SIDRecommender(SequentialRecommender):
    """A sequential recommender that writes the next item's SID.

    Constructing it runs stage 1 (items to SIDs, cached) unless ``sids`` are given; training it is
    stage 2. ``calculate_loss``, ``predict`` and ``full_sort_predict`` are RecBole's contract and
    work with its own trainer; our trainer uses ``rank`` and the generator's losses instead.

    Attributes:
        sids: of the items, rows in the dataset's order.
        embeddings: float32 (n_items, d), dense vectors that the tokenizer made besides; None from
            others, and where ``sids`` were given.
        tokenizer_weights: what ``Tokenizer.assign`` takes to give further items their codes; None
            from tokenizers that cannot, and where ``sids`` were given.
        generator: what is trained.
    """

    input_type = InputType.POINTWISE
    sids: SemanticIDs
    generator: Generator

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        sids: SemanticIDs | None = None,
        vectors: np.ndarray | None = None,
    ):
        """
        Args:
            config: our ``Config``.
            dataset: RecBole's dataset; its items are the catalogue.
            sids: SIDs of the catalogue, of any row order; None computes or loads them.
            vectors: (n_items, d) content vectors in the dataset's order, for a generator that
                needs them; None computes or loads them.

        Raises:
            InputError: ``sids`` lack items of the dataset, or hold others.
        """
        super().__init__(config, dataset)
        tokens = tuple(dataset.field2id_token[self.ITEM_ID][1:].tolist())
        self.embeddings: np.ndarray | None = None
        self.tokenizer_weights: Mapping[str, np.ndarray] | None = None
        self.fit_seconds: float | None = None
        if sids is None:
            made = stage_1(config, dataset, tokens)
            sids, self.embeddings, self.tokenizer_weights, self.fit_seconds = made
        self.sids = sids.aligned(tokens)
        users = dataset.field2id_token[self.USER_ID]
        generator_class = config.generator_spec.cls
        settings = config.generator_settings
        if vectors is None and generator_class.needs_vectors(settings):
            vectors = item_vectors(config, tokens)
        catalogue = Catalogue(self.sids, vectors)
        self.generator = generator_class(
            settings, catalogue, self.max_seq_length, user_buckets(users)
        )
        self.beam_size = config["beam_size"]

    @property
    def vectors(self) -> np.ndarray | None:
        """Content vectors (n_items, d) in the order of ``sids``; None where none are used."""
        vectors = self.generator.catalogue.vectors
        return None if vectors is None else vectors[1:].cpu().numpy()

    def history(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor]:
        """Users (B,), the last items of their histories (B, T) left aligned, and lengths (B,)."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return interaction[self.USER_ID], *last_items(items, lengths, self.max_seq_length)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean loss of RecBole's prefix samples."""
        return self.generator.prefix_loss(*self.history(interaction), interaction[self.ITEM_ID])

    def predict(self, interaction: Interaction) -> Tensor:
        """Exact log-likelihood (B,) of each row's item, teacher forced."""
        items = interaction[self.ITEM_ID][:, None]
        return self.generator.log_likelihood(*self.history(interaction), items)[:, 0]

    def rank(
        self,
        interaction: Interaction,
        k: int,
        excluded: Tensor | None = None,
        available: Available | None = None,
    ) -> Ranked:
        """The ``k`` best items of each row; no users x items matrix is made.

        Args:
            excluded, available: as in :func:`recbole_sid.model.ranking.rank_histories`.
        """
        return self.rank_histories(*self.history(interaction), k, excluded, available)

    def rank_histories(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        excluded: Tensor | None = None,
        available: Available | None = None,
    ) -> Ranked:
        """:func:`recbole_sid.model.ranking.rank_histories` with the model's ``beam_size``."""
        return rank_histories(
            self.generator, users, history, lengths, k, self.beam_size, excluded, available
        )

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items, (B * n_items,), for RecBole's own trainer and case study.

        Only generated items have finite scores. A beam of at least max(topk) leaves finite scores
        enough for every list that RecBole takes from them.
        """
        ranked = self.rank(interaction, self.generator.catalogue.n_items)
        scores = torch.full((len(ranked.items), self.n_items), -torch.inf, device=self.device)
        scores.scatter_(1, ranked.items, ranked.scores)
        scores[:, 0] = -torch.inf
        return scores.flatten()


def user_buckets(users: Iterable[object]) -> Tensor:
    """A hash (n,) of each raw user token, which does not move with RecBole's internal ids."""
    return torch.tensor([zlib.crc32(str(user).encode()) for user in users], dtype=torch.int64)


def last_items(items: Tensor, lengths: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The last ``window`` items of left-aligned histories, left aligned again.

    Args:
        items: (B, T) item ids, 0 on the right.
        lengths: (B,).

    Returns:
        (B, min(T, window, longest)) items and (B,) lengths.
    """
    kept = lengths.clamp(max=window)
    width = int(kept.max()) if len(kept) else 0
    position = torch.arange(width, device=items.device)
    index = (lengths - kept)[:, None] + position
    held = position < kept[:, None]
    return torch.where(held, items.gather(1, torch.where(held, index, 0)), 0), kept


def stage_1(config: Config, dataset: Dataset, tokens: tuple[str, ...]) -> Stage1:
    """SIDs of the items ``tokens``, where the tokenizer sees the training split ``dataset``."""
    return semantic_ids(
        config,
        tokens,
        lambda: training_interactions(dataset, config),
        lambda: behaviour_vectors(config, tokens, training_histories(dataset, config)),
    )


def training_histories(dataset: Dataset, config: Config) -> Histories:
    """The samples of a built split; items count from 1, as in the dataset."""
    return Histories(*split_rows(dataset, config)[1:])
