"""One token of the mLSTM between its projections, as one Triton kernel: `mlstm_in_torch_` of ops/mlstm_step.py.

A program computes one head of one row. It passes over the head's matrix C once, so many rows of it at a time. All sums
are fp32, whatever the inputs. Importing this file imports triton.

Letters: D width of the model, H heads, K and V width of a head's key and value.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridkit_blocks.ops.cuda.functions import softplus

MATRIX_TILE = 8192  # elements of C that a program holds at once
THREAD_ELEMENTS = 32  # of these, in a thread


def launch_mlstm_step_(
    x: Tensor, mixed: Tensor, gates: Tensor, bias: Tensor, scale: Tensor, C: Tensor, n: Tensor, m: Tensor
) -> Tensor:
    """y (B, H V). All tensors are contiguous; C, n and m are fp32, and are changed in place."""
    batch, heads, key, value = C.shape
    columns = triton.next_power_of_2(value)
    rows = min(triton.next_power_of_2(key), max(1, MATRIX_TILE // columns))
    y = torch.empty(batch, heads * value, dtype=mixed.dtype, device=mixed.device)
    _step[(batch, heads)](
        x, mixed, gates, bias, scale, C, n, m, y, x.shape[-1], heads, key, value,
        WIDTHS=min(triton.next_power_of_2(x.shape[-1]), 2048), ROWS=rows, KEYS=triton.next_power_of_2(key),
        VALUES=columns, num_warps=max(1, min(8, rows * columns // (32 * THREAD_ELEMENTS))),
    )  # fmt: skip
    return y


@triton.jit
def _step(
    x, mixed, gates, bias, scale, C, n, m, y,
    D: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    WIDTHS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
) -> None:  # fmt: skip
    """The four last sizes are powers of two: channels of x at once, rows of C at once, K and V rounded up."""
    row, head = tl.program_id(0), tl.program_id(1)
    place = (row * H + head).to(tl.int64)
    i = _gate(x + row * D, gates + head * D, bias + head, D, WIDTHS)
    f = _gate(x + row * D, gates + (H + head) * D, bias + H + head, D, WIDTHS)
    fallen = tl.load(m + place) - softplus(-f)
    level = tl.maximum(fallen, i)
    keep, write = tl.exp(fallen - level), tl.exp(i - level)

    q = mixed + row * (2 * H * (K + V)) + head * K
    k, v = q + H * K, mixed + row * (2 * H * (K + V)) + 2 * H * K + head * V
    a, e = tl.arange(0, KEYS), tl.arange(0, VALUES)
    sums = keep * tl.load(n + place * K + a, a < K, 0) + write * tl.load(k + a, a < K, 0).to(tl.float32)
    dot = tl.sum(sums * tl.load(q + a, a < K, 0).to(tl.float32)) / tl.sqrt(K * 1.0)
    values, read = tl.load(v + e, e < V, 0).to(tl.float32), tl.zeros([ROWS, VALUES], tl.float32)
    for begin in tl.static_range(0, K, ROWS):
        r = begin + tl.arange(0, ROWS)
        at, held = C + place * (K * V) + r[:, None] * V + e[None, :], (r[:, None] < K) & (e[None, :] < V)
        written = write * tl.load(k + r, r < K, 0).to(tl.float32)
        part = keep * tl.load(at, held, 0) + written[:, None] * values[None, :]
        tl.store(at, part, held)
        read += tl.load(q + r, r < K, 0).to(tl.float32)[:, None] * part
    tl.store(n + place * K + a, sums, a < K)
    tl.store(m + place, level)

    h = tl.sum(read, 0) / tl.sqrt(K * 1.0) / (tl.maximum(tl.abs(dot), tl.exp(-level)) + 1e-6)
    centred = tl.where(e < V, h - tl.sum(h) / V, 0)
    normed = centred / tl.sqrt(tl.sum(centred * centred) / V + 1e-6)
    o = tl.load(v + H * V + e, e < V, 0).to(tl.float32)
    made = normed * tl.load(scale + head * V + e, e < V, 0).to(tl.float32) / (1 + tl.exp(-o))
    tl.store(y + (row * H + head) * V + e, made.to(y.dtype.element_ty), e < V)


@triton.jit
def _gate(token, weight, bias, D: tl.constexpr, WIDTHS: tl.constexpr) -> Any:
    """15 tanh((w . token + b) / 15)."""
    raw = tl.zeros([WIDTHS], tl.float32)
    for begin in tl.static_range(0, D, WIDTHS):
        d = begin + tl.arange(0, WIDTHS)
        raw += tl.load(token + d, d < D, 0).to(tl.float32) * tl.load(weight + d, d < D, 0).to(tl.float32)
    whole = tl.sum(raw) + tl.load(bias).to(tl.float32)
    return 15 - 30 / (1 + tl.exp(whole * (2 / 15)))
