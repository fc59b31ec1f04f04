"""What bf16 is held to: the same rounded weights in float64."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

HALF = 2.0**-9  # bf16 rounds a value by so much of it at most
PRECISIONS = ["fp32", "bf16", "autocast"]


def rounded_(module: nn.Module) -> None:
    """Weights that bf16 holds exactly."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.bfloat16())


def in_precision(module: nn.Module, precision: str, run: Callable[[], Tensor]) -> list[Tensor]:
    """The logits that `run` makes, and all weights' gradients for a fixed slope, in fp32, bf16 or under autocast."""
    module.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext():
        logits = run()
    return [logits.detach(), *gradients(logits, module)]


def gradients(logits: Tensor, module: nn.Module) -> list[Tensor]:
    """Those of all weights, for a slope that is the same every time."""
    slope = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return list(torch.autograd.grad(logits, list(module.parameters()), slope.to(logits.dtype)))


def error(a: Tensor, b: Tensor) -> float:
    """How far a is from b, in roundings of b's length."""
    return float((a.double() - b.double()).norm() / b.double().norm() / HALF)
