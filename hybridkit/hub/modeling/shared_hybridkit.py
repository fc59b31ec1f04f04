"""What several blocks share: padding, products in fp32, and the short causal convolution over time.

B batch, T tokens of this call, C channels, k taps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def hide(x: Tensor, seen: Tensor | None) -> Tensor:
    """x (B, T, ...) with zeros for padding. `seen` (B, tokens so far): which are no padding; None: all."""
    if seen is None:
        return x
    real = seen[:, -x.shape[1] :].bool()
    return x.masked_fill(~real.view(*real.shape, *(1 for _ in x.shape[2:])), 0)


def wide(linear: nn.Linear, x: Tensor) -> Tensor:
    """The layer's outputs in fp32, whatever the model's type: for rates, which add up over time."""
    return F.linear(x.float(), linear.weight.float(), None if linear.bias is None else linear.bias.float())


def falls(logs: Tensor) -> Tensor:
    """exp(logs_t - logs_s) for s <= t, and 0 for s > t: (..., L, G) to (..., L, L, G), t before s."""
    order = torch.ones(logs.shape[-2], logs.shape[-2], dtype=torch.bool, device=logs.device).tril()
    return (logs[..., :, None, :] - logs[..., None, :, :]).masked_fill(~order[..., None], -torch.inf).exp()


class Convolution(nn.Module):
    """y_t = bias + sum over j < k of w_j x_{t-j}, each channel apart; the token's own tap is the last of `weight`."""

    def __init__(self, channels: int, taps: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, taps))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor, before: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, C) and its last k - 1 inputs before it to y, in fp32, and the last k - 1 inputs after it."""
        channels, taps = self.weight.shape
        if before is None:
            before = x.new_zeros(len(x), taps - 1, channels)
        inputs = torch.cat([before, hide(x, seen)], 1)
        bias = None if self.bias is None else self.bias.float()
        y = F.conv1d(inputs.float().mT, self.weight.float()[:, None], bias, groups=channels).mT
        return y, inputs[:, x.shape[1] :].clone()
