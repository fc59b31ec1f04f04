"""RMSNorm behind a gate, norm(y * silu(z)), over groups of channels: what Mamba-2 ends with (arXiv 2405.21060).

On a CPU it has a gradient of its own that computes the gated product again, a slice of tokens at a time, so that
results are still in the cache when they are used (docs/decisions/05-custom-autograd-on-a-cpu.md).

Letters: B batch, T tokens, M = B T, I width, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops.custom_autograd import eager_on_cpu
from hybridkit_blocks.ops.precision import wide

EPS = 1e-5
SLICE_ELEMENTS = 2**16  # of a slice: 256 KiB in fp32, about a core's cache


class GatedNorm(nn.Module):
    """y * silu(z), divided by the root mean square of each group, with one weight a channel; in fp32 or float64.

    Without groups, the gate alone.
    """

    def __init__(self, width: int, groups: int | None) -> None:
        super().__init__()
        self.groups = groups or 1
        self.weight = nn.Parameter(torch.ones(width)) if groups else None

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """y, z (., I) to (., I), in y's type."""
        if self.weight is None:
            return y * F.silu(z)
        if eager_on_cpu(y):
            made: Tensor = _InSlices.apply(y, z, self.weight, self.groups)
            return made
        kind = wide(y.dtype)
        h = (y.to(kind) * F.silu(z.to(kind))).unflatten(-1, (self.groups, -1))
        return (F.rms_norm(h, h.shape[-1:], eps=EPS).flatten(-2) * self.weight).to(y.dtype)

    def stepper(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same for one token y (B, I), at least fp32, and z (B, I), but for the factors `after`."""
        if self.weight is None:
            return lambda y, z: F.silu(z.to(y.dtype)).mul_(y)
        assert self.least is not None
        shape, kind = (self.groups, len(self.weight) // self.groups), wide(self.weight.dtype)
        least = torch.full((), self.least**0.5, dtype=kind, device=self.weight.device)

        def run(y: Tensor, z: Tensor) -> Tensor:
            h = F.silu(z.to(y.dtype)).mul_(y).view(-1, *shape)
            return h.div_(torch.linalg.vector_norm(h, dim=-1, keepdim=True).hypot_(least)).flatten(-2)

        return run

    @property
    def least(self) -> float | None:
        """What is added to the squared length of a group; None: there is no norm."""
        return None if self.weight is None else len(self.weight) / self.groups * EPS

    @property
    def after(self) -> Tensor | float:
        """What the outputs of `stepper` are multiplied by (I): these factors may move into the next product."""
        return 1.0 if self.weight is None else self.weight * (len(self.weight) / self.groups) ** 0.5


class _InSlices(torch.autograd.Function):
    """With h = y silu(z), r = 1 / rms(h) of each group, n = h r and the output w n:

    dh = r (w do - n mean(w do n))          dw = sum of do n          dy = dh silu(z)
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, groups: int) -> Tensor:
        out, kind = torch.empty_like(y, memory_format=torch.contiguous_format), wide(y.dtype)
        w = weight.to(kind)
        for y_, z_, out_ in _slices(y, z, out):
            n = _normed(y_.to(kind), z_.to(kind), groups)[0].flatten(1)
            if out.dtype == kind:
                torch.mul(n, w, out=out_)
            else:
                out_.copy_(n.mul_(w))
        ctx.save_for_backward(y, z, weight)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        y, z, weight = ctx.saved_tensors
        (dy, dz), kind = y.new_empty(2, *y.shape).unbind(), wide(y.dtype)
        w, dweight = weight.to(kind), torch.zeros_like(weight, dtype=kind)
        for *given, dy_, dz_ in _slices(y, z, grads[0], dy, dz):
            y_, z_, dout = (t.to(kind) for t in given)
            n, r, silu = _normed(y_, z_, ctx.groups)
            dweight += (dout * n.flatten(1)).sum(0)
            dn = (dout * w).view_as(n)
            mean = torch.linalg.vecdot(dn, n)[..., None] / n.shape[-1]
            dh = dn.addcmul_(n, mean, value=-1).mul_(r).flatten(1)
            if dy.dtype == kind:
                torch.mul(dh, silu, out=dy_)
                torch.ops.aten.silu_backward.grad_input(dh.mul_(y_), z_, grad_input=dz_)
            else:
                dy_.copy_(silu.mul_(dh))
                dz_.copy_(torch.ops.aten.silu_backward(dh.mul_(y_), z_))
        return dy, dz, dweight.to(weight.dtype), None


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices over time of (B, T, I) as (M, I)."""
    rows = [t.reshape(-1, t.shape[-1]) for t in tensors]
    return zip(*(t.split(max(1, SLICE_ELEMENTS // t.shape[-1])) for t in rows), strict=True)


def _normed(y: Tensor, z: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """n (M, G, I / G), r (M, G, 1) and silu(z) (M, I)."""
    silu = F.silu(z)
    h = (y * silu).view(len(y), groups, -1)
    r = (torch.linalg.vecdot(h, h)[..., None] / h.shape[-1]).add_(EPS).rsqrt_()
    return h.mul_(r), r, silu
