"""A norm of each head times a gate, w n(h) act(z): what mLSTM and delta rules end with.

On a CPU it has a gradient of its own, which computes norm and gate again, a slice of tokens at a time, so that results
are still in the cache when they are used (docs/decisions/05-custom-autograd-on-a-cpu.md). h and z may be bf16; inside
all is at least fp32.

With a = do act(z) w:        dw = sum of do act(z) n        dz = act'(z) do w n        dh = n'(h) a

Letters: B batch, T tokens, M = B T, H heads, V width of a head, I = H V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops.activation import Activation
from hybridkit_blocks.ops.custom_autograd import eager_on_cpu
from hybridkit_blocks.ops.precision import wide

SLICE_ELEMENTS = 2**17  # of a slice: 512 KiB in fp32, about a core's cache


class UnweightedNorm(NamedTuple):
    """A norm of the last dimension, without weights.

    `apply` gives it and what `gradient` needs besides its input; that takes (dn, h, *what apply gave).
    """

    apply: Callable[[Tensor, float], tuple[Tensor, ...]]
    gradient: Callable[..., Tensor]


def _centred(h: Tensor, eps: float) -> tuple[Tensor, ...]:
    made: tuple[Tensor, ...] = torch.native_layer_norm(h, h.shape[-1:], None, None, eps)
    return made


def _centred_gradient(dn: Tensor, h: Tensor, n: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    made = torch.ops.aten.native_layer_norm_backward(dn, h, h.shape[-1:], mean, r, None, None, [True, False, False])
    grad: Tensor = made[0]
    return grad


def _scaled(h: Tensor, eps: float) -> tuple[Tensor, ...]:
    r = (torch.linalg.vecdot(h, h)[..., None] / h.shape[-1]).add_(eps).rsqrt_()
    return h * r, r


def _scaled_gradient(dn: Tensor, h: Tensor, n: Tensor, r: Tensor) -> Tensor:
    mean = torch.linalg.vecdot(dn, n)[..., None].div_(-n.shape[-1])
    return torch.addcmul(dn, n, mean).mul_(r)


LAYER_NORM = UnweightedNorm(_centred, _centred_gradient)
RMS_NORM = UnweightedNorm(_scaled, _scaled_gradient)


def normed_gate(
    h: Tensor,  # (B, T, H, V)
    z: Tensor,  # (B, T, I)
    weight: Tensor,  # (I,), or (V,) for all heads
    norm: UnweightedNorm,
    activation: Activation,
    eps: float,
) -> Tensor:
    """w n(h) act(z) (B, T, I), in z's type."""
    if not eager_on_cpu(h):
        kind = wide(h.dtype)
        n = norm.apply(h.to(kind), eps)[0] * weight.to(kind).view(-1, h.shape[-1])
        return (n.flatten(-2) * activation.apply(z.to(kind))).to(z.dtype)
    y: Tensor = _InSlices.apply(h, z, weight, norm, activation, eps)
    return y


class _InSlices(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, z: Tensor, weight: Tensor, norm: UnweightedNorm, activation: Activation, eps: float
    ) -> Tensor:
        ctx.save_for_backward(h, z, weight)
        ctx.how = norm, activation, eps
        out, kind = torch.empty_like(z, memory_format=torch.contiguous_format), wide(h.dtype)
        w = weight.to(kind).view(-1, h.shape[-1])
        for h_, z_, out_ in _slices(h, z, out):
            h_, z_ = _heads(h_, h, kind), _heads(z_, h, kind)
            n = norm.apply(h_, eps)[0].mul_(w)
            torch.mul(n, activation.apply(z_), out=n if out.dtype != kind else out_.view_as(n))
            if out.dtype != kind:
                out_.copy_(n.flatten(1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (h, z, weight), (norm, activation, eps) = ctx.saved_tensors, ctx.how
        kind = wide(h.dtype)
        w = weight.to(kind).view(-1, h.shape[-1])
        dh, dz = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (h, z))
        dweight = torch.zeros(h.shape[-2:], dtype=kind)
        for slices in _slices(h, z, grads[0], dh, dz):
            h_, z_, dout = (_heads(t, h, kind) for t in slices[:3])
            made = norm.apply(h_, eps)
            n, given = made[0], dout * activation.apply(z_)
            dweight += (given * n).sum(0)
            slices[4].copy_(activation.gradient((n * w).mul_(dout), z_).flatten(1))
            slices[3].copy_(norm.gradient(given.mul_(w), h_, *made).flatten(1))
        own = dweight if len(w) > 1 or len(dweight) == 1 else dweight.sum(0)
        return dh, dz, own.flatten().to(weight.dtype), None, None, None


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices over time of (B, T, I) or (B, T, H, V) as (M, I)."""
    rows = [t.flatten(2).flatten(0, 1) for t in tensors]
    return zip(*(t.split(max(1, SLICE_ELEMENTS // max(1, t.shape[-1]))) for t in rows), strict=True)


def _heads(t: Tensor, like: Tensor, kind: torch.dtype) -> Tensor:
    """(M, I) as (M, H, V) of a type, contiguous."""
    return t.to(kind).contiguous().view(-1, *like.shape[-2:])
