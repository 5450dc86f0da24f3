import torch
import torch.nn.functional as F

from recbole_sid.generator.hstu import HSTULayer
from recbole_sid.generator.layers import LayerShape

SHAPE = LayerShape(
    hidden_size=6, n_heads=2, head_size=3, inner_size=1, dropout=0.0, attention_dropout=0.0
)


def norm(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def test_every_position_follows_the_equations():
    torch.manual_seed(0)
    layer = HSTULayer(SHAPE).eval()
    x = torch.randn(1, 4, 6)
    out = layer(x)

    gate, values, queries, keys = F.silu(layer.input(norm(x)))[0].split(6, dim=-1)
    for t in range(4):
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            weights = [F.silu(queries[t, part] @ keys[s, part]) / (t + 1) for s in range(t + 1)]
            heads.append(sum(w * values[s, part] for s, w in enumerate(weights)))
        expected = x[0, t] + layer.output(norm(torch.cat(heads)) * gate[t])
        torch.testing.assert_close(out[0, t], expected, atol=1e-5, rtol=1e-5)


def test_a_prefix_does_not_see_what_follows():
    torch.manual_seed(0)
    layer = HSTULayer(SHAPE).eval()
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(layer(x)[:, :3], layer(x[:, :3]))
