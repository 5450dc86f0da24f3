"""The recommender that RecBole sees: one thin class over (tokenizer, generator)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_sid.generator.base import Generator
from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.pipeline import semantic_ids

if TYPE_CHECKING:
    from recbole_sid.config import Config


class SIDRecommender(SequentialRecommender):
    """A sequential recommender that writes the next item's SID.

    Constructing it runs stage 1 (items to SIDs, cached) unless ``sids`` are given; training it is
    stage 2. ``calculate_loss``, ``predict`` and ``full_sort_predict`` are RecBole's contract and
    work with its own trainer; our trainer uses ``rank`` and the generator's losses instead.
    """

    input_type = InputType.POINTWISE
    sids: SemanticIDs
    generator: Generator

    def __init__(self, config: Config, dataset: Dataset, sids: SemanticIDs | None = None):
        """
        Args:
            config: our ``Config``.
            dataset: RecBole's dataset; its items are the catalogue.
            sids: SIDs of the catalogue, of any row order; None computes or loads them.

        Raises:
            InputError: ``sids`` lack items of the dataset, or hold others.
        """
        super().__init__(config, dataset)
        tokens = tuple(dataset.field2id_token[self.ITEM_ID][1:].tolist())
        self.sids = (semantic_ids(config, tokens) if sids is None else sids).aligned(tokens)
        users = dataset.field2id_token[self.USER_ID]
        # Buckets come from the raw token, so that they do not move with RecBole's internal ids.
        buckets = torch.tensor([zlib.crc32(str(user).encode()) for user in users])
        generator_class = config.generator_spec.cls
        self.generator = generator_class(
            config.generator_settings, Catalogue(self.sids), self.max_seq_length, buckets
        )
        self.beam_size = config["beam_size"]

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

    def rank(self, interaction: Interaction, k: int) -> Ranked:
        """The ``k`` best items of each row by beam search; no users x items matrix is made."""
        return self.generator.rank(*self.history(interaction), k, self.beam_size)

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


def training_rows(dataset: Dataset, config: Config) -> tuple[np.ndarray, ...]:
    """Users, histories, lengths and targets of a built training split, as arrays."""
    rows = dataset.inter_feat
    list_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
    fields = (
        config["USER_ID_FIELD"],
        list_field,
        config["ITEM_LIST_LENGTH_FIELD"],
        config["ITEM_ID_FIELD"],
    )
    return tuple(rows[field].numpy() for field in fields)
