"""Ranked item ids into RecBole's metrics: item level, no users x items matrix, no tie trap.

RecBole's collector takes the top k of a score matrix. Where a model scores only some items, the
rest tie at -inf and ``torch.topk`` fills the list with arbitrary real items that can hit. Here the
list of generated ids is collected as it is: an empty place holds item 0, which is never a hit.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.evaluator import Evaluator
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_sid import distributed
from recbole_sid.comparison.outcomes import Outcomes
from recbole_sid.compat import FixedCollector
from recbole_sid.errors import InputError
from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.model.dataset import split_rows, split_sequences
from recbole_sid.model.exclusion import EarlierItems, contains

logger = logging.getLogger("recbole_sid")


class RecordingCollector(FixedCollector):
    """RecBole's collector, which on request keeps the lists themselves too.

    It is for whole lists (``mode: full``) and splits with one target a row, as leave-one-out has.
    """

    recorded: dict[str, list[Tensor]] | None = None

    def start_recording(self) -> None:
        self.recorded = {name: [] for name in ("users", "targets", "ranks", "ties", "lists")}

    def record(self, interaction, targets: Tensor, ranks: Tensor, ties: Tensor, lists: Tensor):
        """Keep a batch; the arguments as the fields of :class:`Outcomes`, by RecBole's ids."""
        assert self.recorded is not None, "start_recording() comes first"
        rows = (interaction[self.config["USER_ID_FIELD"]], targets, ranks, ties, lists)
        for kept, row in zip(self.recorded.values(), rows, strict=True):
            kept.append(row.cpu())

    def outcomes(self, dataset: Any) -> Outcomes:
        """What was recorded, by the raw ids of ``dataset``; nothing is recorded from here on."""
        assert self.recorded is not None, "start_recording() comes first"
        users, *numbers = (torch.cat(kept).numpy() for kept in self.recorded.values())
        self.recorded = None
        fields = (self.config["USER_ID_FIELD"], self.config["ITEM_ID_FIELD"])
        user_ids, item_ids = (dataset.field2id_token[field] for field in fields)
        return Outcomes(
            tuple(user_ids[users].tolist()),
            ("", *item_ids[1:].tolist()),
            *(array.astype(np.int32) for array in numbers),
        )

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.recorded is None:
            return
        scores, items = torch.topk(scores_tensor, max(self.topk), dim=-1)  # as RecBole does
        items = torch.where(scores == -torch.inf, 0, items)
        targets = positive_i.to(items.device)
        hits = items == targets[:, None]  # (B, K)
        ranks = torch.where(hits.any(dim=1), hits.to(torch.int8).argmax(dim=1) + 1, 0)
        self.record(interaction, targets, ranks, torch.ones_like(ranks), items)


class TopKCollector(RecordingCollector):
    """Collects :class:`Ranked` lists; RecBole's own score matrices pass through to RecBole.

    A hit is an item. Where the target shares its SID with others (``collision: none``), the model
    cannot tell them apart: the c items of the SID take c neighbouring ranks in an order that means
    nothing, so the hit is credited 1/c at each of these ranks, which is the expected metric over
    all orders. A row is collected once for each rank that the target may have, with weight 1/c.

    A target of item 0 stands for one that was left out of the list: it hits nothing.

    Of several processes each collects its own batches (None stands for a batch of another one);
    :meth:`get_data_struct` brings all rows to the first, in the order of the split.
    """

    def __init__(self, config: Config, catalogue: Catalogue):
        super().__init__(config)
        self.catalogue = catalogue
        self._sid_sizes = torch.bincount(self._sids[1:]).cpu()
        self._extra: dict[str, list[Tensor]] = {"sid_hits": [], "credit": [], "generated": []}

    @property
    def _sids(self) -> Tensor:
        """The base SID of each item as the number of its node in the trie: (n_items + 1,)."""
        return self.catalogue.node_of_item[:, self.catalogue.n_base_levels - 1]

    def eval_batch_collect(
        self,
        scores_tensor: Tensor | Ranked | None,
        interaction,
        positive_u: Tensor,
        positive_i: Tensor,
    ) -> None:
        if scores_tensor is None:
            return
        if not isinstance(scores_tensor, Ranked):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        ranked, targets = scores_tensor, positive_i.to(scores_tensor.items.device)
        items = ranked.items[:, : max(self.topk)]  # (B, K)
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", items)
        if self.register.need("rec.topk"):
            hits, weights = expected_hits(items, ranked.group_sizes, targets, self.catalogue)
            n_positives = torch.ones_like(hits[:, :1])
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, n_positives], dim=1))
            self.data_struct.update_tensor("rec.weight", weights)
        sids = self._sids[targets]  # (B,)
        same_sid = self._sids[items] == sids[:, None]  # (B, K)
        same_sid &= (items > 0) & (targets > 0)[:, None]
        self._extra["sid_hits"].append(same_sid.cumsum(dim=1).clamp(max=1).cpu())
        self._extra["credit"].append(1 / self._sid_sizes[sids.cpu()].double())
        self._extra["generated"].append((items > 0).cumsum(dim=1).cpu())
        if self.recorded is not None:
            found, first, ties = _places(items, ranked.group_sizes, targets, self.catalogue)
            # exclude_history puts 0 for a target that no list can hold.
            next_items = interaction[self.config["ITEM_ID_FIELD"]]
            self.record(interaction, next_items, torch.where(found, first + 1, 0), ties, items)

    def get_data_struct(self) -> DataStruct:
        self._bring_together()
        struct = super().get_data_struct()
        if "rec.weight" in self.data_struct:
            del self.data_struct["rec.weight"]
        return struct

    def _bring_together(self) -> None:
        """The rows of all processes to the first one; the others are left with none."""
        world = distributed.current()
        if world.alone:
            return
        held = self.data_struct._data_dict  # besides the rows, counts of the training split
        for name in world.told([name for name in held if isinstance(held[name], Tensor)]):
            rows = held.pop(name, None)
            rows = world.collected(None if rows is None else rows.cpu())
            if rows is not None:
                held[name] = rows
        for parts_of in (self._extra, self.recorded or {}):
            for name, parts in parts_of.items():
                rows = world.collected(torch.cat(parts) if parts else None)
                parts_of[name] = [] if rows is None else [rows]

    def sid_metrics(self) -> dict[str, float]:
        """SID-level figures of what was collected since the last call, and start anew.

        ``sid_recall@k``: share of rows whose first k items include one with the target's base SID
        (without the dedup digit); it counts collided items as hits and is at least recall@k.
        ``credited_recall@k``: the same, but a hit on a base SID of c items of the catalogue counts
        1/c, as if one of them were drawn (CCE, arXiv 2605.25330).
        ``generated@k``: mean share of the first k places that hold a generated item.

        A list holds items, not SIDs: several items of one base SID take several of the k places,
        with the dedup digit or without a rule. A paper that ranks k different SIDs looks further
        down, and its SID-level recall is at least the one here.
        """
        if not self._extra["generated"]:
            return {}
        collected = {name: torch.cat(parts).double() for name, parts in self._extra.items()}
        self._extra = {name: [] for name in self._extra}
        decimals = self.config["metric_decimal_place"]
        result: dict[str, float] = {}
        for k in self.topk:
            hits = collected["sid_hits"][:, k - 1]
            values = {
                "sid_recall": hits.mean(),
                "credited_recall": (hits * collected["credit"]).mean(),
                "generated": collected["generated"][:, k - 1].mean() / k,
            }
            result |= {f"{name}@{k}": round(v.item(), decimals) for name, v in values.items()}
        return result


def expected_hits(
    items: Tensor, group_sizes: Tensor, targets: Tensor, catalogue: Catalogue
) -> tuple[Tensor, Tensor]:
    """Hit flags of every rank that each row's target may have, and the weight of each.

    Args:
        items: (B, K) ranked items, 0 where there is none.
        group_sizes: (B, >= K) how many items share the SID of each.
        targets: (B,), 0 where it cannot be hit.

    Returns:
        (R, K) int32 flags with R >= B, and (R,) float64 weights that sum to B.
    """
    k = items.shape[1]
    found, first, size = _places(items, group_sizes, targets, catalogue)
    row = torch.repeat_interleave(size)  # (R,)
    start = (size.cumsum(0) - size)[row]
    rank = first[row] + torch.arange(len(row), device=row.device) - start
    # Ranks beyond K lie outside the list: no flag there.
    inside = found[row] & (rank < k)
    hits = torch.zeros(len(row), k, dtype=torch.int32, device=items.device)
    hits[inside, rank[inside]] = 1
    return hits, 1.0 / size[row].double()


def _places(
    items: Tensor, group_sizes: Tensor, targets: Tensor, catalogue: Catalogue
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the items with the target's SID stand: whether at all, from which place on (counted
    from 0), and how many they are; each (B,)."""
    leaf = catalogue.leaf_of_item
    together = (leaf[items] == leaf[targets][:, None]) & (items > 0)  # (B, K)
    found = together.any(dim=1)
    first = together.to(torch.int8).argmax(dim=1)
    return found, first, torch.where(found, group_sizes.gather(1, first[:, None])[:, 0], 1)


class WeightedEvaluator(Evaluator):
    """RecBole's evaluator with rows weighted by ``rec.weight`` in every top-k metric."""

    metric_class: dict[str, Any]

    def __init__(self, config: Config):
        super().__init__(config)
        self.metric_class = {
            name: _weighted(type(metric), config) if isinstance(metric, TopkMetric) else metric
            for name, metric in self.metric_class.items()
        }

    def evaluate(self, dataobject: DataStruct) -> OrderedDict:
        if not distributed.current().leads:
            return OrderedDict()  # the first process has the rows
        weights = dataobject.get("rec.weight").numpy() if "rec.weight" in dataobject else None
        if weights is not None and (weights == 1).all():
            weights = None  # RecBole's own mean, to the last digit
        for metric in self.metric_class.values():
            metric.row_weights = weights
        return super().evaluate(dataobject)


def _weighted(metric: type[TopkMetric], config: Config) -> TopkMetric:
    """The same metric, averaging its rows with weights."""
    return type(metric.__name__, (_WeightedMean, metric), {})(config)


class _WeightedMean:
    row_weights: np.ndarray | None = None
    topk: list[int]
    decimal_place: int

    def topk_result(self, metric: str, value: np.ndarray) -> dict[str, float]:
        if self.row_weights is None:
            return super().topk_result(metric, value)  # type: ignore[misc]
        mean = np.average(value, axis=0, weights=self.row_weights)
        return {f"{metric}@{k}": round(mean[k - 1], self.decimal_place) for k in self.topk}


class HistoryExclusion:
    """What the lists of a split leave out under ``exclude_history``, batch by batch.

    RecBole's loaders of whole lists give the rows in their order, which is how a batch is known.
    """

    def __init__(self, config: Config):
        self.config = config
        self.on: bool = config["exclude_history"]
        self._told = False
        # By the id of the split, with the split itself, so that no other one takes its id.
        self._known: dict[int, tuple[Any, EarlierItems]] = {}
        self._reported: set[int] = set()

    def start(self, split: Any, splits: Sequence[Any]) -> None:
        """Begin with the first row of ``split``.

        Args:
            split: the dataset that is ranked.
            splits: the training and the validation split; those before ``split`` count.

        Raises:
            InputError: exclusion is on and ``splits`` is empty.
        """
        if not self._told:
            self._told = True
            state = "on: items that a user had before the target are left out"
            logger.info("Evaluation: exclude_history is %s", state if self.on else "off")
        if not self.on:
            return
        if not splits:
            raise InputError(
                "exclude_history needs the splits before the one that is ranked: call fit first, "
                "or set the trainer's splits to (train_data.dataset, valid_data.dataset)"
            )
        self._id, self._done, self._repeated = id(split), 0, 0
        if self._id not in self._known:
            before = itertools.takewhile(lambda known: known is not split, splits)
            earlier = [split_sequences(known, self.config) for known in before]
            items = EarlierItems(split_rows(split, self.config), earlier, split.user_num)
            self._known[self._id] = (split, items)

    def next_rows(self, targets: Tensor, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """The next batch: what it leaves out (B, E), and its targets, 0 where left out too.

        Without exclusion: None, and the targets as they are.
        """
        if not self.on:
            return None, targets
        _, items = self._known[self._id]
        excluded = items.of(np.arange(self._done, self._done + len(targets)))
        repeated = contains(excluded, targets[:, None])[:, 0]
        self._done += len(targets)
        self._repeated += int(repeated.sum())
        return excluded.to(device), torch.where(repeated, 0, targets)

    def report(self) -> None:
        """Say once for each split how many targets no list can hold."""
        if self.on and self._repeated and self._id not in self._reported:
            self._reported.add(self._id)
            logger.info(
                "exclude_history: %s of %s targets are items that their users had before; they "
                "count as misses",
                f"{self._repeated:,}",
                f"{self._done:,}",
            )
