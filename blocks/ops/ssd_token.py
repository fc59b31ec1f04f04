"""One token of Mamba-2 between its convolution and its last product, for decoding.

With x, B and C of a token, which have passed the convolution, and dt = softplus(raw + bias) within bounds:

    S = exp(dt A) S + dt x B^T        y = S C + D x        h = y silu(z) / rms(y silu(z))

The weights of the norm are left out. ssd_step.py has kernels of the same for a GPU.

Letters: b batch, H heads, P width of a head, G groups, N width of B and C, I = H P.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from hybridkit_blocks.ops.gated_norm import GatedNorm
from hybridkit_blocks.ops.precision import wide
from hybridkit_blocks.ops.ssd import decay, step_

# From mixed (b, H P + 2 G N), raw steps (b, H), z (b, I) and S (b, H, P, N), which is changed in place, to h (b, I).
SsdToken = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class SsdRates(NamedTuple):
    """What a token's step depends on beside the token."""

    A_log: Tensor  # (H,)
    dt_bias: Tensor  # (H,)
    D: Tensor  # (H,)
    lowest: float  # of dt
    highest: float | None


def ssd_in_torch(rates: SsdRates, norm: GatedNorm) -> SsdToken:
    """Everything is computed in the memory's type."""
    A_log, dt_bias, D, lowest, highest = rates
    decayed, gated, skip = decay(A_log, dt_bias, lowest, highest), norm.stepper(), D.to(wide(D.dtype))

    def run(mixed: Tensor, dt: Tensor, z: Tensor, S: Tensor) -> Tensor:
        return gated(step_(mixed, *decayed(dt), skip, S).flatten(-2), z)

    return run
