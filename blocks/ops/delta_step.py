"""One token of the delta rule on a GPU, as two kernels: `delta_in_torch` of delta_token.py.

The kernels (cuda/delta_step.py) run as kernel_gate.py says, and never in float64. They are one operator of
torch.library, which a CUDA graph takes as it is.

Letters: B batch, H value heads, J key heads, K and V width of a key and a value, G = 1 or K decays a head.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hybridkit_blocks.ops.activation import SIGMOID, SILU
from hybridkit_blocks.ops.delta_rule import EPS
from hybridkit_blocks.ops.delta_token import DeltaRates, DeltaRule, DeltaToken, delta_in_torch
from hybridkit_blocks.ops.kernel_gate import difference, step_kernels, step_may_run

_TOKENS, _ROWS = 4, 2  # that the kernels are compared on


def delta_token(rule: DeltaRule, decays: DeltaRates, key: int, value: int, dtype: torch.dtype) -> DeltaToken:
    """The function for a layer of this type, as kernels where those run. In torch y has the memory's type, else the
    layer's."""
    device, heads = decays.rate.device, len(decays.rate)
    per_head = len(decays.bias) // heads
    if not step_kernels(device.type) or not agrees(device, dtype, key, value, per_head):
        return delta_in_torch(rule, decays, key, value)
    return _in_kernels(rule, decays, key, value, dtype)


def _in_kernels(rule: DeltaRule, decays: DeltaRates, key: int, value: int, dtype: torch.dtype) -> DeltaToken:
    in_torch, silu = delta_in_torch(rule, decays, key, value), rule.activation is SILU
    (rate, bias, lowest), least = decays, key * value * rule.eps

    def run(mixed: Tensor, b: Tensor, f: Tensor, gate: Tensor | None, S: Tensor) -> Tensor:
        if not S.is_contiguous():
            return in_torch(mixed, b, f, gate, S)
        settings = rule.key_heads, rule.top, lowest, EPS, least, silu, dtype
        return delta_in_kernels_(mixed, b, f, gate, rate, bias, S, *settings)

    return run


@torch.library.custom_op("hybridkit::delta_step", mutates_args=("S",))
def delta_in_kernels_(
    mixed: Tensor, b: Tensor, f: Tensor, gate: Tensor | None, rate: Tensor, bias: Tensor, S: Tensor,
    key_heads: int, top: float, lowest: float | None, key_eps: float, least: float, silu: bool, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    """`delta_in_torch` as two kernels, for a contiguous memory in fp32. y is of `kind`."""
    from hybridkit_blocks.ops.cuda.delta_step import launch_delta_step_  # imports triton

    settings = key_heads, top, lowest, key_eps, least, silu, kind
    return launch_delta_step_(mixed.contiguous(), b, f, gate, rate, bias, S, *settings)


@delta_in_kernels_.register_fake
def _(
    mixed: Tensor, b: Tensor, f: Tensor, gate: Tensor | None, rate: Tensor, bias: Tensor, S: Tensor,
    key_heads: int, top: float, lowest: float | None, key_eps: float, least: float, silu: bool, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    return mixed.new_empty(len(mixed), S.shape[1] * S.shape[3], dtype=kind)


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, key: int, value: int, decays: int) -> bool:
    """Whether the kernels agree with the torch form on this device; if not, a warning says so. Checked once."""
    case, what = f"heads of {key} x {value} with {decays} decays", "a step of the delta rule"
    return step_may_run(what, device, dtype, case, lambda: _fault(device, dtype, key, value, decays))


def _fault(device: torch.device, dtype: torch.dtype, key: int, value: int, decays: int) -> str:
    """How outputs and memory differ after some tokens by more than rounding; empty if they do not."""
    with torch.no_grad():
        faults = [_fault_of(rule, lowest, device, dtype, key, value, decays) for rule, lowest in _CASES]
    return next(filter(None, faults), "")


_CASES = (
    (DeltaRule(2, 1.0, 1e-5, SILU), None),
    (DeltaRule(1, 2.0, 1e-6, SIGMOID), -5.0),
    (DeltaRule(2, 1.0, 1e-5, None), None),
)


def _fault_of(
    rule: DeltaRule, lowest: float | None, device: torch.device, dtype: torch.dtype, key: int, value: int, decays: int
) -> str:
    draw, heads = torch.Generator().manual_seed(0), 2

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    rate = drawn(heads, 1).exp() * (-1 if lowest is None else 1)
    own = DeltaRates(rate.to(device), drawn(heads * decays).to(device), lowest)
    widths = heads, heads * decays, heads * value
    tokens = []
    for _ in range(_TOKENS):
        mixed = drawn(_ROWS, 2 * rule.key_heads * key + heads * value).to(device)
        b, f, gate = drawn(_ROWS, sum(widths)).to(device, dtype).split_with_sizes(widths, -1)
        tokens.append((mixed, b.float(), f, None if rule.activation is None else gate))
    S, results = drawn(_ROWS, heads, key, value), list[list[Tensor]]()
    for token in _in_kernels(rule, own, key, value, dtype), delta_in_torch(rule, own, key, value):
        memory = S.to(device, copy=True)
        results.append([torch.stack([token(*given, memory) for given in tokens]), memory])
    return difference(("y", "memory"), results[0], results[1], dtype)
