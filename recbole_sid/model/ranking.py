"""The lists that users are given: ranked by a generator, without what is to be left out.

A search cuts what it can foresee and filters the rest afterwards, so it must look further than at
``k`` items. How much further is known for items that are excluded; where the interval of a trie's
node promised an item that is not there, it shows only when a list comes out short.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sid.generator.availability import Available
from recbole_sid.generator.base import Generator
from recbole_sid.generator.beam import Ranked
from recbole_sid.model.exclusion import leave_out


def rank_histories(
    generator: Generator,
    users: Tensor,
    history: Tensor,
    lengths: Tensor,
    k: int,
    beam_size: int,
    excluded: Tensor | None = None,
    available: Available | None = None,
) -> Ranked:
    """The ``k`` best items of each user that are available and not excluded.

    The search is widened by a row's number of excluded items, rounded up to whole windows, so that
    ``k`` others remain. Where fewer than ``k`` come out although more items may be ranked, the
    beam of these rows is doubled until they are found. Rows of one width are searched together: a
    row's list does not depend on the other rows of its batch. A list is shorter than ``k`` only
    where fewer items may be ranked.

    Args:
        generator: a trained one, in evaluation mode.
        users: (B,).
        history: (B, T), left aligned, 0 on the right.
        lengths: (B,).
        k: length of the lists.
        beam_size: width of the search before it is widened.
        excluded: (B, E) from :func:`.distinct_items`; None excludes nothing.
        available: what each row may be given; None: every item of the catalogue.

    Returns:
        Their ``group_sizes`` count the items of a SID that are available and not excluded.
    """
    if excluded is None and available is None:
        return generator.rank(users, history, lengths, k, beam_size)
    catalogue = generator.catalogue
    n_leaves = len(catalogue.leaves()[0]) - 1
    if excluded is not None and available is not None:
        # What is not available takes no place in a list; a group has lost it already.
        excluded = torch.where(available.items(excluded), excluded, 0).sort(dim=1).values
    n_excluded = torch.zeros_like(lengths) if excluded is None else (excluded > 0).sum(dim=1)
    extra = (n_excluded + generator.window - 1) // generator.window * generator.window  # (B,)
    there = catalogue.n_items if available is None else available.count()
    wanted = (there - n_excluded).clamp(max=k)  # (B,)
    ranked = Ranked(
        items=history.new_zeros(len(users), k),
        scores=torch.full((len(users), k), -torch.inf, device=history.device),
        group_sizes=history.new_ones(len(users), k),
    )
    pending = torch.arange(len(users), device=history.device)
    doublings = 0
    while len(pending):
        short = []
        for more in extra[pending].unique().tolist():
            rows = pending[extra[pending] == more]
            width = (beam_size + more) << doublings
            length = min(k + more, catalogue.n_items)
            # A wider search takes no more memory than the first one.
            at_once = max(1, len(users) * beam_size // width) if doublings else len(rows)
            for part in rows.split(at_once):
                batch = users[part], history[part], lengths[part]
                if available is None:
                    some = generator.rank(*batch, length, width)
                else:
                    some = generator.rank(*batch, length, width, available=available.rows(part))
                if excluded is not None:
                    some = leave_out(some, excluded[part], k, catalogue)
                for field, values in zip(ranked, some, strict=True):
                    field[part, : values.shape[1]] = values.to(field.dtype)
            if width < n_leaves:
                short.append(rows[(ranked.items[rows] > 0).sum(dim=1) < wanted[rows]])
        pending = torch.cat(short) if short else pending[:0]
        doublings += 1
    return ranked
