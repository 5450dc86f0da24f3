"""A BERT layer that gives the states of some places only: what nobody looks at is not computed.

Behind the last layer only the SID and EMB tokens are read. All other tokens are needed there as
keys and values, not as queries, nor in what follows the attention. And with few queries, keys and
values themselves can be spared: a query times a projected state is a projected query times the
state, and a mean of projected states is the projected mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer


def take(values: Tensor, places: Tensor) -> Tensor:
    """values (B, N, h) at places (B, S): (B, S, h)."""
    n_rows, n_places, width = values.shape
    first = torch.arange(n_rows, device=places.device).unsqueeze(1) * n_places
    flat = values.reshape(-1, width).index_select(0, (first + places).flatten())
    return flat.view(*places.shape, width)


class ReadAtPlaces(nn.Module):
    """``layer``, but of its states (B, S, h) only those at ``places`` int64 (B, P): (B, P, h).

    Of each token two products of h times heads * P numbers remain, where the whole layer has some
    twelve of h times h.
    """

    def __init__(self, layer: BertLayer, places: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.places = places

    @staticmethod
    def can_read(layer: nn.Module) -> bool:
        """Whether ``layer`` is one that this module knows: an encoder's, of the BERT family, whose
        projections nothing was added to."""
        if not isinstance(layer, BertLayer) or layer.is_decoder:
            return False
        own = layer.attention.self
        return all(type(part) is nn.Linear for part in (own.query, own.key, own.value))

    def forward(self, states: Tensor, mask: Tensor | None, *_rest: Any, **_named: Any) -> Tensor:
        # An encoder is also handed what a decoder would need.
        attention = self.layer.attention
        own = attention.self
        n_heads = own.num_attention_heads
        asking = take(states, self.places)  # (B, P, h)
        queries = own.query(asking).unflatten(2, (n_heads, -1))  # (B, P, heads, d)
        states = states.to(queries.dtype)  # once, not in every product
        key_heads = own.key.weight.unflatten(0, (n_heads, -1))  # (heads, d, h)
        value_heads = own.value.weight.unflatten(0, (n_heads, -1))

        asked = torch.einsum("bphd,hdw->bhpw", queries, key_heads).flatten(1, 2)
        products = asked @ states.transpose(1, 2)  # (B, heads * P, S)
        # The keys' bias adds the same to all scores of a query: the softmax does not see it.
        scores = own.scaling * products.float().unflatten(1, (n_heads, -1))  # (B, heads, P, S)
        if mask is not None:
            if mask.shape[2] > 1:  # (B, 1, S, S) -> (B, 1, P, S)
                mask = take(mask[:, 0], self.places)[:, None]
            # Fused attention is handed what is seen, plain products what is to be added.
            seen = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if seen else scores + mask
        weights = own.dropout(scores.softmax(dim=3))
        means = (weights.flatten(1, 2).to(states.dtype) @ states).unflatten(1, (n_heads, -1))
        found = torch.einsum("bhpw,hdw->bphd", means, value_heads)
        shares = (
            weights.sum(dim=3).transpose(1, 2).unsqueeze(3)
        )  # (B, P, heads, 1): 1 in evaluation
        found = found + shares * own.value.bias.view(n_heads, -1)
        return self.layer.feed_forward_chunk(attention.output(found.flatten(2), asking))
