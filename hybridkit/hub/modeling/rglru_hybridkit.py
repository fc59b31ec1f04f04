"""RG-LRU, the recurrent block of Griffin (arXiv 2402.19427), a number a channel:

    u = conv(linear_x(x))              r, i = sigmoid(rgate(u)), sigmoid(igate(u))      block-diagonal maps
    log a = -8 r softplus(decay)       h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t
    out = linear_out(h * gelu(linear_y(x)))

At the first token of a text h is i u. B batch, T tokens, W channels, H heads of the gates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shared_hybridkit import Convolution, hide


class BlockLinear(nn.Module):
    """A linear map of each head's channels apart, with a bias."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, width // heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, u: Tensor) -> Tensor:
        """(B, T, W) to the same, in fp32."""
        u = u.float().unflatten(-1, (len(self.weight), -1))
        return torch.einsum("bthi,hij->bthj", u, self.weight.float()).flatten(2) + self.bias.float()


class RGLRU(nn.Module):
    """The block `rglru`. Its state is the convolution's last inputs, h (B, W) in fp32, and whether a token came."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        width, self.layer_idx = said["width"], index
        self.linear_x, self.linear_y = (nn.Linear(config.hidden_size, width) for _ in range(2))
        self.conv = Convolution(width, said.get("conv", 4), bias=True)
        self.igate, self.rgate = (BlockLinear(said["heads"], width) for _ in range(2))
        self.decay = nn.Parameter(torch.zeros(width))
        self.linear_out = nn.Linear(width, config.hidden_size)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, **given: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D) and the state after them. `seen`: which tokens are no padding; None: all."""
        before, h, begun = state or (None, None, x.new_zeros(len(x), 1, dtype=torch.float32))
        u, before = self.conv(self.linear_x(x), before, seen)
        u = u.to(x.dtype)
        real = hide(x.new_ones(x.shape[:2], dtype=torch.float32), seen)
        count = begun + real.cumsum(1)
        first = ((count == 1) & (real == 1) & (begun == 0))[..., None]
        log_a = -8 * torch.sigmoid(self.rgate(u)) * F.softplus(self.decay.float())
        root = torch.sqrt(-torch.expm1(2 * log_a)).masked_fill(first, 1)
        write = root * torch.sigmoid(self.igate(u)) * u.float() * real[..., None]
        a = (log_a * real[..., None]).exp().masked_fill(first, 0)  # padding neither writes nor forgets
        h = scan(a, write, h)
        y = self.linear_out(h.to(x.dtype) * F.gelu(self.linear_y(x), approximate="tanh"))
        return y, (before, h[:, -1].clone(), count[:, -1:].clamp(max=1))


def scan(a: Tensor, write: Tensor, before: Tensor | None) -> Tensor:
    """h_t = a_t h_{t-1} + write_t for all t at once: each pass joins spans that are twice as long. (B, T, W)."""
    if before is not None:
        write = torch.cat([write[:, :1] + a[:, :1] * before[:, None], write[:, 1:]], 1)
    span = 1
    while span < a.shape[1]:
        write = torch.cat([write[:, :span], write[:, span:] + a[:, span:] * write[:, :-span]], 1)
        a = torch.cat([a[:, :span], a[:, span:] * a[:, :-span]], 1)
        span *= 2
    return write
