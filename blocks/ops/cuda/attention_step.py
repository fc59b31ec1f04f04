"""One token of attention between its projections, as two Triton kernels (ops/attention_step.py).

The first cuts the ring into parts, for each of which a program computes one head's maximum, sum and weighted values
(arXiv 1805.02867); the second adds the token itself and what sinks take, joins the parts, and writes the token's key
and value into the ring. All sums are fp32. Importing this file imports triton.

Letters: B batch, H heads, G = heads that share a key-value head, E width of a head, R its turning channels, S slots.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8192  # elements of the keys that a program reads at once
PROGRAMS = 512  # of the first kernel, about, where the ring is long enough


def launch_attention_step_(
    mixed: Tensor, turns: Tensor, sinks: Tensor | None, k: Tensor, v: Tensor, position: Tensor, since: Tensor,
    window: Tensor, scale: float, cap: float, magnitude: float, gated: bool,
) -> Tensor:  # fmt: skip
    """y (B, H E). Rings are changed in place, and positions grow by one. The ring has at least one slot."""
    batch, kv_heads, slots, head = k.shape
    heads = mixed.shape[1] // head
    heads = (heads - 2 * kv_heads) // 2 if gated else heads - 2 * kv_heads
    width = triton.next_power_of_2(head)
    tile = max(16, min(TILE // width, triton.next_power_of_2(slots)))
    parts = triton.next_power_of_2(max(1, min(triton.cdiv(slots, tile), PROGRAMS // (batch * heads))))
    shape = batch, heads, parts
    most, total = (torch.empty(shape, dtype=torch.float32, device=k.device) for _ in range(2))
    read = torch.empty(*shape, head, dtype=torch.float32, device=k.device)
    y = torch.empty(batch, heads * head, dtype=mixed.dtype, device=k.device)
    sizes = {
        "H": heads, "G": heads // kv_heads, "E": head, "R": 2 * len(turns), "WIDTH": width, "PARTS": parts,
        "ROW": mixed.shape[1], "CAP": cap, "MAGNITUDE": magnitude,
    }  # fmt: skip
    _parts[(batch, heads, parts)](
        mixed, turns, k, v, position, since, window, most, total, read, slots, scale, *k.stride()[:3], *v.stride()[:3],
        **sizes, TILE=tile, num_warps=4,
    )  # fmt: skip
    _joined[(batch, heads)](
        mixed, turns, sinks, k, v, position, most, total, read, y, slots, scale, *k.stride()[:3], *v.stride()[:3],
        **sizes, SINKS=sinks is not None, GATED=gated, num_warps=4,
    )  # fmt: skip
    position.add_(1)
    return y


@triton.jit
def _parts(
    mixed, turns, k, v, positions, since, windows, most, total, read,
    slots, scale, kb, kh, ks, vb, vh, vs,
    H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
    ROW: tl.constexpr, CAP: tl.constexpr, MAGNITUDE: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Of the slots of one part: the largest score, the sum of exp(score - largest), and the values weighted by that."""
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    position, begun, window = tl.load(positions + row), tl.load(since + row), tl.load(windows + row)
    e = tl.arange(0, WIDTH)
    q = _turned(mixed + row * ROW + head * E, turns, position, E, R, WIDTH, MAGNITUDE) * scale
    keys, values = k + row * kb + (head // G) * kh, v + row * vb + (head // G) * vh
    length = tl.cdiv(tl.cdiv(slots, PARTS), TILE) * TILE
    largest, summed, weighted = -float("inf"), 0.0, tl.zeros([WIDTH], tl.float32)
    for begin in range(part * length, tl.minimum(slots, (part + 1) * length), TILE):
        s = begin + tl.arange(0, TILE)
        held = position - 1 - (position - 1 - s + slots) % slots  # the position that a slot holds
        seen = (s < slots) & (held >= begun) & ((window == 0) | (position - held < window))
        at = seen[:, None] & (e[None, :] < E)
        key = tl.load(keys + s[:, None] * ks + e[None, :], at, 0).to(tl.float32)
        score = tl.where(seen, _capped(tl.sum(key * q[None, :], 1), CAP), -float("inf"))
        higher = tl.maximum(largest, tl.max(score, 0))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        weight, shrunk = tl.exp(score - base), tl.exp(largest - base)
        value = tl.load(values + s[:, None] * vs + e[None, :], at, 0).to(tl.float32)
        weighted = weighted * shrunk + tl.sum(weight[:, None] * value, 0)
        summed, largest = summed * shrunk + tl.sum(weight, 0), higher
    place = (row * H + head) * PARTS + part
    tl.store(most + place, largest)
    tl.store(total + place, summed)
    tl.store(read + place * E + e, weighted, e < E)


@triton.jit
def _joined(
    mixed, turns, sinks, k, v, positions, most, total, read, y,
    slots, scale, kb, kh, ks, vb, vh, vs,
    H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
    ROW: tl.constexpr, CAP: tl.constexpr, MAGNITUDE: tl.constexpr, SINKS: tl.constexpr, GATED: tl.constexpr,
) -> None:  # fmt: skip
    """The output of a head: all parts, the token itself, and the sink's share of the softmax."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position, e, p, token = tl.load(positions + row), tl.arange(0, WIDTH), tl.arange(0, PARTS), mixed + row * ROW
    q = _turned(token + head * E, turns, position, E, R, WIDTH, MAGNITUDE) * scale
    own_key = _turned(token + (H + head // G) * E, turns, position, E, R, WIDTH, MAGNITUDE)
    own_value = tl.load(token + (H + H // G + head // G) * E + e, e < E, 0).to(tl.float32)
    own = _capped(tl.sum(q * own_key), CAP)
    place = (row * H + head) * PARTS + p
    largest = tl.load(most + place)
    top = tl.maximum(tl.max(largest, 0), own)
    if SINKS:
        sink = tl.load(sinks + head).to(tl.float32)
        top = tl.maximum(top, sink)
    share, mine = tl.exp(largest - top), tl.exp(own - top)
    summed = tl.sum(tl.load(total + place) * share, 0) + mine
    if SINKS:
        summed += tl.exp(sink - top)
    parts = tl.load(read + place[:, None] * E + e[None, :], e[None, :] < E, 0)
    made = (tl.sum(parts * share[:, None], 0) + mine * own_value) / summed
    if GATED:
        gate = tl.load(token + (H + 2 * (H // G) + head) * E + e, e < E, 0).to(tl.float32)
        made = made / (1 + tl.exp(-gate))
    tl.store(y + (row * H + head) * E + e, made.to(y.dtype.element_ty), e < E)
    if head % G == 0:
        slot, ring = position % slots, head // G
        tl.store(k + row * kb + ring * kh + slot * ks + e, own_key.to(k.dtype.element_ty), e < E)
        tl.store(v + row * vb + ring * vh + slot * vs + e, own_value.to(v.dtype.element_ty), e < E)


@triton.jit
def _turned(x, turns, position, E: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr, MAGNITUDE: tl.constexpr) -> Any:
    """A head (E,) rotated to a position; `turns` (R / 2,) are whole turns a token, in float64."""
    e = tl.arange(0, WIDTH)
    own = tl.load(x + e, e < E, 0).to(tl.float32)
    if R == 0:
        return own
    first = e < R // 2
    other = tl.load(x + tl.where(first, e + R // 2, e - R // 2), e < R, 0).to(tl.float32)
    turned = tl.load(turns + tl.where(first, e, e - R // 2), e < R, 0) * position.to(tl.float64)
    angle = ((turned - tl.floor(turned)) * 6.283185307179586).to(tl.float32)
    cos, sin = tl.cos(angle) * MAGNITUDE, tl.sin(angle) * MAGNITUDE
    return tl.where(e < R, own * cos + tl.where(first, -other, other) * sin, own)


@triton.jit
def _capped(score, CAP: tl.constexpr) -> Any:
    """CAP tanh(score / CAP); the score where CAP is 0."""
    return score if CAP == 0 else CAP - 2 * CAP / (1 + tl.exp(score * (2 / CAP)))
