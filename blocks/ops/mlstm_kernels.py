"""Which implementation of the mLSTM cell runs where, and the check that a compiled one must pass first.

`own` is the chunkwise form of mlstm_chunkwise.py. It is the default: it alone is exact in float64 for documents and
carried states, and it is the fastest on a CPU (docs/decisions/11-mlstm-cells-compared.md).

`native` is mlstm_kernels' chunkwise form in plain torch, for comparison.

`triton` is mlstm_kernels' compiled form, the default on CUDA below float64, in chunks of 128: with larger ones its
gradients are wrong (mlstm_kernels#10). It runs only after its outputs and gradients have agreed with `own` on this
device, type and shape, since on some cards they are finite but wrong. Gradients do not flow through the memory that it
returns, so training over a carried memory uses `own`.

The library's forms know no documents. Before a document's first token their forget gate is closed to exp(-100), which
moves outputs by about eps = 1e-6: far below the rounding of fp32 products in TF32 or of bf16.

HYBRIDKIT_MLSTM=own|native|triton in the environment overrides the choose_kernel.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridkit.block import assumed_device
from hybridkit_blocks.ops.kernel_gate import difference, has_triton, may_run
from hybridkit_blocks.ops.mlstm_chunkwise import MlstmState, chunkwise_mlstm
from hybridkit_blocks.ops.precision import no_autocast, wide

CellFunction = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, MlstmState | None, Tensor | None], tuple[Tensor, MlstmState]
]

SHUT = 100.0  # pre-activation of a closed gate: in effect infinite, but sums with it stay precise


def mlstm_cell(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MlstmState | None = None,
    document_starts: Tensor | None = None,
) -> tuple[Tensor, MlstmState]:
    """h (B, H, T, V) and the memory after q, k (B, H, T, K), v (B, H, T, V), i, f (B, H, T), starts (B, T).

    While a layer is compiled it is an operator (mlstm_operators.py), which torch.compile does not look into.
    """
    carried, assumed = state is not None and torch.is_grad_enabled(), assumed_device(q)
    name = choose_kernel(assumed)[0] if assumed else _chosen(q.device, q.dtype, k.shape[-1], v.shape[-1], carried)
    cells = COMPILED_CELLS if torch.compiler.is_compiling() else CELLS
    return cells[name](q, k, v, i, f, state, document_starts)


def _chosen(device: torch.device, dtype: torch.dtype, key: int, value: int, carried: bool) -> str:
    """The kernel for heads of `key` x `value`. `carried`: gradients may flow into a memory that is passed in."""
    name = choose_kernel(device.type)[0]
    if name == "triton" and (carried or dtype == torch.float64 or not agrees(name, device, dtype, key, value)):
        return "own"
    return name


# While a layer is traced this runs once, outside of the trace. It is what torch.compiler.assume_constant_result sets,
# which would import the compiler: a second.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose_kernel(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why. Raises ValueError where HYBRIDKIT_MLSTM asks for what is not there."""
    forced = os.environ.get("HYBRIDKIT_MLSTM")
    if forced:
        if forced not in CELLS:
            raise ValueError(f"HYBRIDKIT_MLSTM={forced}: it may be {', '.join(CELLS)}")
        if forced == "triton" and not has_triton():
            raise ValueError("HYBRIDKIT_MLSTM=triton: triton is not installed; run: pip install 'hybridkit[triton]'")
        return forced, f"HYBRIDKIT_MLSTM={forced} asks for it"
    if torch.device(device).type != "cuda":
        return "own", "the fastest chunkwise form on a CPU, exact for documents and carried states"
    if not has_triton():
        return "own", "triton is not installed, without which mlstm_kernels has no compiled form"
    return "triton", "mlstm_kernels' chunks of 128, once they agree with the own form on this device, type and shape"


@functools.cache
def agrees(name: str, device: torch.device, dtype: torch.dtype, key: int, value: int) -> bool:
    """Whether kernel `name` agrees with `own` on this device for heads of `key` x `value`; if not, a warning says so.

    Checked once a process. A check that passed is recorded on disk, with the versions of all that it depends on.
    """
    case, packages = f"{dtype}, check 2, heads of {key} x {value}", ("triton", "mlstm_kernels")
    return may_run("the mLSTM", name, packages, device, case, lambda: _fault(name, device, dtype, key, value))


class KernelCase(NamedTuple):
    """What a kernel is checked on: tokens, the bias of each head's forget gate, and the roundings it may be off by."""

    tokens: int
    forget: tuple[float, float]
    roundings: int


# A short sequence, and one of nine chunks with a head that forgets in thousands of tokens, whose longer sums round
# more often. A wrong gradient is off by about its own size.
TRIALS = (KernelCase(300, (3.0, 3.0), 8), KernelCase(1100, (3.0, 8.0), 32))


def _fault(name: str, device: torch.device, dtype: torch.dtype, key: int, value: int) -> str:
    """How a kernel's outputs and gradients differ from the own form's by more than rounding; empty if they do not."""
    faults = (_fault_of(trial, name, device, dtype, key, value) for trial in TRIALS)
    return next(filter(None, faults), "")


def _fault_of(trial: KernelCase, name: str, device: torch.device, dtype: torch.dtype, key: int, value: int) -> str:
    """Compared head by head, behind a norm of each as in the block: the library's gradients are right only there.

    A rounding is that of the type, of TF32 (2^-10) at least.
    """
    draw, tokens = torch.Generator().manual_seed(0), trial.tokens
    shapes = [(1, 2, tokens, width) for width in (key, key, value)] + [(1, 2, tokens)] * 2
    inputs = [torch.randn(shape, generator=draw).to(device) for shape in shapes]
    forget = torch.tensor(trial.forget, device=device)[:, None]
    inputs = [t.to(dtype) for t in inputs[:3]] + [inputs[3] - 1, inputs[4] + forget]
    slope = torch.randn(shapes[2], generator=draw).to(device)
    document_starts = torch.zeros(1, tokens, dtype=torch.bool, device=device)
    document_starts[:, tokens * 17 // 30] = True
    got = _outputs_and_gradients(CELLS[name], inputs, slope, document_starts)
    right = _outputs_and_gradients(chunkwise_mlstm, [t.float() for t in inputs], slope, document_starts)
    found = (
        difference(("h", "dq", "dk", "dv", "di", "df"), *parts, dtype, trial.roundings)
        for parts in (([t[:, head] for t in got], [t[:, head] for t in right]) for head in range(2))
    )
    return next(filter(None, found), "")


def _outputs_and_gradients(
    run: CellFunction, inputs: list[Tensor], slope: Tensor, document_starts: Tensor
) -> list[Tensor]:
    q, k, v, i, f = leaves = [t.clone().requires_grad_() for t in inputs]
    h = F.layer_norm(run(q, k, v, i, f, None, document_starts)[0].float(), slope.shape[-1:])
    return [h.detach(), *torch.autograd.grad(h, leaves, slope)]


def _native(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MlstmState | None, document_starts: Tensor | None
) -> tuple[Tensor, MlstmState]:
    """The library's plain torch form, which needs one type for all inputs."""
    from mlstm_kernels.torch import get_mlstm_kernel

    kind, heads, tokens, chunk = wide(q.dtype), q.shape[:2], q.shape[2], 64
    inputs = _whole_chunks(q.to(kind), k.to(kind), v.to(kind), i, f, document_starts, chunk)
    with no_autocast(q):
        h, (C, n, m) = get_mlstm_kernel("chunkwise--native_autograd")(
            *inputs, *(state or (None, None, None)), return_last_states=True, chunk_size=chunk
        )
    return h[:, :, :tokens].to(q.dtype), MlstmState(C, n, m.reshape(*heads, 1))


def _triton(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MlstmState | None, document_starts: Tensor | None
) -> tuple[Tensor, MlstmState]:
    """The library's compiled form, in chunks of 128.

    It is compiled anew for every number of chunks. Reading has many, so there they are padded to a power of two.
    """
    chunk, tokens = 128, q.shape[2]
    whole = chunk if torch.is_grad_enabled() else chunk << (-(-tokens // chunk) - 1).bit_length()
    q, k, v, i, f = _whole_chunks(q, k, v, i, f, document_starts, whole)
    from hybridkit_blocks.ops import mlstm_operators

    h, after = mlstm_operators.triton(q, k, v, i, f, state, chunk)
    return h[:, :, :tokens], after


def _whole_chunks(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, document_starts: Tensor | None, chunk: int
) -> list[Tensor]:
    """The inputs as the library's forms take them: documents in the forget gate, a last chunk that is full."""
    if document_starts is not None:
        f = f.masked_fill(document_starts[:, None], -SHUT)
    if spare := -q.shape[2] % chunk:  # padding of the last chunk: it writes and forgets nothing
        q, k, v = (F.pad(t, (0, 0, 0, spare)) for t in (q, k, v))
        i, f = F.pad(i, (0, spare), value=-SHUT), F.pad(f, (0, spare), value=SHUT)
    return [t.contiguous() for t in (q, k, v, i, f)]


def _operator(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MlstmState | None, document_starts: Tensor | None
) -> tuple[Tensor, MlstmState]:
    """The own form as an operator."""
    from hybridkit_blocks.ops.mlstm_operators import own  # takes time to register

    return own(q, k, v, i, f, state, document_starts)


CELLS: dict[str, CellFunction] = {"own": chunkwise_mlstm, "native": _native, "triton": _triton}
COMPILED_CELLS: dict[str, CellFunction] = {**CELLS, "own": _operator}
