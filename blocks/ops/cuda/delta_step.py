"""One token of the delta rule, as a Triton kernel for the memory and one for norm and gate (ops/delta_step.py).

A program of the first computes some columns of a head's memory, which no other column depends on: it reads and writes
them once. All sums are fp32. Importing this file imports triton.

Letters: B batch, H value heads, J key heads, K and V width of a key and a value, G = 1 or K decays a head.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridkit_blocks.ops.cuda.functions import sigmoid, softplus
from hybridkit_blocks.ops.cuda.gated_norm import launch_gated_norm

MEMORY_TILE = 4096  # elements of the memory that a program holds


def launch_delta_step_(
    mixed: Tensor, b: Tensor, f: Tensor, gate: Tensor | None, rate: Tensor, bias: Tensor, S: Tensor,
    key_heads: int, top: float, lowest: float | None, key_eps: float, least: float, silu: bool, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    """y (B, H V) in `kind`. `mixed` and S are contiguous and fp32; S is changed in place."""
    batch, heads, key, value = S.shape
    keys = triton.next_power_of_2(key)
    columns = min(triton.next_power_of_2(value), max(1, MEMORY_TILE // keys))
    o = torch.empty(batch, heads * value, dtype=torch.float32, device=S.device)
    _columns[(batch, heads, triton.cdiv(value, columns))](
        mixed, b, f, rate, bias, S, o, b.stride(0), f.stride(0), top, lowest or 0.0, key_eps,
        H=heads, J=key_heads, K=key, V=value, G=len(bias) // heads, BOUNDED=lowest is not None, KEYS=keys,
        COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return launch_gated_norm(o, gate, heads, least, silu, False, kind)


@triton.jit
def _columns(
    mixed, b, f, rate, bias, S, o, b_stride, f_stride, top, lowest, key_eps,
    H: tl.constexpr, J: tl.constexpr, K: tl.constexpr, V: tl.constexpr, G: tl.constexpr, BOUNDED: tl.constexpr,
    KEYS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    a, e = tl.arange(0, KEYS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known, token = (a[:, None] < K) & (e[None, :] < V), mixed + row * (2 * J * K + H * V)
    q = _unit(token + head // (H // J) * K + a, a < K, key_eps)
    k = _unit(token + (J + head // (H // J)) * K + a, a < K, key_eps)
    v = tl.load(token + 2 * J * K + head * V + e, e < V, 0)
    beta, own = top * sigmoid(tl.load(b + row * b_stride + head).to(tl.float32)), tl.load(rate + head)
    if G == 1:
        kept = _kept(tl.load(f + row * f_stride + head).to(tl.float32) + tl.load(bias + head), own, lowest, BOUNDED)
    else:
        raw = tl.load(f + row * f_stride + head * K + a, a < K, 0).to(tl.float32)
        kept = _kept(raw + tl.load(bias + head * K + a, a < K, 0), own, lowest, BOUNDED)[:, None]
    at = S + (row * H + head) * (K * V) + a[:, None] * V + e[None, :]
    part = tl.load(at, known, 0) * kept
    u = (v - tl.sum(part * k[:, None], 0)) * beta
    part += k[:, None] * u[None, :]
    tl.store(at, part, known)
    tl.store(o + (row * H + head) * V + e, tl.sum(part * q[:, None], 0), e < V)


@triton.jit
def _unit(at, known, eps) -> Any:
    """A key or query divided by its length."""
    x = tl.load(at, known, 0)
    return x / tl.sqrt(tl.sum(x * x) + eps)


@triton.jit
def _kept(f, rate, lowest, BOUNDED: tl.constexpr) -> Any:
    """What of the memory remains, exp(g), as `log_decay` in ops/delta_step.py."""
    return tl.exp(lowest * sigmoid(f * rate)) if BOUNDED else tl.exp(softplus(f) * rate)
