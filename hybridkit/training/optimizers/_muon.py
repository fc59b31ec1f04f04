"""The torch optimizer behind `optimizer: muon` (equations and sources: hybridkit.training.optimizers.muon)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

STEPS = 5  # of Newton and Schulz
A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic a x + b x^3 + c x^5, by Jordan et al.
SCALE = 0.2  # of an update's root mean square
SMALLEST = 1e-7  # norm that a gradient is divided by
MOMENTUM = "momentum_buffer"


class MuonAdamW(Optimizer):
    """Muon on the groups that are `hidden`, torch's fused AdamW on the others; one state for both."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], momentum: float) -> None:
        super().__init__([group | _moments(group) for group in groups], {"lr": lr, "momentum": momentum})
        others = [group for group in self.param_groups if not group["hidden"]]
        self._adamw = AdamW(others, lr=lr, betas=betas, fused=True) if others else None
        if self._adamw:
            self._adamw.state = self.state
            self._adamw.param_groups[:] = others  # the same objects: a new learning rate reaches both
            for group in others:
                for key, value in self._adamw.defaults.items():
                    group.setdefault(key, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        assert closure is None, "the gradient is computed beforehand"
        if self._adamw:
            self._adamw.step()
        for group in (group for group in self.param_groups if group["hidden"]):
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        kept = self.state[weight]
        if MOMENTUM not in kept:
            kept[MOMENTUM] = torch.zeros_like(weight)
        total = kept[MOMENTUM].mul_(group["momentum"]).add_(weight.grad)
        change = orthogonalize(weight.grad + group["momentum"] * total)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(change, alpha=-group["lr"] * SCALE * max(weight.shape) ** 0.5)


def _moments(group: dict[str, Any]) -> dict[str, Any]:
    return {"moments": (MOMENTUM,)} if group["hidden"] else {}


def orthogonalize(matrix: Tensor) -> Tensor:
    """(n, m) with the same singular vectors, and singular values between about .7 and 1.2.

    In bf16 on a GPU, as the method was published; elsewhere in the matrix's own type.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + SMALLEST)
    for _ in range(STEPS):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
