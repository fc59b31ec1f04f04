"""Gated feed-forward network: down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202). It has no state."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    """The block `ffn`."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, said["width"], bias=False)
        self.up = nn.Linear(config.hidden_size, said["width"], bias=False)
        self.down = nn.Linear(said["width"], config.hidden_size, bias=False)

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None, **given: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, D) to the same, and an empty state."""
        return self.down(F.silu(self.gate(x)) * self.up(x)), ()
