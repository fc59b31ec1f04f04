"""Where the decay of state-space and delta-rule mixers begins: log rates A_log, and biases of steps dt.

The decay of a token is exp(-exp(A_log) softplus(. + dt_bias)). The values are drawn on the CPU, whatever the default
device, so that a layer on the meta device needs no operation on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLOW = math.log(0.1)  # A_log for which a step of softplus(0) decays by 2^-.1: half in ten tokens


def log_uniform_steps(number: int) -> Tensor:
    """dt_bias for which the step softplus(dt_bias) is drawn between 0.001 and 0.1, evenly in its logarithm."""
    low, high = math.log(1e-3), math.log(1e-1)
    dt = torch.rand(number, device="cpu").mul_(high - low).add_(low).exp_().clamp_(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


def log_rates(number: int, low: float, high: float) -> Tensor:
    """A_log for rates drawn evenly from above `low` up to `high`."""
    return torch.log(high - (high - low) * torch.rand(number, device="cpu"))
