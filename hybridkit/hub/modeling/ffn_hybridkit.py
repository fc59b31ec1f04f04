"""Feed-forward network: down(act(gate(x)) * up(x)) (arXiv 2002.05202), or without a gate down(act(up(x))). No state.

`clip` is gpt-oss's unit (arXiv 2508.10925): g sigmoid(1.702 g) (u + 1) with g = min(gate(x), clip) and u = up(x) cut to
-clip .. clip. `gate_scale` is a factor on gate(x).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu2": lambda x: F.relu(x).square(),
}


def hidden(made: Tensor, said: dict[str, Any]) -> Tensor:
    """From what the projections of the input give, gate first, (..., 2 F) or without a gate (..., F), to (..., F)."""
    act, clip = ACTIVATIONS[said.get("act", "silu")], said.get("clip")
    if not said.get("gated", True):
        return act(made)
    gate, up = made.chunk(2, -1)
    if clip is None:
        return act(gate * said.get("gate_scale", 1.0)) * up
    gate, up = gate.clamp(max=clip), up.clamp(-clip, clip)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


class FeedForward(nn.Module):
    """The block `ffn`."""

    mixes = False

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        width, inner, bias, self.said = config.hidden_size, said["width"], bool(said.get("bias")), said
        self.gate = nn.Linear(width, inner, bias=bias) if said.get("gated", True) else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None, **given: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, D) to the same, and an empty state."""
        parts = [self.up(x)] if self.gate is None else [self.gate(x), self.up(x)]
        return self.down(hidden(torch.cat(parts, -1), self.said)), ()
