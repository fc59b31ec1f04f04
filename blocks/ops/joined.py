"""Several linear layers of one input as one product, and one for each gradient; those of gates and rates in fp32.

Used where operations run one by one on a CPU, also under autocast (custom_autograd.py). Under autocast the input is
cast once for all layers, and each weight by itself, so that what is cast is known (hybridkit.training.bf16_weights).
Layers of gates and rates read an input in bf16 a slice at a time, cast and multiplied while it is in the cache; what is
kept is the input as it was.

Letters: N tokens, D width, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hybridkit.block import linear
from hybridkit_blocks.ops.custom_autograd import eager_on_cpu
from hybridkit_blocks.ops.precision import no_autocast, wide

SLICE = 1024  # tokens that are cast at a time


class WideLinear(nn.Linear):
    """A linear layer in fp32 or float64 even where the model is bf16: for gates, and for rates, which add up.

    Its bias, if there is one, is left to the caller to add.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, outputs), at least fp32."""
        return wide_linear(x, self.weight)


def joined(x: Tensor, layers: Sequence[nn.Linear], kind: torch.dtype) -> list[Tensor]:
    """What the layers give for x (., D), in their order: parts of one product in type `kind`, biases included.

    Those of `WideLinear` are at least fp32 and have no bias added.
    """
    apart = [layer for layer in layers if isinstance(layer, WideLinear) and kind != wide(kind)]
    together = [layer for layer in layers if layer not in apart]
    parts = dict(zip(together, _one_product(x.to(kind), together), strict=True))
    if apart:
        made = wide_linear(x, torch.cat([layer.weight for layer in apart]))
        parts |= zip(apart, made.split([len(layer.weight) for layer in apart], -1), strict=True)
    return [parts[layer] for layer in layers]


def _one_product(x: Tensor, layers: Sequence[nn.Linear]) -> Sequence[Tensor]:
    weights = [layer.weight.to(x.dtype) for layer in layers]
    biases = [None if isinstance(layer, WideLinear) else layer.bias for layer in layers]
    bias = None
    if any(part is not None for part in biases):
        pairs = zip(weights, biases, strict=True)
        bias = torch.cat([w.new_zeros(len(w)) if part is None else part.to(x.dtype) for w, part in pairs])
    return linear(x, torch.cat(weights), bias).split([len(weight) for weight in weights], -1)


def wide_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (., D) times a weight (O, D), at least in fp32 whatever their types, and under autocast: (., O)."""
    kind = wide(x.dtype)
    with no_autocast(x):
        if x.dtype == kind or not eager_on_cpu(x):
            return F.linear(x.to(kind), weight.to(kind))
        y: Tensor = _Wide.apply(x, weight.to(kind))
        return y


class _Wide(torch.autograd.Function):
    """From x (., D) in bf16 and a weight (O, D) in fp32 to (., O) in fp32. Keeps x, not a copy in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(*x.shape[:-1], len(weight), dtype=weight.dtype)
        for x_, y_ in _cuts(x, y):
            torch.mm(x_.to(weight.dtype), weight.t(), out=y_)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dx, dweight = torch.empty_like(x, memory_format=torch.contiguous_format), torch.zeros_like(weight)
        room = weight.new_empty(SLICE, weight.shape[1])
        for x_, dy, dx_ in _cuts(x, grads[0], dx):
            torch.mm(dy, weight, out=room[: len(dy)])
            dx_.copy_(room[: len(dy)])
            torch.addmm(dweight, dy.t(), x_.to(weight.dtype), out=dweight)
        return dx, dweight


def _cuts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices (n, .) of (., .)."""
    return zip(*(tensor.reshape(-1, tensor.shape[-1]).split(SLICE) for tensor in tensors), strict=True)
