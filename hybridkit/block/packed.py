"""Weights laid out for decoding: joined in one matrix, and on a CPU the norm's weight multiplied in.

On a CPU the order in memory is the fastest for the number of rows: panels, which MKL multiplies as a batch, or another
(docs/decisions/10-layouts-for-decoding.md). On a GPU weights stay as they are, but that their rows are padded to whole
vectors (docs/decisions/12-padded-widths.md); the norm with its weight is one kernel there.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block.padding import padded_width

Product = Callable[[Tensor], Tensor]  # (B, inputs) to (B, outputs)
ResidualProduct = Callable[[Tensor, Tensor], Tensor]  # x (B, outputs), h (B, inputs) to x + h W^T + b

_LARGE = 1 << 18  # elements from which on oneDNN's layout is worth its slower calls
_PANELS = 1 << 17  # elements from which on panels are
_FEW = 32  # rows up to which they are


def product(weight: Tensor, rows: int, bias: Tensor | None = None) -> Product:
    """x (rows, inputs) to x W^T + b, for a weight (outputs, inputs); right for any number of rows, fast for `rows`."""
    if on_gpu(weight):
        return lambda x: F.linear(x, weight, bias)
    if panels := _in_panels(weight, rows, bias):
        return lambda x: panels(x, None)
    if _blocked(weight, rows):
        run, held = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda x: run(x, held, bias, "none", [], "")
    laid = _turned(weight, rows)
    return (lambda x: torch.mm(x, laid)) if bias is None else (lambda x: torch.addmm(bias, x, laid))


def residual(weight: Tensor, rows: int, bias: Tensor | None = None) -> ResidualProduct:
    """x (rows, outputs) and h (rows, inputs) to x + h W^T + b, as in `product`."""
    if on_gpu(weight):
        return _aligned(weight, bias)
    if panels := _in_panels(weight, rows, bias):
        return lambda x, h: panels(h, x)
    if _blocked(weight, rows):
        run, held = torch.ops.mkldnn._linear_pointwise.binary, torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda x, h: run(h, x, held, bias, "add")
    laid = _turned(weight, rows)
    return lambda x, h: torch.addmm(x if bias is None else x + bias, h, laid)


def output(norm: nn.RMSNorm | None, weight: Tensor, rows: int, bias: Tensor | None = None) -> ResidualProduct:
    """`residual`, for what a decoder with this norm returns: without one it is h W^T + b, whatever x is."""
    if norm is not None:
        return residual(weight, rows, bias)
    project = product(weight, rows, bias)
    return lambda x, h: project(h)


def on_gpu(weight: Tensor) -> bool:
    """Whether weights are laid out as a GPU reads them."""
    return weight.device.type not in ("cpu", "meta")


def _aligned(weight: Tensor, bias: Tensor | None) -> ResidualProduct:
    """`residual` with a weight whose rows of odd length are padded once: kernels for others are slower."""
    more = padded_width(weight.shape[1]) - weight.shape[1]
    held = F.pad(weight, (0, more)).t() if more else weight.t()

    def run(x: Tensor, h: Tensor) -> Tensor:
        return torch.addmm(x if bias is None else x + bias, F.pad(h, (0, more)) if more else h, held)

    return run


def panel_width(rows: int) -> int:
    """Outputs of a panel for so many rows, with MKL and torch's current threads; 0: no panels."""
    alone = rows == 1 and torch.get_num_threads() == 1  # then one product is read as fast as it can be
    if alone or rows > _FEW or not torch.backends.mkl.is_available():
        return 0
    return 32 if rows < 4 else 16


def _in_panels(weight: Tensor, rows: int, bias: Tensor | None) -> Callable[[Tensor, Tensor | None], Tensor] | None:
    """h (rows, inputs), and x (rows, outputs) or None, to h W^T + b + x; None where panels are no faster."""
    width, (outputs, inputs) = panel_width(rows), weight.shape
    if not width or weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.numel() < _PANELS:
        return None
    panels, more = -(-outputs // width), -outputs % width
    held = (F.pad(weight, (0, 0, 0, more)) if more else weight).view(panels, width, inputs).mT.contiguous()

    def run(h: Tensor, x: Tensor | None) -> Tensor:
        given, added = h.expand(panels, -1, -1), bias if x is None else x if bias is None else x + bias
        if added is None:
            made = torch.bmm(given, held)
        else:
            added = F.pad(added, (0, more)) if more else added
            made = torch.baddbmm(added.reshape(-1, panels, width).transpose(0, 1), given, held)
        y = made.transpose(0, 1).flatten(1)
        return y[:, :outputs] if more else y

    return run


def _blocked(weight: Tensor, rows: int) -> bool:
    """Whether oneDNN multiplies; its operations are what torch's own compiler calls, so older ones may lack them."""
    fits = rows > 1 and weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() >= _LARGE
    return fits and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _turned(weight: Tensor, rows: int) -> Tensor:
    """(inputs, outputs), in the order of memory that is read faster."""
    return weight.t() if rows == 1 and len(weight) <= weight.shape[1] else weight.t().contiguous()


def side_by_side(norm: nn.RMSNorm | None, weights: Sequence[Tensor]) -> Tensor:
    """One matrix (sum of outputs, D): times `Unit(norm)(x)` it is what `weights` (outputs, D) are times `norm(x)`.

    All are of one type.
    """
    if norm is None or on_gpu(weights[0]):
        return weights[0] if len(weights) == 1 else torch.cat(list(weights))
    width, kind = weights[0].shape[1], weights[0].dtype
    together = weights[0].new_empty(sum(map(len, weights)), width)
    scale, place = norm.weight.to(torch.promote_types(kind, torch.float32)) * width**0.5, 0
    for weight in weights:  # one pass over each: joining first and scaling then would allocate twice
        torch.mul(weight, scale, out=together[place : place + len(weight)])
        place += len(weight)
    return together


def normed_product(
    norm: nn.RMSNorm | None, weights: Sequence[Tensor], rows: int, bias: Tensor | None = None
) -> Product:
    """`norm`, if any, and then the product with all `weights` (outputs, inputs) at once: (B, inputs) to (B, sum of
    outputs).

    Weights of a wider type than others are multiplied in theirs, and then all is returned in it, without a bias.
    """
    unit, groups = Unit(norm), [list(group) for _, group in itertools.groupby(weights, lambda weight: weight.dtype)]
    if len(groups) == 1:
        project = product(side_by_side(norm, weights), rows, bias)
        return lambda x: project(unit(x))
    assert bias is None
    kinds = [group[0].dtype for group in groups]
    parts = [product(side_by_side(norm, group), rows) for group in groups]
    widest = functools.reduce(torch.promote_types, kinds)

    def run(x: Tensor) -> Tensor:
        h = unit(x)
        return torch.cat([part(h.to(kind)).to(widest) for part, kind in zip(parts, kinds, strict=True)], -1)

    return run


def normed_parts(norm: nn.RMSNorm | None, weights: Sequence[Tensor], rows: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """`norm` where there is one, and then the product with each weight (outputs, inputs) in that weight's type:
    (B, inputs) to a (B, outputs) of each. Weights of one type are one product."""
    unit, kinds = Unit(norm), list(dict.fromkeys(weight.dtype for weight in weights))
    groups = [[place for place, weight in enumerate(weights) if weight.dtype == kind] for kind in kinds]
    products = [product(side_by_side(norm, [weights[place] for place in group]), rows) for group in groups]
    cuts = [[len(weights[place]) for place in group] for group in groups]

    def run(x: Tensor) -> Sequence[Tensor]:
        h, made = unit(x), dict[int, Tensor]()
        for kind, project, sizes, group in zip(kinds, products, cuts, groups, strict=True):
            made.update(zip(group, project(h.to(kind)).split_with_sizes(sizes, -1), strict=True))
        return [made[place] for place in range(len(weights))]

    return run


class Unit:
    """x (B, D) divided by its length, eps included: RMSNorm (arXiv 1910.07467) without its weight and sqrt(D).

    On a GPU the norm as it is; without a norm, x as it is.
    """

    def __init__(self, norm: nn.RMSNorm | None) -> None:
        self._norm = nn.Identity() if norm is None else norm if on_gpu(norm.weight) else None
        if norm is None:
            return
        assert norm.eps is not None
        self._kind = torch.promote_types(norm.weight.dtype, torch.float32)
        self._least = torch.full((), (norm.weight.numel() * norm.eps) ** 0.5, dtype=self._kind)

    def __call__(self, x: Tensor) -> Tensor:
        """Computed in fp32 at least, returned in x's type."""
        if self._norm is not None:
            y: Tensor = self._norm(x)
            return y
        wide = x if x.dtype == self._kind else x.to(self._kind)
        wide = wide / torch.linalg.vector_norm(wide, dim=-1, keepdim=True).hypot_(self._least)
        return wide if wide.dtype == x.dtype else wide.to(x.dtype)
