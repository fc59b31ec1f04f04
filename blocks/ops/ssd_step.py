"""One token of Mamba-2 on a GPU, as two kernels: `ssd_in_torch` of ssd_token.py.

The kernels (cuda/ssd_step.py) run as kernel_gate.py says, and never in float64. They are one operator of
torch.library, which a CUDA graph takes as it is.

Letters: b batch, H heads, P width of a head, G groups, N width of B and C, I = H P.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hybridkit_blocks.ops.gated_norm import GatedNorm
from hybridkit_blocks.ops.kernel_gate import difference, step_kernels, step_may_run
from hybridkit_blocks.ops.ssd_sizes import SsdSizes
from hybridkit_blocks.ops.ssd_token import SsdRates, SsdToken, ssd_in_torch

_TOKENS, _ROWS = 4, 2  # that the kernels are compared on


def ssd_token(rates: SsdRates, norm: GatedNorm, sizes: SsdSizes, dtype: torch.dtype) -> SsdToken:
    """The function for a layer of this type, as kernels where those run. In torch h has the memory's type, else the
    layer's."""
    device = rates.A_log.device
    if not step_kernels(device.type) or not agrees(device, dtype, sizes.head, sizes.state):
        return ssd_in_torch(rates, norm)
    return _in_kernels(rates, norm, dtype)


def _in_kernels(rates: SsdRates, norm: GatedNorm, dtype: torch.dtype) -> SsdToken:
    in_torch, (A_log, dt_bias, D, lowest, highest) = ssd_in_torch(rates, norm), rates
    own = A_log.float().exp().neg(), dt_bias.float(), D.float()

    def run(mixed: Tensor, dt: Tensor, z: Tensor, S: Tensor) -> Tensor:
        if not S.is_contiguous():
            return in_torch(mixed, dt, z, S)
        return ssd_in_kernels_(mixed, dt, z, *own, S, lowest, highest, norm.groups, norm.least, dtype)

    return run


@torch.library.custom_op("hybridkit::ssd_step", mutates_args=("S",))
def ssd_in_kernels_(
    mixed: Tensor, dt: Tensor, z: Tensor, rate: Tensor, bias: Tensor, skip: Tensor, S: Tensor,
    lowest: float, highest: float | None, norm_groups: int, least: float | None, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    """`ssd_in_torch` as two kernels, for a contiguous memory in fp32. h is of `kind`."""
    from hybridkit_blocks.ops.cuda.ssd_step import launch_ssd_step_  # imports triton

    settings = lowest, highest, norm_groups, least, kind
    return launch_ssd_step_(mixed.contiguous(), dt, z, rate, bias, skip, S, *settings)


@ssd_in_kernels_.register_fake
def _(
    mixed: Tensor, dt: Tensor, z: Tensor, rate: Tensor, bias: Tensor, skip: Tensor, S: Tensor,
    lowest: float, highest: float | None, norm_groups: int, least: float | None, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    return mixed.new_empty(len(mixed), S.shape[1] * S.shape[2], dtype=kind)


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, head: int, state: int) -> bool:
    """Whether the kernels agree with the torch form on this device; if not, a warning says so. Checked once."""
    case = f"heads of {head} x {state}"
    return step_may_run("Mamba-2's step", device, dtype, case, lambda: _fault(device, dtype, head, state))


def _fault(device: torch.device, dtype: torch.dtype, head: int, state: int) -> str:
    """How outputs and memory differ after some tokens by more than rounding; empty if they do not."""
    with torch.no_grad():
        faults = [_fault_of(bounds, groups, device, dtype, head, state) for bounds, groups in _CASES]
    return next(filter(None, faults), "")


_CASES = ((0.0, None), 2), ((0.5, 1.5), 1), ((0.0, None), None)  # bounds of dt, groups of the norm


def _fault_of(
    bounds: tuple[float, float | None], groups: int | None, device: torch.device, dtype: torch.dtype, head: int,
    state: int,
) -> str:  # fmt: skip
    draw, heads = torch.Generator().manual_seed(0), 4

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device)

    rates, norm = (
        SsdRates(drawn(heads), drawn(heads), drawn(heads), *bounds),
        GatedNorm(heads * head, groups).to(device),
    )
    widths, S, results = [heads, heads * head], drawn(_ROWS, heads, head, state), list[list[Tensor]]()
    tokens = []
    for _ in range(_TOKENS):
        mixed = drawn(_ROWS, heads * head + 4 * state)  # two groups of heads
        tokens.append((mixed, *drawn(_ROWS, sum(widths)).to(dtype).split_with_sizes(widths, -1)))
    for token in _in_kernels(rates, norm, dtype), ssd_in_torch(rates, norm):
        memory = S.clone()
        results.append([torch.stack([token(*given, memory) for given in tokens]), memory])
    return difference(("y", "memory"), results[0], results[1], dtype)
