"""One token of a causal depthwise convolution, for decoding; convolution_step.py has a kernel of the same for a GPU.

Letters: B batch, C channels, k taps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridkit_blocks.ops.activation import SILU, Activation

Convolved = Callable[[Tensor, Tensor], Tensor]  # x (B, C) and state, moved on in place, to y (B, C)


def convolved_in_torch(weight: Tensor, bias: Tensor | None, activation: Activation) -> Convolved:
    """One token with weight (k, C) and bias (C,), at least fp32."""
    *taps, own = weight.unbind()
    first, silu = torch.zeros_like(own) if bias is None else bias, activation is SILU

    def run(x: Tensor, state: Tensor) -> Tensor:
        z, held = torch.addcmul(first, x, own), state.unbind(1)
        for seen, tap in zip(held, taps, strict=True):
            z.addcmul_(seen, tap)
        for old, new in zip(held, (*held[1:], x), strict=False):
            old.copy_(new)
        return F.silu(z, inplace=True) if silu else activation.apply(z)

    return run
