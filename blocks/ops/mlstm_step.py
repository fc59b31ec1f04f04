"""One token of the mLSTM between its projections, for decoding: in torch anywhere, on a GPU as one kernel.

For a token's normed input x and its products q, k, v, o, with the gates' weights W and bias b, a head's norm LN with
weight w, and the cell of mlstm_chunkwise.py, which moves C, n and m on:

    i, f = 15 tanh((W x + b) / 15)        h = cell(q, k, v, i, f)        y = sigmoid(o) * w LN(h)

The kernel (cuda/mlstm_step.py) runs as kernel_gate.py says, and never in float64. It is an operator of torch.library,
which a CUDA graph and torch.compile take as it is.

Letters: B batch, D width, H heads, K and V width of a key and a value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridkit_blocks.ops.kernel_gate import difference, step_kernels, step_may_run
from hybridkit_blocks.ops.mlstm_chunkwise import MlstmState, recurrent_mlstm_
from hybridkit_blocks.ops.mlstm_gates import NORM_EPS, capped_gate
from hybridkit_blocks.ops.precision import no_autocast

_TOKENS, _ROWS, _HEADS, _WIDTH = 4, 2, 2, 96  # that the kernel is compared on


def mlstm_in_torch_(
    x: Tensor,  # (B, D)
    mixed: Tensor,  # (B, 2 H K + 2 H V): q, k, v, o
    gates: Tensor,  # (2 H, D): W, rows of i first
    bias: Tensor,  # (2 H,)
    scale: Tensor,  # (H V,): w
    C: Tensor,  # (B, H, K, V)
    n: Tensor,  # (B, H, K)
    m: Tensor,  # (B, H, 1)
) -> Tensor:
    """y (B, H V) in the products' type; C, n and m are changed in place. Everything is computed in their type."""
    (batch, heads, key, value), kind = C.shape, C.dtype
    q, k, v, o = mixed.to(kind).split([heads * key, heads * key, heads * value, heads * value], -1)
    with no_autocast(x):
        raw = capped_gate(F.linear(x.to(kind), gates.to(kind), bias.to(kind)))
    parts = F.pad(raw, (0, heads)).view(batch, 3, heads, 1, 1)
    q, k, v = (q * key**-0.5).view(batch, heads, 1, key), k.view(batch, heads, key, 1), v.view(batch, heads, 1, value)
    h = recurrent_mlstm_(q, k, v, parts, MlstmState(C, n, m))
    normed = F.layer_norm(h, (value,), eps=NORM_EPS).view(batch, -1) * scale.to(kind)
    return (torch.sigmoid(o) * normed).to(mixed.dtype)


@torch.library.custom_op("hybridkit::mlstm_step", mutates_args=("C", "n", "m"))
def mlstm_in_a_kernel_(
    x: Tensor, mixed: Tensor, gates: Tensor, bias: Tensor, scale: Tensor, C: Tensor, n: Tensor, m: Tensor
) -> Tensor:
    """`mlstm_in_torch_` as one kernel, for contiguous tensors and a memory in fp32."""
    from hybridkit_blocks.ops.cuda.mlstm_step import launch_mlstm_step_  # imports triton

    return launch_mlstm_step_(x.contiguous(), mixed.contiguous(), gates, bias, scale, C, n, m)


@mlstm_in_a_kernel_.register_fake
def _(x: Tensor, mixed: Tensor, gates: Tensor, bias: Tensor, scale: Tensor, C: Tensor, n: Tensor, m: Tensor) -> Tensor:
    return mixed.new_empty(len(mixed), len(scale))


def mlstm_token_(x: Tensor, mixed: Tensor, gates: Tensor, bias: Tensor, scale: Tensor, memory: MlstmState) -> Tensor:
    """`mlstm_in_torch_`, as one kernel where that runs."""
    (key, value), device = memory.C.shape[2:], memory.C.device
    chosen = step_kernels(device.type) and all(t.is_contiguous() for t in memory)
    run = mlstm_in_a_kernel_ if chosen and agrees(device, mixed.dtype, key, value) else mlstm_in_torch_
    return run(x, mixed, gates, bias, scale, *memory)


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, key: int, value: int) -> bool:
    """Whether the kernel agrees with the torch form on this device; if not, a warning says so. Checked once."""
    case = f"heads of {key} x {value}"
    return step_may_run("the mLSTM's step", device, dtype, case, lambda: _fault(device, dtype, key, value))


def _fault(device: torch.device, dtype: torch.dtype, key: int, value: int) -> str:
    """How outputs and memory differ after some tokens by more than rounding; empty if they do not."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    with torch.no_grad():
        weights = drawn(2 * _HEADS, _WIDTH) / _WIDTH**0.5, drawn(2 * _HEADS), drawn(_HEADS * value)
        memory = drawn(_ROWS, _HEADS, key, value), drawn(_ROWS, _HEADS, key), drawn(_ROWS, _HEADS, 1)
        tokens = [(drawn(_ROWS, _WIDTH), drawn(_ROWS, 2 * _HEADS * (key + value))) for _ in range(_TOKENS)]
        inputs = [[t.to(device, dtype) for t in (*pair, *weights)] for pair in tokens]
        found, right = (_run(run, inputs, [t.to(device, copy=True) for t in memory]) for run in _STEPS)
    return difference(("y", "C", "n", "m"), found, right, dtype)


def _run(step: Callable[..., Tensor], inputs: list[list[Tensor]], memory: list[Tensor]) -> list[Tensor]:
    """The outputs of all tokens, and the memory after them."""
    return [torch.stack([step(*token, *memory) for token in inputs]), *memory]


_STEPS: tuple[Callable[..., Tensor], ...] = (mlstm_in_a_kernel_, mlstm_in_torch_)
