"""A gated short convolution, as in LFM2: y = out(c * conv(b * x)) with b, c, x = input(u).

B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .shared_hybridkit import Convolution


class ShortConvolution(nn.Module):
    """The block `conv`. Its state is the convolution's last inputs b * x."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        width, bias, self.layer_idx = config.hidden_size, said.get("bias", False), index
        self.input = nn.Linear(width, 3 * width, bias=bias)
        self.conv = Convolution(width, said.get("kernel_size", 3), bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, **given: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D) and the state after them. `seen`: which tokens are no padding; None: all."""
        b, c, u = self.input(x).float().chunk(3, -1)
        y, after = self.conv(b * u, None if state is None else state[0], seen)
        return self.out((c * y).to(x.dtype)), (after.to(x.dtype),)
