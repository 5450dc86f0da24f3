"""R2LED (arXiv 2602.06622): semantic IDs in lifelong user modelling for click prediction.

Only the abstract is known here. Of the paper are: several retrieval routes over the long history at
different granularities of the semantic ID, mixed with a collaborative view; fusion of the routes by
target-aware cross-attention; a gate that merges the semantic with the collaborative embedding of an
item. Ours is all the rest: the latest items as a route of their own, the dot product as the rule of
the collaborative route, the forms of attention and gate (:mod:`.fusion`), the sum of code
embeddings as the semantic side, and the network on top. That one sees interest, target and their
product, as in DIN, and how full each route is: attention gives a mean, which alone would not tell
whether a user met one item of the target's kind or many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.layers import MLPLayers
from torch import Tensor, nn
from torch.nn.init import xavier_normal_, zeros_

from recbole_sid.errors import InputError
from recbole_sid.ranking.base import ClickModel
from recbole_sid.ranking.fusion import Gate, RouteFusion
from recbole_sid.ranking.routes import Retrieved, joined, latest, nearest, shared_prefixes
from recbole_sid.settings import require
from recbole_sid.sid.table import SemanticIDs

if TYPE_CHECKING:
    from recbole_sid.config import Config


@dataclass(frozen=True)
class R2LEDSettings:
    """Settings of :class:`R2LED`; meanings and defaults in ``properties/model/R2LED.yaml``."""

    embedding_size: int
    n_heads: int
    route_prefixes: list[int] | None
    route_collaborative: bool
    route_latest: bool
    route_items: int
    history_labels: bool
    mlp_hidden_size: list[int]
    dropout_prob: float

    def __post_init__(self) -> None:
        require(self.n_heads >= 1, "n_heads", self.n_heads, "at least 1")
        require(
            self.embedding_size >= 1 and self.embedding_size % self.n_heads == 0,
            "embedding_size",
            self.embedding_size,
            f"a multiple of n_heads = {self.n_heads}",
        )
        prefixes = self.route_prefixes
        if prefixes is not None:
            good = len(set(prefixes)) == len(prefixes) and all(length >= 1 for length in prefixes)
            require(good, "route_prefixes", prefixes, "different lengths, each at least 1")
        if prefixes == [] and not (self.route_collaborative or self.route_latest):
            raise InputError(
                "no route is left: set route_prefixes, route_collaborative or route_latest"
            )
        require(self.route_items >= 1, "route_items", self.route_items, "at least 1")
        sizes = self.mlp_hidden_size
        good = bool(sizes) and all(size >= 1 for size in sizes)
        require(good, "mlp_hidden_size", sizes, "one or more sizes above 0")
        require(0 <= self.dropout_prob < 1, "dropout_prob", self.dropout_prob, "in [0, 1)")


class R2LED(ClickModel):
    """Retrieves by routes, fuses them as the target asks for, and judges the target.

    Attributes:
        codes: int64 (n_items, L), row of the code table of every item at every level; item 0, the
            padding, has the table's last row, which is zero. A dedup digit is left out: it tells
            items with one SID apart and means nothing by itself.
        prefixes: lengths of the prefixes that are routes, in the order of the routes.
    """

    Settings = R2LEDSettings
    codes: Tensor

    def __init__(self, config: Config, dataset: Dataset, sids: SemanticIDs | None = None):
        """Arguments and errors are those of :class:`.ClickModel`; also InputError for a route by a
        prefix that is longer than the SIDs."""
        super().__init__(config, dataset, sids)
        settings: R2LEDSettings = config.stage_2_settings
        n_levels = self.sids.n_base_levels
        chosen = settings.route_prefixes
        self.prefixes = list(range(1, n_levels + 1)) if chosen is None else chosen
        longest = max(self.prefixes, default=0)
        require(
            longest <= n_levels,
            "route_prefixes",
            self.prefixes,
            f"lengths up to {n_levels}, the levels of the semantic IDs",
        )
        self.settings = settings
        self.labels_field: str = self.label_field + config["LIST_SUFFIX"]
        if settings.history_labels and self.labels_field not in dataset.inter_feat:
            raise InputError(
                "setting 'history_labels' is True, but the histories have no labels: set threshold "
                "or load the column of labels, or set it to False"
            )
        width = settings.embedding_size
        n_codes = sum(self.sids.sizes[:n_levels])
        codes = torch.full((self.n_items, n_levels), n_codes)
        codes[1:] = torch.from_numpy(self.sids.flat()[:, :n_levels])
        self.register_buffer("codes", codes, persistent=False)
        self.code_embedding = nn.Embedding(n_codes + 1, width, padding_idx=n_codes)
        self.item_embedding = nn.Embedding(self.n_items, width, padding_idx=0)
        self.label_embedding = nn.Embedding(2, width) if settings.history_labels else None
        self.gate = Gate(width)
        n_routes = len(self.prefixes) + settings.route_collaborative + settings.route_latest
        self.fusion = RouteFusion(width, n_routes, settings.n_heads)
        sizes = [3 * width + n_routes, *settings.mlp_hidden_size]
        self.mlp = MLPLayers(sizes, dropout=settings.dropout_prob)
        self.head = nn.Linear(sizes[-1], 1)
        self.apply(_initialise)

    def logits(self, interaction: Interaction) -> Tensor:
        """(B,) log-odds that each row's item is liked."""
        history, target = interaction[self.ITEM_SEQ], interaction[self.ITEM_ID]  # (B, T), (B,)
        width = history.shape[1]
        held = torch.arange(width, device=history.device) < interaction[self.ITEM_SEQ_LEN][:, None]
        positions, found = self.retrieve(history, held, target)  # (B, R, m)
        picked = history[:, None].expand(-1, positions.shape[1], -1).gather(2, positions)
        vectors = self.represent(torch.cat([target[:, None], picked.flatten(1)], dim=1))
        aim, items = vectors[:, 0], vectors[:, 1:].unflatten(1, positions.shape[1:])
        if self.label_embedding is not None:
            labels = interaction[self.labels_field].long()
            labels = labels[:, None].expand(-1, positions.shape[1], -1).gather(2, positions)
            items = items + self.label_embedding(labels)  # (B, R, m, d)
        interest = self.fusion(aim, items, found)
        filled = found.sum(dim=-1) / self.settings.route_items  # (B, R)
        return self.head(self.mlp(torch.cat([interest, aim, interest * aim, filled], dim=-1)))[:, 0]

    @torch.no_grad()
    def retrieve(self, history: Tensor, held: Tensor, target: Tensor) -> Retrieved:
        """What each route picks; routes by prefixes first, then the collaborative one, the latest.

        Args:
            history: (B, T) items, 0 where there is none.
            held: bool (B, T).
            target: (B,) items.
        """
        wanted = []
        if self.prefixes:
            shared = shared_prefixes(self.codes[history], self.codes[target])  # (B, T, L)
            wanted = [shared[..., length - 1] & held for length in self.prefixes]
        routes = []
        if wanted:
            routes.append(latest(torch.stack(wanted, dim=1), self.settings.route_items))
        if self.settings.route_collaborative:
            of_target = self.item_embedding(target)[..., None]  # (B, d, 1)
            scores = (self.item_embedding(history) @ of_target)[..., 0]  # (B, T)
            routes.append(nearest(scores[:, None], held[:, None], self.settings.route_items))
        if self.settings.route_latest:
            routes.append(latest(held[:, None], self.settings.route_items))
        return joined(routes)

    def represent(self, items: Tensor) -> Tensor:
        """Gated vectors (…, d) of items (…); each different item is computed once a batch."""
        different, place = items.unique(return_inverse=True)
        semantic = self.code_embedding(self.codes[different]).sum(dim=1)
        return F.embedding(place, self.gate(semantic, self.item_embedding(different)))


def _initialise(module: nn.Module) -> None:
    """As RecBole's click models begin; the rows of padding stay zero."""
    if isinstance(module, nn.Embedding):
        xavier_normal_(module.weight)
        if module.padding_idx is not None:
            zeros_(module.weight.data[module.padding_idx])
    elif isinstance(module, nn.Linear):
        xavier_normal_(module.weight)
        if module.bias is not None:
            zeros_(module.bias)
