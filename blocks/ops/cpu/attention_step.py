"""One token of attention on a CPU, for decoding many: projections joined in one product, checks done once.

B batch, H heads, K key-value heads, E width of a head, G = H / K, S slots of the ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block import State, StepFunction, packed
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.rope import Rope, waves_of
from hybridkit_blocks.ops.scores import PLAIN, Scores, probabilities

Turned = Callable[[Tensor, int], Tensor]


class Parts(NamedTuple):
    """What an attention layer is made of."""

    norm: nn.RMSNorm | None  # before it
    into: Sequence[nn.Linear]  # q, k, v, and the gate where there is one
    norms: tuple[nn.Module, nn.Module]  # of q and k
    back: nn.Linear
    head: int
    rope: Rope | None


def attention_decoder(parts: Parts, scores: Scores, rows: int) -> StepFunction:
    """`x + step(norm(x))` of the attention with these parts."""
    norm, projections, norms, back, head, rope = parts
    q, k, v, *gates = (linear.weight for linear in projections)
    heads, kv_heads, plain = len(q) // head, len(k) // head, isinstance(norms[0], nn.Identity)
    bias = None if projections[0].bias is None else torch.cat([linear.bias for linear in projections])
    into = packed.normed_product(norm, [q, k, v, *gates], rows, bias)
    out, wide = packed.output(norm, back.weight, rows, back.bias), torch.promote_types(q.dtype, torch.float32)
    turned = rotary(head, rope, q)
    scale = torch.full((), scores.scale or head**-0.5, dtype=wide)
    sizes = heads + kv_heads, kv_heads, heads if gates else 0

    def run(x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        x, position = x[:, 0], state.position.tolist()[0]  # every row has seen equally many
        both, v, gate = into(x).view(len(x), -1, head).split(sizes, 1)
        if not plain:
            cut = zip(norms, both.split((heads, kv_heads), 1), strict=True)
            both = torch.cat([normed(part, t[:, None])[:, 0] for part, t in cut], 1)
        q, k = turned(both.to(wide), position).split((heads, kv_heads), 1)
        query = (q * scale).to(state.k.dtype).reshape(len(x) * kv_heads, -1, head)
        y = attend_(query, k[:, :, None].to(state.k.dtype), v[:, :, None].to(state.k.dtype), state, position, scores)
        y = y.view(len(x), -1).to(x.dtype)
        if gates:
            y = y * torch.sigmoid(gate.flatten(1))
        return out(x, y)[:, None], state

    return run


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """x (B, T, N, E) normalized by head, or by projection where the norm's weight is as wide.

    In that weight's type: autocast leaves it fp32, and makes x bf16.
    """
    if not isinstance(norm, nn.RMSNorm):
        return x
    y: Tensor = norm(x.to(norm.weight.dtype).flatten(2).unflatten(2, (-1, len(norm.weight))))
    return y.view(x.shape)


def rotary(head: int, rope: Rope | None, like: Tensor) -> Turned:
    """Rotates x (B, N, E) to one position, as rope.py does: y = x cos(a) + swapped halves of x * (-sin(a), sin(a))."""
    if rope is None:
        return lambda x, position: x
    half, wide = rope.size // 2, torch.promote_types(like.dtype, torch.float32)
    speeds, phases = waves_of(rope)

    def turned(x: Tensor, position: int) -> Tensor:
        waves = torch.add(phases, speeds, alpha=position).cos_()
        if rope.magnitude != 1:
            waves.mul_(rope.magnitude)
        cos, sin = waves.to(wide).unbind()
        return torch.addcmul(x * cos, x.roll(half, -1), sin)

    def partly(x: Tensor, position: int) -> Tensor:
        return torch.cat([turned(x[..., : rope.size], position), x[..., rope.size :]], -1)

    return turned if rope.size == head else partly


def attend_(query: Tensor, k: Tensor, v: Tensor, state: kv_cache.KV, position: int, scores: Scores = PLAIN) -> Tensor:
    """Scaled queries (BK, G, E) over ring and own k, v (B, K, 1, E): (BK, G, E). Adds k and v to the ring."""
    size, since, window = state.k.shape[2], max(state.since.tolist()), state.window.tolist()[0]
    all_seen = since <= max(0, position - size) and (window == 0 or size < window)
    sinks = None if scores.sinks is None else scores.sinks.view(k.shape[1], -1, 1).repeat(len(k), 1, 1)
    if all_seen and position < size:
        kv_cache.append_(state, k, v, position)
        keys, values = (ring[:, :, : position + 1].flatten(0, 1) for ring in (state.k, state.v))
        return torch.bmm(_softmax(torch.bmm(query, keys.mT), None, scores.cap, sinks), values)
    keys, values = state.k.flatten(0, 1), state.v.flatten(0, 1)
    s = torch.cat([torch.bmm(query, keys.mT), torch.bmm(query, k.flatten(0, 1).mT)], -1)
    hidden = None if all_seen else F.pad(~kv_cache.visible(state), (0, 1)).repeat_interleave(k.shape[1], 0)[:, None]
    p = _softmax(s, hidden, scores.cap, sinks)
    y = torch.addcmul(torch.bmm(p[..., :size], values), p[..., size:], v.flatten(0, 1))
    kv_cache.append_(state, k, v, position)
    return y


def _softmax(s: Tensor, hidden: Tensor | None, cap: float | None, sinks: Tensor | None) -> Tensor:
    return probabilities(s.to(torch.promote_types(s.dtype, torch.float32)), hidden, cap, sinks).to(s.dtype)
