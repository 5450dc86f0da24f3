"""Target-aware fusion of routes, and the gate between two representations of an item.

Cross-attention in two levels, the target over each route's items and then over the routes, and a
gate between the semantic and the collaborative side are what R2LED's abstract names; everything
within them is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """One query over the vectors of each of G groups; multi-head scaled dot products.

    Keys W_k x and values W_v x are never made, which saves most of the work: q . W_k x is
    (q W_k) . x, and a weighted sum of values is W_v times that of the vectors. Neither has a bias:
    in keys it would change nothing, in values it would fill groups without vectors, which give
    zeros.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.scale = (width // n_heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, query: Tensor, vectors: Tensor, held: Tensor) -> Tensor:
        """
        Args:
            query: (B, d).
            vectors: (B, G, n, d).
            held: bool (B, G, n), false where there is no vector.

        Returns:
            (B, G, d).
        """
        heads = (self.n_heads, -1)
        queries = self.query(query).unflatten(1, heads)  # (B, h, e) with h * e = d
        asked = torch.einsum("bhe,hed->bhd", queries, self.key.weight.unflatten(0, heads))
        scores = torch.einsum("bhd,bgnd->bghn", asked, vectors) * self.scale
        kept = held[:, :, None]  # (B, G, 1, n)
        weights = scores.masked_fill(~kept, torch.finfo(scores.dtype).min).softmax(dim=-1) * kept
        pooled = torch.einsum("bghn,bgnd->bghd", weights, vectors)
        values = torch.einsum("bghd,hed->bghe", pooled, self.value.weight.unflatten(0, heads))
        return self.output(values.flatten(-2))


class RouteFusion(nn.Module):
    """From what R routes picked to one vector, as the target asks for it.

    Which route a vector comes from is told to the second level by a learned vector a route (ours).
    """

    def __init__(self, width: int, n_routes: int, n_heads: int):
        super().__init__()
        self.over_items = CrossAttention(width, n_heads)
        self.over_routes = CrossAttention(width, n_heads)
        self.route = nn.Parameter(torch.zeros(n_routes, width))

    def forward(self, target: Tensor, items: Tensor, held: Tensor) -> Tensor:
        """
        Args:
            target: (B, d).
            items: (B, R, m, d), of each route.
            held: bool (B, R, m).

        Returns:
            (B, d); zeros where all routes are empty.
        """
        routes = self.over_items(target, items, held) + self.route  # (B, R, d)
        filled = held.any(dim=-1)  # (B, R)
        return self.over_routes(target, routes[:, None], filled[:, None])[:, 0]


class Gate(nn.Module):
    """g * semantic + (1 - g) * collaborative, with g = sigmoid(W [semantic; collaborative] + b).

    g has one value a dimension.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Linear(2 * width, width)

    def forward(self, semantic: Tensor, collaborative: Tensor) -> Tensor:
        """Both (…, d); gives (…, d)."""
        share = self.weight(torch.cat([semantic, collaborative], dim=-1)).sigmoid()
        return torch.lerp(collaborative, semantic, share)
