"""One token of a causal depthwise convolution, as one Triton kernel (ops/convolution_step.py).

Letters: B batch, C channels, k taps. Importing this file imports triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridkit_blocks.ops.cuda.functions import sigmoid

CHANNELS = 256  # of a program


def launch_convolution_step_(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> Tensor:
    """y (B, C) in fp32, of x (B, C), whose channels lie side by side; `state` is contiguous and changed in place."""
    (batch, channels), taps = x.shape, len(weight)
    y = torch.empty(batch, channels, dtype=torch.float32, device=x.device)
    _convolved[(batch, triton.cdiv(channels, CHANNELS))](
        x, weight, bias, state, y, x.stride(0), channels,
        TAPS=taps, BIAS=bias is not None, SILU=silu, CHANNELS=CHANNELS, num_warps=4,
    )  # fmt: skip
    return y


@triton.jit
def _convolved(
    x, weight, bias, state, y, row_stride, C,
    TAPS: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, CHANNELS: tl.constexpr,
) -> None:  # fmt: skip
    row, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, held = c < C, state + row * (TAPS - 1) * C + c
    own = tl.load(x + row * row_stride + c, known, 0).to(tl.float32)
    z = own * tl.load(weight + (TAPS - 1) * C + c, known, 0)
    if BIAS:
        z += tl.load(bias + c, known, 0)
    for tap in tl.static_range(0, TAPS - 1):
        seen = tl.load(held + tap * C, known, 0)
        z += seen.to(tl.float32) * tl.load(weight + tap * C + c, known, 0)
        if tap > 0:
            tl.store(held + (tap - 1) * C, seen, known)
    if TAPS > 1:
        tl.store(held + (TAPS - 2) * C, own.to(state.dtype.element_ty), known)
    if SILU:
        z = z * sigmoid(z)
    tl.store(y + row * C + c, z, known)
