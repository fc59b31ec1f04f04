"""Which implementation of the SSD scan runs: the table that `hybridkit doctor` prints.

`own` is ssd.py, for any length, carried states and packed documents. It is exact in float64.

`fla` is flash-linear-attention's compiled chunks of 64 of the same recurrence, there called simple GLA: queries C, keys
B, values dt x, with D x added here. It is the default on CUDA below float64 where it is installed. It runs only after
outputs, state and gradients have agreed with `own` on this device, type and shape (kernel_gate.py). It knows documents
as sequences of different lengths in one row; each begins from its own state.

HYBRIDKIT_SSD=own|fla in the environment overrides the choice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from hybridkit_blocks.ops.fla_kernels import by_documents, choose_fla
from hybridkit_blocks.ops.kernel_gate import difference, may_run
from hybridkit_blocks.ops.precision import no_autocast
from hybridkit_blocks.ops.ssd import groups_of, ssd

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def scan(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, state: Tensor, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y (B, T, H, P) and S after it, from what `ssd` takes."""
    heads, width, keys = state.shape[1:]
    name = _chosen(mixed.device, mixed.dtype, heads // groups_of(mixed, state), width, keys)
    return SCANS[name](mixed, dt, log_a, skip, state, document_starts)


def _chosen(device: torch.device, dtype: torch.dtype, heads: int, width: int, keys: int) -> str:
    """The implementation for groups of so many heads of `width`, and states of `keys` columns."""
    name = choose_kernel(device.type)[0]
    if name == "fla" and (dtype == torch.float64 or not agrees(name, device, dtype, heads, width, keys)):
        return "own"
    return name


# While a layer is traced this runs once, outside of the trace. It is what torch.compiler.assume_constant_result sets,
# which would import the compiler: a second.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose_kernel(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why. Raises ValueError where HYBRIDKIT_SSD asks for what is not there."""
    return choose_fla(device, "HYBRIDKIT_SSD")


@functools.cache
def agrees(name: str, device: torch.device, dtype: torch.dtype, heads: int, width: int, keys: int) -> bool:
    """Whether kernel `name` agrees with `own` on this device; if not, a warning says so. Checked once a process."""
    case, sizes = f"{dtype}, groups of {heads} heads of {width} x {keys}", (heads, width, keys)
    packages = "triton", "fla-core"
    return may_run("mamba2's scan", name, packages, device, case, lambda: _fault(name, device, dtype, *sizes))


def _fault(name: str, device: torch.device, dtype: torch.dtype, heads: int, width: int, keys: int) -> str:
    """How a kernel's results differ from the own form's by more than rounding; empty if they do not."""
    draw, groups = torch.Generator().manual_seed(0), 2
    number = groups * heads
    shapes = (2, 300, number * width + 2 * groups * keys), (2, 300, number), (number,), (2, number, width, keys)
    mixed, dt, skip, state = (torch.randn(shape, generator=draw).to(device) for shape in shapes)
    dt, log_a = torch.sigmoid(dt), -torch.sigmoid(dt.roll(1, 1))
    inputs = [mixed.to(dtype), dt, log_a, skip, state]
    slope = torch.randn(2, 300, number, width, generator=draw).to(device)
    document_starts = torch.zeros(2, 300, dtype=torch.bool, device=device)
    document_starts[0, 170] = document_starts[1, 0] = document_starts[1, 63] = True
    got = _results(SCANS[name], inputs, slope, document_starts)
    right = _results(ssd, [t.float() for t in inputs], slope, document_starts)
    names = "y", "state", "gradient of x, B and C", "ddt", "dlog_a", "dD", "dstate"
    return difference(names, got, right, dtype)


def _results(run: Scan, inputs: list[Tensor], slope: Tensor, document_starts: Tensor) -> list[Tensor]:
    """Outputs, the state after them, and the gradients of <y, slope> + |state|^2 / 2."""
    mixed, dt, log_a, skip, before = leaves = [t.clone().requires_grad_() for t in inputs]
    y, state = run(mixed, dt, log_a, skip, before, document_starts)
    grads = torch.autograd.grad((y.float() * slope).sum() + state.square().sum() / 2, leaves)
    return [y.detach(), state.detach(), *grads]


def _fla(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, state: Tensor, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """flash-linear-attention's chunks. torch.compile leaves them out: they are kernels of their own."""
    # called here: as a decorator it would import the compiler, which takes a second
    run = torch.compiler.disable(_sequences) if torch.compiler.is_compiling() else _sequences
    with no_autocast(mixed):
        y, after = run(mixed, dt, log_a, skip, state, document_starts)
    return y, after


def _sequences(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, state: Tensor, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows as they are; with documents, all rows in one, and each document a sequence of it."""
    _, heads, width, keys = state.shape
    groups = groups_of(mixed, state)
    x, b, c = mixed.split([heads * width, groups * keys, groups * keys], -1)
    x = x.unflatten(-1, (heads, width))
    b, c = (t.unflatten(-1, (groups, keys)).repeat_interleave(heads // groups, 2) for t in (b, c))
    inputs = c, b, (x * dt[..., None]).to(x.dtype), log_a
    if document_starts is None:
        y, after = _chunks(*inputs, state.mT, None)
    else:
        y, after = by_documents(_chunks, inputs, state.mT, document_starts)
    return (y + x * skip[:, None]).to(x.dtype), after.mT.contiguous()


def _chunks(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """fla's form: q, k (B, T, H, N), v (B, T, H, P), g (B, T, H), states (B, H, N, P); one row where it has lengths."""
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v, g, state = (t.contiguous() for t in (q, k, v, g, state))
    made: tuple[Tensor, Tensor] = chunk_simple_gla(
        q, k, v, g, scale=1.0, initial_state=state, output_final_state=True, cu_seqlens=lengths
    )
    return made


SCANS: dict[str, Scan] = {"own": ssd, "fla": _fla}
