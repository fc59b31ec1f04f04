"""One token of Mamba-2's memory, as a Triton kernel for the memory and one for gate and norm (ops/ssd_step.py).

A program of the first computes some rows of a head's memory: it reads and writes them once. All sums are fp32.
Importing this file imports triton.

Letters: B batch, H heads, P width of a head, G groups, N width of B and C.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridkit_blocks.ops.cuda.functions import softplus
from hybridkit_blocks.ops.cuda.gated_norm import launch_gated_norm

MEMORY_TILE = 4096  # elements of the memory that a program holds
UNBOUNDED = 3e38


def launch_ssd_step_(
    mixed: Tensor, dt: Tensor, z: Tensor, rate: Tensor, bias: Tensor, skip: Tensor, S: Tensor,
    lowest: float, highest: float | None, norm_groups: int, least: float | None, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    """y (B, H P) in `kind`. `mixed` and S are contiguous and fp32; S is changed in place."""
    batch, heads, width, keys = S.shape
    groups, columns = (mixed.shape[1] - heads * width) // (2 * keys), triton.next_power_of_2(keys)
    rows = min(triton.next_power_of_2(width), max(1, MEMORY_TILE // columns))
    y = torch.empty(batch, heads * width, dtype=torch.float32, device=S.device)
    _rows[(batch, heads, triton.cdiv(width, rows))](
        mixed, dt, rate, bias, skip, S, y, dt.stride(0), lowest, UNBOUNDED if highest is None else highest,
        H=heads, P=width, N=keys, G=groups, ROWS=rows, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return launch_gated_norm(y, z, norm_groups, least, True, True, kind)


@triton.jit
def _rows(
    mixed, dt, rate, bias, skip, S, y, dt_stride, lowest, highest,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, G: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r, a = tl.program_id(2) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    known, token = (r[:, None] < P) & (a[None, :] < N), mixed + row * (H * P + 2 * G * N)
    x = tl.load(token + head * P + r, r < P, 0)
    b = tl.load(token + H * P + head // (H // G) * N + a, a < N, 0)
    c = tl.load(token + H * P + (G + head // (H // G)) * N + a, a < N, 0)
    length = softplus(tl.load(dt + row * dt_stride + head).to(tl.float32) + tl.load(bias + head))
    length = tl.minimum(tl.maximum(length, lowest), highest)
    at = S + (row * H + head) * (P * N) + r[:, None] * N + a[None, :]
    part = tl.load(at, known, 0) * tl.exp(length * tl.load(rate + head)) + (x * length)[:, None] * b[None, :]
    tl.store(at, part, known)
    tl.store(y + (row * H + head) * P + r, tl.sum(part * c[None, :], 1) + tl.load(skip + head) * x, r < P)
