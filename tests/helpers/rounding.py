"""What bf16 is held to: the same rounded weights in float64, and how much one more rounding of them all changes.

A layer that divides by what may be small has large errors in bf16 however it is written; so has it when its weights are
rounded once more, which says how much is allowed.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

HALF = 2.0**-9  # bf16 rounds a value by so much of it at most
ROUNDINGS = 16  # of projections, keys, scores, values, gates and outputs, in two layers, forward and back
PRECISIONS = ["bf16", "autocast"]

Run = Callable[[nn.Module], tuple[Tensor, list[nn.Parameter]]]  # logits, and the weights whose gradients are compared


def check(module: nn.Module, precision: str, run: Run) -> None:
    """Logits and gradients of `module` in bf16 or under autocast, beside those of float64."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.bfloat16())
    exact, moved = copy.deepcopy(module).double(), copy.deepcopy(module).double()
    with torch.no_grad():
        for weight in moved.parameters():
            weight.mul_(1 + HALF * torch.empty_like(weight).uniform_(-1, 1))
    right, allowed = results(exact, run), results(moved, run)
    low = copy.deepcopy(module).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext():
        found = results(low, run)
    for place, (a, b, other) in enumerate(zip(found, right, allowed, strict=True)):
        bound = ROUNDINGS * (HALF + distance(other, b))
        assert distance(a, b) <= bound, f"result {place}: {distance(a, b):.3g} of its length, more than {bound:.3g}"


def results(module: nn.Module, run: Run) -> list[Tensor]:
    """Logits, and the gradients of the weights for a slope that is the same every time."""
    logits, weights = run(module)
    slope = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return [logits.detach(), *torch.autograd.grad(logits, weights, slope.to(logits.dtype))]


def distance(a: Tensor, b: Tensor) -> float:
    """Relative to b's length."""
    return float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm())
