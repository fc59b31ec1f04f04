"""Products of widths that matrix kernels are slow for: the weights are padded with zeros while they are multiplied.

A width that is no multiple of 8 sends a bf16 product on a GPU to kernels that take seven times as long, and an fp32
product on a CPU to one that takes half as long again (docs/decisions/12-padded-widths.md). Weights keep the width that
the recipe says, in checkpoints, counts and initial values: a padded copy lives as long as the product. Its further rows
and columns are zero, so that values and gradients are those of the weight alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block.block import Count
from hybridkit.block.init import PART, uniform_

MULTIPLES = (64, 32, 16, 8)  # on a GPU: the first that adds at most a sixteenth
CPU_MULTIPLES = (8,)
TOKENS = 256  # of a call, from which on a padded copy of a weight costs less than it saves


class _Choice:
    """What `padding` sets: True or False for all products; None for a choice by device and tokens."""

    forced: bool | None = None


@contextmanager
def padding(on: bool) -> Iterator[None]:
    """Pad all products within, whatever the device, or none of them."""
    before, _Choice.forced = _Choice.forced, on
    try:
        yield
    finally:
        _Choice.forced = before


def padded_width(width: int, multiples: Sequence[int] = MULTIPLES) -> int:
    """The width that is multiplied where `width` is padded, as on a GPU: `--count hardware` counts it."""
    fitting = (width + -width % multiple for multiple in multiples)
    return next((size for size in fitting if 16 * size <= 17 * width), width)


def product_flops(count: Count) -> Callable[[int, int, int], int]:
    """A function from tokens, inputs and outputs to the FLOPs of a linear layer; `hardware` counts padded widths."""
    width = padded_width if count == "hardware" else int
    return lambda tokens, inputs, outputs: 2 * tokens * width(inputs) * width(outputs)


def spare(width: int, x: Tensor) -> int:
    """By how much a width is padded in a product with tokens x (..., D)."""
    if not (x.numel() >= TOKENS * x.shape[-1] if _Choice.forced is None else _Choice.forced):
        return 0
    multiples = CPU_MULTIPLES if x.device.type == "cpu" and _Choice.forced is None else MULTIPLES
    return padded_width(width, multiples) - width


def pad_weight(weight: Tensor, rows: int = 0, columns: int = 0) -> Tensor:
    """A weight (outputs, inputs) with zeros added, in the type that autocast multiplies in; itself if none are."""
    if not rows and not columns:
        return weight
    device = weight.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # the meta device has no autocast
        weight = weight.to(torch.get_autocast_dtype(device))
    return F.pad(weight, (0, columns, 0, rows))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of x (..., D) with a weight (outputs, D), padded where that pays."""
    outputs, inputs = weight.shape
    rows, columns = spare(outputs, x), spare(inputs, x)
    if not rows and not columns:
        return F.linear(x, weight, bias)
    bias = bias if bias is None else F.pad(bias, (0, rows))
    y = F.linear(F.pad(x, (0, columns)) if columns else x, pad_weight(weight, rows, columns), bias)
    return y[..., :outputs]


class Linear(nn.Linear):
    """`nn.Linear` whose product is padded where that pays; its weights are drawn from the same range."""

    def reset_parameters(self) -> None:
        """Evenly from -1 / sqrt(inputs) to 1 / sqrt(inputs), the bias as well."""
        if self.weight.numel() < PART:
            return super().reset_parameters()
        for parameter in self.parameters():
            uniform_(parameter, self.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias)
