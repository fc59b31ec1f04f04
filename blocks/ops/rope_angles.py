"""Cosine and sine of the angles that heads are rotated by (ops/rope.py)."""

import torch
from torch import Tensor


def cos_sin(positions: Tensor, speeds: Tensor, magnitude: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both in `dtype`, (T, 1, R / 2) or (B, T, 1, R / 2), from positions (T,) or (B, T) and speeds (R / 2,)."""
    angles = (positions[..., None] * speeds)[..., None, :]
    cos, sin = angles.cos(), angles.sin()
    if magnitude != 1:
        cos, sin = cos * magnitude, sin * magnitude
    return cos.to(dtype), sin.to(dtype)
