"""Rotary position embedding (arXiv 2104.09864), halves rotated against each other as Llama's checkpoints expect.

B batch, T tokens, H heads, E width of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class RopeAngles(NamedTuple):
    """Cosine and sine of the angles of every position: both (T, 1, E / 2) or (B, T, 1, E / 2), at least fp32."""

    cos: Tensor
    sin: Tensor


def rope_angles(positions: Tensor, head: int, theta: float, dtype: torch.dtype) -> RopeAngles:
    """The angles at positions (T,) or (B, T).

    Angles are float64: at position 10^6 an fp32 product is off by a twentieth of a radian.
    """
    half, wide = head // 2, torch.promote_types(dtype, torch.float32)
    speeds = theta ** -(torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angles = (positions[..., None] * speeds)[..., None, :]
    return RopeAngles(angles.cos().to(wide), angles.sin().to(wide))


def rotate(x: Tensor, angles: RopeAngles) -> Tensor:
    """Rotate x (B, T, H, E) to its positions: same dtype and shape, each head contiguous in memory."""
    if torch.compiler.is_compiling():  # the compiler makes one pass of it
        (a, b), (cos, sin) = x.to(angles.cos.dtype).chunk(2, -1), angles
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
    return _Rotate.apply(x, *angles)


class _Rotate(torch.autograd.Function):
    """Custom, since it passes over memory three times; splitting, multiplying and joining halves takes seven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(*(tensor.transpose(-3, -2) for tensor in (x, cos, sin))).transpose(-3, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation itself, on any order of heads and tokens, into contiguous memory."""
    x, dtype = x.to(cos.dtype), x.dtype
    out = torch.mul(x, torch.cat([cos, cos], -1), out=torch.empty(x.shape, dtype=x.dtype, device=x.device))
    a, b = x.chunk(2, -1)
    out_a, out_b = out.chunk(2, -1)
    out_a.addcmul_(b, sin, value=-1)
    out_b.addcmul_(a, sin)
    return out.to(dtype)
