"""One token of a causal depthwise convolution, on a GPU as one kernel; in torch it is `convolved_in_torch`.

The kernel (cuda/convolution_step.py) runs as kernel_gate.py says, and never in float64. It is an operator of
torch.library, which a CUDA graph takes as it is.

Letters: B batch, C channels, k taps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from hybridkit_blocks.ops.activation import IDENTITY, SILU, Activation
from hybridkit_blocks.ops.convolution_token import Convolved, convolved_in_torch
from hybridkit_blocks.ops.kernel_gate import difference, step_kernels, step_may_run

_TOKENS, _ROWS, _CHANNELS = 5, 2, 300  # that the kernel is compared on
_CASES = (4, True, SILU), (1, False, IDENTITY), (3, False, SILU)  # taps, with a bias, function


@torch.library.custom_op("hybridkit::convolution_step", mutates_args=("state",))
def convolution_in_a_kernel_(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> Tensor:
    """`convolved_in_torch` as one kernel, in fp32, for a contiguous state."""
    from hybridkit_blocks.ops.cuda.convolution_step import launch_convolution_step_  # imports triton

    return launch_convolution_step_(x if x.stride(1) == 1 else x.contiguous(), weight, bias, state, silu)


@convolution_in_a_kernel_.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> Tensor:
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def convolved(weight: Tensor, bias: Tensor | None, activation: Activation, dtype: torch.dtype) -> Convolved:
    """`convolved_in_torch`, as one kernel where that runs for a model of this type."""
    device = weight.device
    if not step_kernels(device.type) or not agrees(device, dtype):
        return convolved_in_torch(weight, bias, activation)
    return _in_a_kernel(weight, bias, activation)


def _in_a_kernel(weight: Tensor, bias: Tensor | None, activation: Activation) -> Convolved:
    silu = activation is SILU
    apply: Callable[[Tensor], Tensor] = IDENTITY.apply if silu else activation.apply

    def run(x: Tensor, state: Tensor) -> Tensor:
        return apply(convolution_in_a_kernel_(x, weight, bias, state, silu))

    return run


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel agrees with the torch form on this device; if not, a warning says so. Checked once."""
    return step_may_run("a step of a convolution", device, dtype, "", lambda: _fault(device, dtype))


def _fault(device: torch.device, dtype: torch.dtype) -> str:
    """How outputs and states differ after some tokens by more than rounding; empty if they do not."""
    with torch.no_grad():
        faults = [_fault_of(*case, device, dtype) for case in _CASES]
    return next(filter(None, faults), "")


def _fault_of(taps: int, biased: bool, activation: Activation, device: torch.device, dtype: torch.dtype) -> str:
    draw, results = torch.Generator().manual_seed(0), list[list[Tensor]]()
    weight, bias = torch.randn(taps, _CHANNELS, generator=draw), torch.randn(_CHANNELS, generator=draw)
    given = weight.to(device), bias.to(device) if biased else None, activation
    tokens = torch.randn(_TOKENS, _ROWS, 2 * _CHANNELS, generator=draw).to(device, dtype)[..., _CHANNELS:]
    before = torch.randn(_ROWS, taps - 1, _CHANNELS, generator=draw).to(device, dtype)
    for form in _in_a_kernel, convolved_in_torch:
        step, state = form(*given), before.clone()
        y = torch.stack([step(token, state) for token in tokens])
        results.append([y, state] if taps > 1 else [y])
    return difference(("y", "state")[: len(results[0])], results[0], results[1], dtype)
