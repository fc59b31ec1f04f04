"""Initial weights that blocks share."""

from __future__ import annotations

from torch import Tensor, nn

from hybridkit.block.block import Dims


def normal_(weight: Tensor, std: float) -> None:
    """Fill with N(0, std^2); on the meta device, which holds no numbers, do nothing: torch would load its compiler."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def small_init_(weight: Tensor) -> None:
    """Fill with N(0, 2 / (5 fan_in)): for projections into a layer (Nguyen & Salazar, arXiv 1910.05895)."""
    normal_(weight, std=(2 / (5 * weight.shape[-1])) ** 0.5)


def wang_init_(weight: Tensor, dims: Dims) -> None:
    """Fill with N(0, (2 / (depth sqrt(width)))^2): for projections back onto the residual stream (GPT-J's)."""
    normal_(weight, std=2 / (dims.depth * dims.width**0.5))
