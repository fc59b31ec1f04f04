"""One token of attention on a CPU, for decoding many: projections joined in one product, checks done once.

B batch, H heads, K key-value heads, E width of a head, G = H / K, S slots of the ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hybridkit.block import State, StepFunction
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.cpu.packed import Unit, product, residual, side_by_side

Turned = Callable[[Tensor, int], Tensor]


def attention_decoder(
    norm: nn.RMSNorm,
    rows: int,
    projections: tuple[nn.Linear, nn.Linear, nn.Linear],  # q, k, v
    norms: tuple[nn.Module, nn.Module],  # of q and k
    back: nn.Linear,
    head: int,
    theta: float | None,
) -> StepFunction:
    """`x + step(norm(x))` of the attention with these parts."""
    q, k, v = (linear.weight for linear in projections)
    heads, kv_heads, plain = len(q) // head, len(k) // head, isinstance(norms[0], nn.Identity)
    unit, into, out = Unit(norm), product(side_by_side(norm, [q, k, v]), rows), residual(back.weight, rows)
    turned, wide = rotary(head, theta, q), torch.promote_types(q.dtype, torch.float32)
    scale = torch.full((), head**-0.5, dtype=wide)

    def run(x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        x, position = x[:, 0], int(state.position[0])  # every row has seen equally many
        both, v = into(unit(x)).view(len(x), -1, head).split((heads + kv_heads, kv_heads), 1)
        if not plain:
            cut = zip(norms, both.split((heads, kv_heads), 1), strict=True)
            both = torch.cat([part(t.to(part.weight.dtype)) for part, t in cut], 1)
        q, k = turned(both.to(wide), position).split((heads, kv_heads), 1)
        query = (q * scale).to(state.k.dtype).reshape(len(x) * kv_heads, -1, head)
        y = attend_(query, k[:, :, None].to(state.k.dtype), v[:, :, None].to(state.k.dtype), state, position)
        return out(x, y.view(len(x), -1).to(x.dtype))[:, None], state

    return run


def rotary(head: int, theta: float | None, like: Tensor) -> Turned:
    """Rotates x (B, N, E) to one position, as rope.py does: y = x cos(a) + swapped halves of x * (-sin(a), sin(a))."""
    if theta is None:
        return lambda x, position: x
    half, wide = head // 2, torch.promote_types(like.dtype, torch.float32)
    speeds = (theta ** -(torch.arange(half, dtype=torch.float64) / half)).repeat(2, 2)
    quarter = torch.full((half,), math.pi / 2, dtype=torch.float64)  # -sin(a) is cos(a + pi / 2)
    phases = torch.stack([torch.zeros(head, dtype=torch.float64), torch.cat([quarter, -quarter])])

    def turned(x: Tensor, position: int) -> Tensor:
        cos, sin = torch.add(phases, speeds, alpha=position).cos_().to(wide).unbind()
        return torch.addcmul(x * cos, x.roll(half, -1), sin)

    return turned


def attend_(query: Tensor, k: Tensor, v: Tensor, state: kv_cache.KV, position: int) -> Tensor:
    """Scaled queries (BK, G, E) over ring and own k, v (B, K, 1, E): (BK, G, E). Adds k and v to the ring."""
    size, since, window = state.k.shape[2], int(state.since.max()), int(state.window[0])
    all_seen = since <= max(0, position - size) and (window == 0 or size < window)
    if all_seen and position < size:
        kv_cache.append_(state, k, v, position)
        keys, values = (ring[:, :, : position + 1].flatten(0, 1) for ring in (state.k, state.v))
        return torch.bmm(_softmax(torch.bmm(query, keys.mT)), values)
    keys, values = state.k.flatten(0, 1), state.v.flatten(0, 1)
    scores = torch.bmm(query, keys.mT)
    if not all_seen:
        hidden = ~kv_cache.visible(state).repeat_interleave(k.shape[1], 0)[:, None]
        scores.masked_fill_(hidden, -torch.inf)
    p = _softmax(torch.cat([scores, torch.bmm(query, k.flatten(0, 1).mT)], -1))
    y = torch.addcmul(torch.bmm(p[..., :size], values), p[..., size:], v.flatten(0, 1))
    kv_cache.append_(state, k, v, position)
    return y


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
