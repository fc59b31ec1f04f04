"""Activation functions: those with gradients of their own, and what stands between the products of an FFN.

With g the gate and u what it gates: f(g) u, or without a gate f(u), where f is SiLU (arXiv 2002.05202), GELU, its form
by tanh (Gemma), or relu(x)^2 (arXiv 2109.08668, Nemotron-H). `gate_scale=.9` is a factor on g (Falcon-H1). `clip=7` is
gpt-oss's unit (arXiv 2508.10925):

    g' sigmoid(1.702 g') (u' + 1)   with g' = min(g, clip) and u' = u cut to -clip .. clip
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hybridkit.block import Block

Act = Literal["silu", "gelu", "gelu_tanh", "relu2"]

SLOPE = 1.702  # of the clipped unit's sigmoid


class Activation(NamedTuple):
    """A function of z: `apply(z)` is y, and `gradient(dy, z)` the gradient of z where dy is that of y."""

    name: str
    apply: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]


IDENTITY = Activation("identity", lambda z: z, lambda dy, z: dy)
SILU = Activation("silu", F.silu, torch.ops.aten.silu_backward.default)
SIGMOID = Activation("sigmoid", torch.sigmoid, lambda dy, z: torch.ops.aten.sigmoid_backward(dy, torch.sigmoid(z)))


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


_FUNCTIONS: dict[Act, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu2": _relu2,
}


class ActivationOptions(Block):
    """How a feed-forward network bends its hidden vector, and whether its projections have biases."""

    act: Act = "silu"
    gated: bool = True
    clip: float | None = Field(None, gt=0)
    bias: bool = False
    gate_scale: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _clips_a_gate(self) -> Self:
        if self.gate_scale != 1 and (self.clip is not None or not self.gated):
            raise ValueError("gate_scale belongs to a gate without clip: leave gated and clip out")
        if self.clip is not None and (self.act != "silu" or not self.gated):
            raise ValueError("clip is a form of the gated SiLU: leave act and gated out")
        return self

    @property
    def projections(self) -> int:
        """Matrix products: two that make F channels of the input where there is a gate, else one; and one back."""
        return 3 if self.gated else 2

    def hidden(self, made: Tensor) -> Tensor:
        """From the projections of the input (..., 2 F), gate first, or (..., F) without a gate, to (..., F)."""
        act = _FUNCTIONS[self.act]
        if not self.gated:
            return act(made)
        gate, up = made.chunk(2, -1)
        if self.gate_scale != 1:
            gate = gate * self.gate_scale
        if self.clip is None:
            return act(gate) * up
        gate, up = gate.clamp(max=self.clip), up.clamp(-self.clip, self.clip)
        return gate * torch.sigmoid(SLOPE * gate) * (up + 1)
