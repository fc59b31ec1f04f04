"""`gdn` and `kda` as whole layers against their equations, a token at a time in float64, with every option.

B batch, T tokens, D width, H heads, K and V width of a key and a value."""

import pytest
import torch
import torch.nn.functional as F
from laws import random_layer
from torch import Tensor

from hybridkit.block import Dims
from hybridkit_blocks.gdn import Gdn, GdnLayer
from hybridkit_blocks.kda import Kda, KdaLayer
from hybridkit_blocks.ops.delta_layer import DeltaLayer

DIMS = Dims(width=10, heads=2, vocab=61)  # heads and head sizes of the blocks do not follow from the width
BLOCKS = [
    Gdn(heads=3, head=1, value=1, conv=1),
    Gdn(heads=6, key_heads=3, head=7, value=3, conv=7, gate="none"),
    Gdn(heads=4, key_heads=1, head=3, value=2, gate="sigmoid", start="qwen", conv_bias=True, allow_neg_eigval=True),
    Kda(heads=3, head=1, value=1, conv=1, gate_bias=True),
    Kda(heads=4, key_heads=2, head=5, value=3, conv=6, conv_bias=True, low_rank=False, lower_bound=-5.0),
    Kda(head=3, value=7, low_rank=False, gate_bias=True, allow_neg_eigval=True, norm_eps=0.1),
]


def gates(block: Gdn | Kda, layer: DeltaLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The log decay (B, T, H, 1 or K), and what normed outputs are multiplied by (B, T, H V), or (B, T, 1)."""
    if isinstance(layer, GdnLayer):
        g = -layer.A_log.exp() * F.softplus(x @ layer.a.weight.T + layer.dt_bias)
        gate = {"silu": F.silu, "sigmoid": torch.sigmoid, "none": torch.ones_like}[block.gate]
        return g[..., None], gate(x[..., :1] if layer.gate is None else x @ layer.gate.weight.T)
    assert isinstance(layer, KdaLayer)
    f, z = (x if low is None else x @ low.weight.T for low in (layer.f_a, layer.g_a))
    f = (f @ layer.f_b.weight.T + layer.dt_bias).unflatten(-1, (layer.sizes.heads, -1))
    z, rate = z @ layer.g_b.weight.T, layer.A_log.exp()[:, None]
    g = -rate * F.softplus(f) if block.lower_bound is None else block.lower_bound * torch.sigmoid(rate * f)
    return g, torch.sigmoid(z if layer.gate_bias is None else z + layer.gate_bias)


def convolved(layer: DeltaLayer, x: Tensor, document: Tensor) -> Tensor:
    """Tap by tap, those that reach into another document left out."""
    mixed = torch.cat([x @ linear.weight.T for linear in (layer.q, layer.k, layer.v)], -1)
    z = torch.zeros_like(mixed) if layer.conv.bias is None else layer.conv.bias.expand(mixed.shape)
    for lag, tap in enumerate(reversed(layer.conv.weight.unbind(1))):
        reach = x.shape[1] - lag
        same = (document[:, lag:] == document[:, :reach])[..., None]
        z = z + F.pad(tap * mixed[:, :reach] * same, (0, 0, lag, 0)) if reach > 0 else z
    return F.silu(z)


def recurrence(block: Gdn | Kda, layer: DeltaLayer, x: Tensor, document_starts: Tensor) -> Tensor:
    """arXiv 2412.06464 and 2510.26692."""
    heads, key_heads, key, _ = layer.sizes
    q, k, v = convolved(layer, x, document_starts.cumsum(1)).split(layer.sizes.channels, -1)
    q, k, v = (t.unflatten(-1, (n, -1)) for t, n in zip((q, k, v), (key_heads, key_heads, heads), strict=True))
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    q, k = (t.repeat_interleave(heads // key_heads, 2) for t in (q * key**-0.5, k))
    beta = torch.sigmoid(x @ layer.b.weight.T) * (2 if block.allow_neg_eigval else 1)
    (g, gate), S, outputs = gates(block, layer, x), x.new_zeros(len(x), heads, key, v.shape[-1]), []
    for t in range(x.shape[1]):
        S = g[:, t].exp()[..., None] * S * ~document_starts[:, t, None, None, None]
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", S, k[:, t]))
        S = S + k[:, t, :, :, None] * u[:, :, None]
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]))
    o = torch.stack(outputs, 1)
    o = o / (o.square().mean(-1, keepdim=True) + block.norm_eps).sqrt() * layer.norm
    return (o.flatten(-2) * gate) @ layer.out.weight.T


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_layer_is_the_recurrence(block: Gdn | Kda, tokens: int) -> None:
    """Outputs and all gradients, over two chunks and documents that begin elsewhere in each of three rows.

    1e-12: sums in another order in float64 differed by 1e-13 at most.
    """
    layer = random_layer(block, DIMS)
    assert isinstance(layer, DeltaLayer)
    x = torch.randn(3, tokens, DIMS.width, dtype=torch.float64, requires_grad=True)
    document_starts, found = torch.rand(3, tokens) < 0.1, []
    for y in (layer(x, document_starts=document_starts)[0], recurrence(block, layer, x, document_starts)):
        slope = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        found.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], slope)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)
