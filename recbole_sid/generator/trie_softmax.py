"""A softmax over the children of a trie node, in place of one over all codes of a level.

No probability goes to SIDs that do not exist, so the likelihoods of all items sum to 1, and a level
at which a prefix has one child costs nothing. A child may be scored by more than its code: by the
mean of its items' vectors, which tells apart what the same code means after different prefixes.
This is ours, not IntRR's: the paper has the softmax over all codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sid.generator.beam import Step, children_log_softmax
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.gathered import Bags, bag_means, inner_products
from recbole_sid.generator.recursive import RecursiveCodebook

# Products with a whole table that cost less than one gathered number (measured on two cores).
_IN_VAIN = 4
# Pairs of a state and a child whose vectors are gathered at once: at 128 numbers each, they fit
# into a processor's cache.
_AT_ONCE = 2**13


class TrieSoftmax(nn.Module):
    """Probabilities of trie nodes under a :class:`RecursiveCodebook`; it has no parameters.

    A node is a *fork* when it has several children. Only children of forks are scored, and only
    forks are asked for their children; the tables hold these nodes alone, in places ``_place``.
    """

    def __init__(self, catalogue: Catalogue):
        super().__init__()
        self.catalogue = catalogue
        counts = [torch.diff(catalogue.branches(level)[0]) for level in range(catalogue.n_levels)]
        self._most_children = [int(count.max()) for count in counts]
        rows, bags, held = [], [], []  # of every depth; a bag is the items below a node
        n_bags = 0
        for level, count in enumerate(counts):
            # Depth level + 1: children of forks, and forks; at depth 1 all nodes.
            kept = torch.repeat_interleave(count > 1, count)
            if level + 1 < len(counts):
                kept |= counts[level + 1] > 1
            if level == 0:
                kept[:] = True
            place = torch.where(kept, kept.cumsum(0) - 1, 0)
            node = catalogue.node_of_item[1:, level]
            below = torch.argsort(node, stable=True)
            rows.append(below[kept[node[below]]] + 1)
            bags.append(F.pad(torch.where(kept[node], n_bags + place[node], 0), (1, 0)))
            held.append(F.pad(kept[node], (1, 0)))
            n_bags += int(kept.sum())
            self._keep("place", level, place)
            self._keep("codes", level, catalogue.branches(level)[1][kept].long())
            self._keep("forks", level, torch.nonzero(count > 1)[:, 0])
        bag_of_row, is_held = torch.stack(bags, dim=1), torch.stack(held, dim=1)
        sizes = torch.bincount(bag_of_row[is_held], minlength=n_bags)
        bag_parts = Bags(
            torch.cat(rows), sizes.cumsum(0) - sizes, bag_of_row, is_held / sizes[bag_of_row]
        )
        for name, part in zip(Bags._fields, bag_parts, strict=True):
            self.register_buffer(f"_bags_{name}", part, persistent=False)

    def _keep(self, name: str, level: int, tensor: Tensor) -> None:
        self.register_buffer(f"_{name}_{level}", tensor, persistent=False)

    def _of(self, name: str, level: int) -> Tensor:
        return getattr(self, f"_{name}_{level}")

    def tables(self, codebook: RecursiveCodebook, items: Tensor | None) -> list[Tensor]:
        """Vectors of the nodes that matter, float32, one table (nodes, width) a depth.

        Args:
            codebook: a node's code is embedded by it.
            items: (n_items + 1, width) the items' vectors, whose means are added; None for none.
        """
        codes = [F.embedding(self._of("codes", i), book) for i, book in enumerate(codebook.weights)]
        tables = [table.float() for table in codes]
        if items is None:
            return tables
        bags = Bags(*(getattr(self, f"_bags_{name}") for name in Bags._fields))
        means = bag_means(items, bags).split([len(table) for table in tables])
        return [table + mean for table, mean in zip(tables, means, strict=True)]

    def log_likelihood(
        self, codebook: RecursiveCodebook, tables: list[Tensor], hidden: Tensor, items: Tensor
    ) -> Tensor:
        """Log-likelihood (N,) of ``items`` (N,), each from its own ``hidden`` (N, width)."""
        path = self.catalogue.node_of_item[items]  # (N, L)
        logits = F.linear(hidden, tables[0]).float()
        total = torch.log_softmax(logits, dim=-1).gather(1, path[:, :1])[:, 0]
        for level in range(1, self.catalogue.n_levels):
            first, _ = self.catalogue.branches(level)
            parents = path[:, level - 1]
            some = torch.nonzero(first[parents + 1] - first[parents] > 1)[:, 0]
            if not len(some):
                continue
            parents = parents[some]
            query = self._query(codebook, tables, level, hidden[some], parents)
            rows, children = self.catalogue.children_of(level, parents)  # (M,)
            places = self._of("place", level)[children]  # (M,)
            logits = inner_products(query, tables[level], rows, places)
            # Log-softmax over each row's children, which lie one after the other.
            highest = logits.new_full((len(some),), -torch.inf)
            highest = highest.scatter_reduce(0, rows, logits.detach(), "amax")
            summed = torch.zeros_like(highest).index_add(0, rows, (logits - highest[rows]).exp())
            taken = logits[children == path[some, level][rows]]
            total = total.index_add(0, some, taken - highest - summed.log())
        return total

    def leaf_log_probs(
        self, codebook: RecursiveCodebook, tables: list[Tensor], hidden: Tensor, at_once: int
    ) -> Tensor:
        """Log-probabilities (B, n_leaves) of all leaves, exactly.

        Args:
            hidden: (B, width).
            at_once: numbers that one chunk of forks may hold.
        """
        scores = torch.log_softmax(F.linear(hidden, tables[0]).float(), dim=-1)  # (B, nodes)
        for level in range(1, self.catalogue.n_levels):
            first, _ = self.catalogue.branches(level)
            count = torch.diff(first)
            scores = scores.repeat_interleave(count, dim=1)
            forks = self._of("forks", level)
            # Forks of similar width together: their children are padded to the widest.
            forks = forks[count[forks].argsort()]
            for some in _bounded(
                count[forks], len(hidden) * codebook.inner_size, len(hidden), at_once
            ):
                parents = forks[some]
                query = self._query(codebook, tables, level, hidden[:, None], parents)
                width = torch.arange(int(count[parents].max()), device=hidden.device)
                legal = width < count[parents, None]  # (F, C)
                children = torch.where(legal, first[parents, None] + width, 0)
                table = tables[level][self._of("place", level)[children]]  # (F, C, width)
                logits = torch.einsum("bfw,fcw->bfc", query.float(), table)
                log_probs = children_log_softmax(logits, legal)
                scores[:, children[legal]] += log_probs[:, legal]
        return scores

    def child_log_probs(
        self, codebook: RecursiveCodebook, tables: list[Tensor], hidden: Tensor, step: Step
    ) -> Tensor:
        """Log-probabilities (B, W, C) of the children of a search's beams; hidden (B, width)."""
        level = step.level
        if not len(tables[level]):  # no fork at all: every child follows by itself
            return torch.zeros(step.children.shape, device=hidden.device)
        if level == 0:
            query = hidden[:, None]
        else:
            query = self._query(codebook, tables, level, hidden[:, None], step.nodes)
        table = tables[level]
        places = self._of("place", level)[step.children]
        if self._whole_table(level, table):
            logits = F.linear(query, table).gather(-1, places)
        else:
            # Only children that exist: where beams differ much in theirs, most places are padding.
            rows, columns = step.legal.flatten(0, 1).nonzero(as_tuple=True)  # (M,) each
            found = places.flatten(0, 1)[rows, columns]
            query = query.expand(*step.legal.shape[:2], -1).flatten(0, 1)
            products = [
                torch.linalg.vecdot(query[some], table[there])
                for some, there in zip(rows.split(_AT_ONCE), found.split(_AT_ONCE), strict=True)
            ]
            logits = query.new_zeros(len(query), step.legal.shape[2])
            logits[rows, columns] = torch.cat(products)
            logits = logits.view(step.legal.shape)
        return children_log_softmax(logits, step.legal)

    def numbers_per_beam(self, tables: list[Tensor]) -> int:
        """What :meth:`child_log_probs` holds for one beam, at most."""
        return max(
            len(table) if self._whole_table(level, table) else self._most_children[level]
            for level, table in enumerate(tables)
        )

    def _whole_table(self, level: int, table: Tensor) -> bool:
        """Whether multiplying a beam with all nodes beats gathering its children's vectors."""
        return len(table) * _IN_VAIN < self._most_children[level] * table.shape[1]

    def _query(
        self,
        codebook: RecursiveCodebook,
        tables: list[Tensor],
        level: int,
        hidden: Tensor,
        parents: Tensor,
    ) -> Tensor:
        before = tables[level - 1][self._of("place", level - 1)[parents]]
        return codebook.query(level, hidden, before)


def _bounded(counts: Tensor, a_fork: int, a_child: int, at_once: int) -> list[slice]:
    """Cut forks of rising width into runs of which none holds more than ``at_once`` numbers (or is
    a single fork), where a fork takes ``a_fork`` and a place for a child ``a_child``."""
    cuts, start = [], 0
    while start < len(counts):
        number = torch.arange(1, len(counts) - start + 1, device=counts.device)
        held = number * (a_fork + counts[start:] * a_child)
        end = start + max(1, int(torch.searchsorted(held, at_once, right=True)))
        cuts.append(slice(start, end))
        start = end
    return cuts
