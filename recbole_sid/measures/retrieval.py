"""Ad retrieval (UniSID, arXiv 2602.10445): does an item find one that users take along with it?

Each query item is to rank one positive before 999 negatives. The paper does not say how the
positives of its Ad-60W were found; here they come from interactions that no training has seen.
Two items go together when some user has both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from tqdm import tqdm

from recbole_sid.errors import InputError
from recbole_sid.items.ragged import blocks, places_in_row, ranges, starts_of
from recbole_sid.items.shared_users import Interactions, make_baskets
from recbole_sid.measures import NothingToMeasure
from recbole_sid.settings import require

logger = logging.getLogger("recbole_sid")

# Numbers that a block holds at once, about 20 bytes each.
BLOCK = 1 << 22


@dataclass(frozen=True)
class RetrievalSettings:
    """How retrieval is measured; defaults: ``properties/measures.yaml``.

    Attributes:
        retrieval_negatives: negatives a query; 999 in the paper.
        retrieval_top: the k of each recall@k; 1, 5, 10 and 20 in the paper.
        retrieval_queries: at most so many pairs of a query and a positive.
        retrieval_queries_per_user: at most so many of them from one user's interactions, so that
            users with long histories do not decide the figure.
    """

    retrieval_negatives: int
    retrieval_top: list[int]
    retrieval_queries: int
    retrieval_queries_per_user: int

    def __post_init__(self) -> None:
        for name in ("retrieval_queries", "retrieval_queries_per_user"):
            require(vars(self)[name] >= 1, name, vars(self)[name], "at least 1")
        top = self.retrieval_top
        require(
            len(top) > 0 and min(top, default=0) >= 1, "retrieval_top", top, "one or more, from 1"
        )
        negatives = self.retrieval_negatives
        require(
            negatives >= max(top),
            "retrieval_negatives",
            negatives,
            f"at least {max(top)}, the highest of retrieval_top: with fewer, every query hits",
        )


class Together:
    """Which items go together.

    Attributes:
        n_items: items are 0 … n_items - 1.
        costs: for each item, the basket sizes of its users, summed: no fewer than the items that it
            goes together with. int64 (n_items,).
    """

    def __init__(self, interactions: Interactions, n_items: int) -> None:
        """
        Raises:
            InputError: columns that are not whole numbers of one length, or out of range.
        """
        starts, items = make_baskets(interactions, n_items, max_items=None)
        self.n_items = n_items
        # bool: sums are "or", and so cannot overflow.
        self._by_user = sparse.csr_matrix(
            (np.ones(len(items), bool), items, starts), shape=(len(starts) - 1, n_items)
        )
        self._by_item = self._by_user.T.tocsr()  # (n_items, users)
        sizes = np.repeat(np.diff(starts), np.diff(starts))  # of the basket of each entry
        self.costs = np.bincount(items, weights=sizes, minlength=n_items).astype(np.int64)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items that go together with each of ``rows`` (b,), itself left out.

        Returns:
            Places in ``rows`` and items, both int64 (c,), by rising place, then by rising item.
        """
        found = (self._by_item[rows] @ self._by_user).tocoo()  # (b, n_items)
        places, items = found.row.astype(np.int64), found.col.astype(np.int64)
        others = items != rows[places]
        places, items = places[others], items[others]
        order = np.argsort(places * self.n_items + items)
        return places[order], items[order]


class HeldOutPairs(NamedTuple):
    """Queries and their positives.

    Attributes:
        pairs: int64 (m, 2), a query and its positive; distinct, by rising query, then positive.
        together: which items go together in training or held-out interactions, and so are no
            negatives of one another.
    """

    pairs: np.ndarray
    together: Together


def heldout_pairs(
    training: Interactions,
    held_out: Interactions,
    n_items: int,
    settings: RetrievalSettings,
    seed: int,
) -> HeldOutPairs:
    """Pairs of items that go together through a held-out interaction only.

    The positive is the item of a held-out interaction; the query is an item that the same user has
    in training. The two are never one item, and no user has both in training.

    Users are taken in random order, with at most ``retrieval_queries_per_user`` random pairs each,
    until there are ``retrieval_queries`` distinct ones. So the cost rises with the number of
    queries, not of interactions. The order of the rows does not matter.

    Args:
        training: what the vectors may have been trained on.
        held_out: by the same numbers of users and items. With the validation split alone, pairs
            are fit to choose settings by, and the test split stays unread.
        n_items: items are 0 … n_items - 1.
        seed: 0 or more.

    Raises:
        InputError: malformed interactions.
        NothingToMeasure: there is no such pair.
    """
    known = Together(training, n_items)
    both = Interactions(
        *(np.concatenate(columns) for columns in zip(training, held_out, strict=True))
    )
    together = Together(both, n_items)  # checks held_out too
    users, numbers = np.unique(both.users, return_inverse=True)
    n_training = len(training.users)
    baskets, positives = (
        sparse.csr_matrix((np.ones(len(rows), bool), (rows, items)), shape=(len(users), n_items))
        for rows, items in (
            (numbers[:n_training], training.items),
            (numbers[n_training:], held_out.items),
        )
    )
    basket_sizes, n_positives = np.diff(baskets.indptr), np.diff(positives.indptr)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    order = order[(basket_sizes[order] > 0) & (n_positives[order] > 0)]
    costs = positives @ known.costs + basket_sizes * n_positives.astype(np.int64)  # (users,)
    found = np.empty(0, np.int64)  # queries * n_items + positives, in the order of the users
    for start, end in blocks(costs[order], BLOCK):
        block = order[start:end]
        owner, pairs = _new_pairs(baskets[block], positives[block], known)
        pairs = pairs[_at_most(settings.retrieval_queries_per_user, owner, rng)]
        found = np.concatenate([found, pairs])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
        if len(found) >= settings.retrieval_queries:
            break
    if len(found) == 0:
        raise NothingToMeasure(
            f"{len(held_out.items)} held-out interactions bring no item together with one of its "
            "user's training items for the first time: there is nothing to measure retrieval on. "
            "Use a data set with longer histories"
        )
    found = np.sort(found[: settings.retrieval_queries])
    return HeldOutPairs(np.stack([found // n_items, found % n_items], axis=1), together)


def _new_pairs(
    baskets: sparse.csr_matrix, positives: sparse.csr_matrix, known: Together
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a user's basket item and positive that do not go together in training.

    Returns:
        The user, rising, and the pair as query * n_items + positive, of each: int64 (c,).
    """
    n_items = known.n_items
    users, items = (column.astype(np.int64) for column in positives.nonzero())
    sizes = np.diff(baskets.indptr).astype(np.int64)[users]
    queries = baskets.indices[ranges(baskets.indptr[users], sizes)].astype(np.int64)
    owners, items = np.repeat(users, sizes), np.repeat(items, sizes)
    distinct, place = np.unique(items, return_inverse=True)
    seen_places, seen_items = known.of(distinct)
    seen = np.isin(place * n_items + queries, seen_places * n_items + seen_items)
    new = ~seen & (queries != items)
    return owners[new], (queries * n_items + items)[new]


def _at_most(limit: int, owners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random choice of at most ``limit`` places of each of ``owners``, which come rising."""
    shuffled = np.lexsort((rng.random(len(owners)), owners))
    counts = np.unique(owners, return_counts=True)[1]
    return shuffled[places_in_row(counts) < limit]


def retrieval(
    vectors: np.ndarray,
    held_out: HeldOutPairs,
    settings: RetrievalSettings,
    seed: int,
    *,
    progress: bool,
) -> dict[str, float]:
    """Recall@k: the share of queries whose positive has fewer than k negatives before it.

    Negatives are drawn uniformly, none twice, from the items that do not go together with the
    query, in training or held out; they depend on the pairs and the seed, not on the vectors, so
    that all vectors are measured on the same task. Items are ranked by cosine, computed in float64
    and rounded to float32; a negative as near as the positive stands before it, and a vector of
    zeros is as near to all.

    A query for which fewer items are left than ``retrieval_negatives`` gets all of them. One with
    fewer than the highest k is left out: it could not miss.

    Args:
        vectors: float (n_items, d), finite.
        seed: 0 or more.
        progress: whether to show a bar.

    Returns:
        ``recall@k`` of every k; ``queries``, and ``queries_left_out``; ``negatives``, the mean of a
        query, and ``negatives_least``.

    Raises:
        InputError: vectors of a wrong shape, NaN or infinity.
        NothingToMeasure: no query has enough negatives.
    """
    pairs, together = held_out
    if vectors.ndim != 2 or len(vectors) != together.n_items or not np.isfinite(vectors).all():
        raise InputError(
            f"vectors of shape {vectors.shape} are given, but must be finite and of shape "
            f"({together.n_items}, dimensions)"
        )
    directions = _unit(vectors)
    asked, top = settings.retrieval_negatives, sorted(set(settings.retrieval_top))
    costs = together.costs[pairs[:, 0]] + (asked + 1) * vectors.shape[1]
    ranks, counts = np.empty(len(pairs), np.int64), np.empty(len(pairs), np.int64)
    rng = np.random.default_rng(seed)
    with tqdm(total=len(pairs), desc="retrieval", unit="queries", disable=not progress) as bar:
        for start, end in blocks(costs, BLOCK):
            block = pairs[start:end]
            negatives = _draw(block, together, asked, rng)  # (b, k), -1 after the last one
            ranks[start:end] = _ranks(directions, block, negatives)
            counts[start:end] = (negatives >= 0).sum(axis=1)
            bar.update(end - start)
    enough = counts >= max(top)
    if not enough.any():
        raise NothingToMeasure(
            f"none of the {len(pairs)} queries has {max(top)} negatives: of {together.n_items} "
            "items, nearly all go together with it. Lower retrieval_top, or use a data set with "
            "more items"
        )
    ranks, counts = ranks[enough], counts[enough]
    if counts.min() < asked or not enough.all():
        logger.warning(
            "Retrieval: %d of %d queries have fewer than %d negatives (%d at least), and %d more "
            "are left out, since fewer than %d items do not go together with them.",
            (counts < asked).sum(),
            len(counts),
            asked,
            counts.min(),
            (~enough).sum(),
            max(top),
        )
    values: dict[str, float] = {f"recall@{k}": float((ranks < k).mean()) for k in top}
    return values | {
        "queries": len(counts),
        "queries_left_out": int((~enough).sum()),
        "negatives": float(counts.mean()),
        "negatives_least": int(counts.min()),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d) scaled to length 1, those of zeros as they are: float32."""
    directions = vectors.astype(np.float64)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    np.divide(directions, lengths, out=directions, where=lengths > 0)
    return directions.astype(np.float32)


def _draw(
    pairs: np.ndarray, together: Together, asked: int, rng: np.random.Generator
) -> np.ndarray:
    """At most ``asked`` negatives of each query: int64 (b, asked), -1 after the last one."""
    n_items, b = together.n_items, len(pairs)
    places, items = together.of(pairs[:, 0])
    own = np.repeat(np.arange(b), 2) * n_items + pairs.ravel()  # the query and its positive
    excluded = np.unique(np.concatenate([places * n_items + items, own]))  # by place, then item
    places, items = excluded // n_items, excluded % n_items
    n_excluded = np.bincount(places, minlength=b)
    n_left = n_items - n_excluded
    counts = np.minimum(n_left, asked)
    # Random numbers among the items left: one call a query takes less time than its cosines.
    drawn = [
        rng.choice(left, count, replace=False, shuffle=False)
        for left, count in zip(n_left.tolist(), counts.tolist(), strict=True)
    ]
    numbers = np.concatenate(drawn)
    # The i-th excluded item e has e - i items left before it. So item number r of those left stands
    # behind the excluded ones with e - i <= r, and there is one row a stretch of the sorted keys.
    left_before = places * (n_items + 1) + items - places_in_row(n_excluded)
    rows = np.repeat(np.arange(b), counts)
    behind = np.searchsorted(left_before, rows * (n_items + 1) + numbers, side="right")
    negatives = np.full((b, asked), -1, np.int64)
    negatives[rows, places_in_row(counts)] = numbers + behind - starts_of(n_excluded)[rows]
    return negatives


def _ranks(directions: np.ndarray, pairs: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """How many negatives stand before the positive of each query: int64 (b,)."""
    candidates = np.concatenate([pairs[:, 1:], negatives], axis=1)  # (b, 1 + k)
    queries = directions[pairs[:, 0]].astype(np.float64)
    cosines = directions[candidates].astype(np.float64) @ queries[:, :, None]  # (b, 1 + k, 1)
    rounded = cosines[:, :, 0].astype(np.float32)
    return ((rounded[:, 1:] >= rounded[:, :1]) & (negatives >= 0)).sum(axis=1)
