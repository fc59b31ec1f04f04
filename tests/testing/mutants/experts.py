"""Mixtures of experts: right ones, of which each token passes some experts alone, and FLOPs that count others.

E experts, A of them active, D width, F width between.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from hybridkit.block import Block, Count, Dims, Layer
from mutants.base import mutant

EXPERTS, ACTIVE, INNER = 6, 2, 10


class Mixture(Block):
    """Softmax over the chosen experts' scores."""

    is_mixer: ClassVar[bool] = False

    def build(self, dims: Dims) -> Layer:
        return ExpertsLayer(dims.width)

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        return 2 * dims.width * tokens * (EXPERTS + 2 * ACTIVE * INNER)


class Dense(Mixture):
    """The same, where every expert runs, and what was not chosen counts for nothing."""

    def build(self, dims: Dims) -> Layer:
        return DenseLayer(dims.width)

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        active = EXPERTS if count == "hardware" else ACTIVE
        return 2 * dims.width * tokens * (EXPERTS + 2 * active * INNER)


class Modules(Mixture):
    """The same with one nn.Linear for each projection, and a shared expert."""

    def build(self, dims: Dims) -> Layer:
        return ModulesLayer(dims.width)

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        return 2 * dims.width * tokens * (EXPERTS + 2 * (ACTIVE + 1) * INNER)


class ExpertsLayer(Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, INNER, width) / width**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, width, INNER) / INNER**0.5)

    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        flat = x.flatten(0, 1)
        best = self.router(flat).topk(ACTIVE)
        gates = best.values.softmax(-1)
        y = torch.zeros_like(flat)
        for expert in range(EXPERTS):
            row, place = torch.where(best.indices == expert)
            made = self.expert(expert, flat[row]) * gates[row, place, None]
            y = y.index_add(0, row, made.to(y.dtype))
        return y.view_as(x), ()

    def expert(self, index, x):  # type: ignore[no-untyped-def]
        return F.silu(x @ self.up[index].T) @ self.down[index].T


class DenseLayer(ExpertsLayer):
    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        scores = self.router(x)
        best = scores.topk(ACTIVE)
        gates = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1))
        made = torch.stack([self.expert(index, x) for index in range(EXPERTS)], -1)
        return (made * gates[..., None, :]).sum(-1).to(x.dtype), ()


class ModulesLayer(ExpertsLayer):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        del self.up, self.down
        self.ups = nn.ModuleList(nn.Linear(width, INNER, bias=False) for _ in range(EXPERTS + 1))
        self.downs = nn.ModuleList(nn.Linear(INNER, width, bias=False) for _ in range(EXPERTS + 1))

    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        y, state = super().forward(x)
        return y + self.expert(EXPERTS, x).to(x.dtype), state

    def expert(self, index, x):  # type: ignore[no-untyped-def]
        return self.downs[index](F.relu(self.ups[index](x)) ** 2)


RIGHT = [Mixture(), Dense(), Modules()]


def counting(experts: int, router: int = EXPERTS):  # type: ignore[no-untyped-def]
    """FLOPs of so many experts."""
    return lambda self, dims, tokens, window=None, count="exact": (
        2 * dims.width * tokens * (router + 2 * experts * INNER)
    )


MUTANTS = [
    mutant("all experts count", Mixture(), flops=counting(EXPERTS)),
    mutant("all experts count, and all run", Dense(), flops=counting(EXPERTS)),
    mutant("all experts count", Modules(), flops=counting(EXPERTS + 1)),
    mutant("no expert counts", Mixture(), flops=counting(0)),
    mutant("the shared expert does not count", Modules(), flops=counting(ACTIVE)),
    mutant("the router does not count", Dense(), flops=counting(ACTIVE, 0)),
    mutant("one expert counts", Dense(), flops=counting(1)),
]
