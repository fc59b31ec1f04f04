"""Products of groups of rows, each group with a weight of its own: what a mixture of experts multiplies.

P rows in all, those of group e behind those of group e - 1; E groups, K inputs, M outputs. On CUDA in bf16 one kernel
of torch takes all groups and never asks the device how large they are. Elsewhere every group is one product, written
into the one result: as fast as that kernel's form for CPUs, which knows no float64
(docs/decisions/13-grouped-products.md). No group is padded, and no row is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ALIGNED = 8  # numbers of bf16 in 16 bytes, which the kernel's rows are to be a multiple of


def grouped_product(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """x (P, K), weight (E, M, K), rows of every group (E,) int64, to (P, M)."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x, weight = (t.to(torch.get_autocast_dtype(device)) for t in (x, weight))
    aligned = not any(size % ALIGNED for size in weight.shape[1:])
    if device == "cuda" and x.dtype == torch.bfloat16 and aligned:
        return F.grouped_mm(x, weight.mT, offs=counts.cumsum(0, dtype=torch.int32))
    y: Tensor = _Grouped.apply(x, weight, counts.tolist())
    return y


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.counts = counts
        y = x.new_empty(len(x), weight.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            for group, rows in _filled(counts):
                torch.mm(x[rows], weight[group].t(), out=y[rows])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, weight), dy = ctx.saved_tensors, grads[0].contiguous()
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        with torch.autocast(x.device.type, enabled=False):
            for group, rows in _filled(ctx.counts):
                torch.mm(dy[rows], weight[group], out=dx[rows])
                torch.mm(dy[rows].t(), x[rows], out=dweight[group])
        return dx, dweight, None


def _filled(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """Every group that has rows, and which."""
    begin = 0
    for group, count in enumerate(counts):
        if count:
            yield group, slice(begin, begin + count)
        begin += count


def permute_rows(x: Tensor, order: Tensor, times: int) -> Tensor:
    """Row order[i] // times of x (N, D) for every i: (N times, D), where `order` is a permutation."""
    y: Tensor = _Permute.apply(x, order, times)
    return y


def unpermute_rows(x: Tensor, order: Tensor) -> Tensor:
    """The rows of x (P, D) where `permute_rows` took them from: x[i] at order[i]."""
    y: Tensor = _Unpermute.apply(x, order)
    return y


class _Permute(torch.autograd.Function):
    """Its gradient sums rows in their order: no atomic additions, so that it is the same every time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, times: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.times = times
        return x[order // times]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grads[0][order.argsort()].unflatten(0, (-1, ctx.times)).sum(1), None, None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x[order.argsort()]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.saved_tensors[0]], None
