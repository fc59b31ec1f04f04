"""Feed-forward network: down(act(gate(x)) * up(x)) (arXiv 2002.05202), or without a gate down(act(up(x))). No state.

`clip` is gpt-oss's unit (arXiv 2508.10925): g sigmoid(1.702 g) (u + 1) with g = min(gate(x), clip) and u = up(x) cut to
-clip .. clip.
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


class FeedForward(nn.Module):
    """The block `ffn`."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, said["width"], bool(said.get("bias"))
        self.act, self.clip = ACTIVATIONS[said.get("act", "silu")], said.get("clip")
        self.gate = nn.Linear(width, inner, bias=bias) if said.get("gated", True) else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None, **given: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, D) to the same, and an empty state."""
        up = self.up(x)
        if self.gate is None:
            return self.down(self.act(up)), ()
        gate = self.gate(x)
        if self.clip is None:
            return self.down(self.act(gate) * up), ()
        gate, up = gate.clamp(max=self.clip), up.clamp(-self.clip, self.clip)
        return self.down(gate * torch.sigmoid(1.702 * gate) * (up + 1)), ()
