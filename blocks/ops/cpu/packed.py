"""Weights laid out for decoding on a CPU: side by side, with the norm's own weight in them, as the rows want them.

Measured on one core of an EPYC with AVX2: one row times (512, 1536) reads the weights at 14 GB/s as nn.Linear holds
them and at 22 GB/s input by output, where there are more outputs than inputs; eight rows take 0.46 ms with nn.Linear,
0.41 ms input by output, and 0.35 ms in oneDNN's own layout, whose calls take 20 us more than others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]  # (B, inputs) to (B, outputs)
ResidualProduct = Callable[[Tensor, Tensor], Tensor]  # x (B, outputs), h (B, inputs) to x + h W^T

_LARGE = 1 << 18  # elements from which oneDNN's layout makes up for its calls


def product(weight: Tensor, rows: int) -> Product:
    """x (rows, inputs) to x W^T, for a weight (outputs, inputs); other numbers of rows are right too, and slower."""
    if _blocked(weight, rows):
        run, held = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda x: run(x, held, None, "none", [], "")
    laid = _turned(weight, rows)
    return lambda x: torch.mm(x, laid)


def residual(weight: Tensor, rows: int) -> ResidualProduct:
    """x (rows, outputs) and h (rows, inputs) to x + h W^T, as in `product`."""
    if _blocked(weight, rows):
        run, held = torch.ops.mkldnn._linear_pointwise.binary, torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda x, h: run(h, x, held, None, "add")
    laid = _turned(weight, rows)
    return lambda x, h: torch.addmm(x, h, laid)


def _blocked(weight: Tensor, rows: int) -> bool:
    """Whether oneDNN multiplies; its operations are what torch's own compiler calls, so older ones may lack them."""
    fits = rows > 1 and weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() >= _LARGE
    return fits and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _turned(weight: Tensor, rows: int) -> Tensor:
    """(inputs, outputs), in whichever order of memory is read faster."""
    return weight.t() if rows == 1 and len(weight) <= weight.shape[1] else weight.t().contiguous()


def side_by_side(norm: nn.RMSNorm, weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """(sum of outputs, D): what `weights` (outputs, D) times `norm(x)` multiply `unit(x)` with."""
    width = weights[0].shape[1]
    kind = dtype or weights[0].dtype
    together = weights[0].new_empty(sum(map(len, weights)), width, dtype=kind)
    scale, place = norm.weight.to(torch.promote_types(kind, torch.float32)) * width**0.5, 0
    for weight in weights:  # one pass over each: joining and scaling apart would take fresh memory twice
        torch.mul(weight, scale, out=together[place : place + len(weight)])
        place += len(weight)
    return together


class Unit:
    """x (B, D) over its length, eps included: an RMSNorm (arXiv 1910.07467) but for its weight and sqrt(D)."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        assert norm.eps is not None
        self._kind = torch.promote_types(norm.weight.dtype, torch.float32)
        self._least = torch.full((), (norm.weight.numel() * norm.eps) ** 0.5, dtype=self._kind)

    def __call__(self, x: Tensor) -> Tensor:
        """In x's type, the norm's promoted to fp32 at least."""
        wide = x if x.dtype == self._kind else x.to(self._kind)
        wide = wide / torch.linalg.vector_norm(wide, dim=-1, keepdim=True).hypot_(self._least)
        return wide if wide.dtype == x.dtype else wide.to(x.dtype)
