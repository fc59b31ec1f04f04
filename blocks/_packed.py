"""Weights laid out for decoding on a CPU: side by side, input by output, and with the norm's own weight in them.

A few rows times one wide matrix (in, out) take down to half the time that they take with the several (out, in) of
nn.Linear: fewer calls, and nothing to rearrange in each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def side_by_side(norm: nn.RMSNorm, *weights: Tensor) -> Tensor:
    """(D, sum of outputs): what `weights` (outputs, D) times `norm(x)` multiply `unit(x)` with."""
    together = torch.cat(weights)
    width = together.shape[1]
    return (together * (norm.weight * width**0.5)).to(together.dtype).t().contiguous()


def unit(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """x (B, D) over its length, eps included: `norm` (arXiv 1910.07467) but for its weight and sqrt(D)."""
    assert norm.eps is not None
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    square = torch.linalg.vecdot(wide, wide).add_(x.shape[-1] * norm.eps)
    return (wide * square.rsqrt_()[:, None]).to(x.dtype)
