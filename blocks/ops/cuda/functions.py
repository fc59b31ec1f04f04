"""Functions that several Triton kernels call. All take and give fp32. Importing this file imports triton."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def sigmoid(x) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + tl.exp(-x))


@triton.jit
def softplus(x) -> Any:
    """max(x, 0) + log(1 + exp(-|x|)), the logarithm to fp32's own rounding where the exponential is small."""
    small = tl.exp(-tl.abs(x))
    above = 1 + small
    grown = tl.where(above == 1, small, tl.log(above) * (small / tl.where(above == 1, 1.0, above - 1)))
    return tl.maximum(x, 0.0) + grown
