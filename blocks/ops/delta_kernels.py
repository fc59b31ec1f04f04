"""Which implementation of the gated delta rule runs: the table that `hybridkit doctor` prints.

`own` is delta_rule.py, for any length, carried states and packed documents. It is exact in float64.

`fla` is flash-linear-attention's compiled chunks of 64 (arXiv 2412.06464, 2510.26692), the default on CUDA below
float64 where it is installed. It runs only after outputs, state and gradients have agreed with `own` on this device,
type and shape (kernel_gate.py). It knows documents as sequences of different lengths in one row; each begins from its
own state.

HYBRIDKIT_DELTA=own|fla in the environment overrides the choice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridkit_blocks.ops.delta_rule import chunkwise_delta
from hybridkit_blocks.ops.fla_kernels import by_documents, choose_fla
from hybridkit_blocks.ops.kernel_gate import difference, may_run
from hybridkit_blocks.ops.precision import no_autocast

DeltaFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def delta_cell(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor | None, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) and the state after it, from what `chunkwise_delta` takes."""
    rule = RULES[_chosen(v.device, v.dtype, g.shape[-1], k.shape[-1], v.shape[-1])]
    return rule(q, k, v, beta, g, state, document_starts)


def _chosen(device: torch.device, dtype: torch.dtype, decays: int, key: int, value: int) -> str:
    """The implementation for heads of `key` x `value` with so many decays each."""
    name = choose_kernel(device.type)[0]
    if name == "fla" and (dtype == torch.float64 or not agrees(name, device, dtype, decays, key, value)):
        return "own"
    return name


# While a layer is traced this runs once, outside of the trace. It is what torch.compiler.assume_constant_result sets,
# which would import the compiler: a second.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose_kernel(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why. Raises ValueError where HYBRIDKIT_DELTA asks for what is not there."""
    return choose_fla(device, "HYBRIDKIT_DELTA")


@functools.cache
def agrees(name: str, device: torch.device, dtype: torch.dtype, decays: int, key: int, value: int) -> bool:
    """Whether kernel `name` agrees with `own` on this device; if not, a warning says so. Checked once a process."""
    case, sizes = f"{dtype}, heads of {key} x {value} with {decays} decays", (decays, key, value)
    what, packages = "the delta rule", ("triton", "fla-core")
    return may_run(what, name, packages, device, case, lambda: _fault(name, device, dtype, *sizes))


def _fault(name: str, device: torch.device, dtype: torch.dtype, decays: int, key: int, value: int) -> str:
    """How a kernel's results differ from the own form's by more than rounding; empty if they do not."""
    draw, heads = torch.Generator().manual_seed(0), 2
    shapes: list[tuple[int, ...]] = [(2, 300, heads, width) for width in (key, key, value)]
    shapes += [(2, 300, heads), (2, 300, heads, decays), (2, heads, key, value)]
    q, k, v, beta, g, state = (torch.randn(shape, generator=draw).to(device) for shape in shapes)
    inputs = [*(t.to(dtype) for t in (q, k, v)), beta.sigmoid(), -F.softplus(3 * g - 3), state]
    slope = torch.randn(shapes[2], generator=draw).to(device)
    document_starts = torch.zeros(2, 300, dtype=torch.bool, device=device)
    document_starts[0, 170] = document_starts[1, 0] = document_starts[1, 63] = True
    got = _results(RULES[name], inputs, slope, document_starts)
    right = _results(chunkwise_delta, [t.float() for t in inputs], slope, document_starts)
    return difference(("o", "state", "dq", "dk", "dv", "dbeta", "dg", "dstate"), got, right, dtype)


def _results(rule: DeltaFunction, inputs: list[Tensor], slope: Tensor, document_starts: Tensor) -> list[Tensor]:
    """Outputs, the state after them, and the gradients of <o, slope> + |state|^2 / 2."""
    q, k, v, beta, g, before = leaves = [t.clone().requires_grad_() for t in inputs]
    o, state = rule(q, k, v, beta, g, before, document_starts)
    grads = torch.autograd.grad((o.float() * slope).sum() + state.square().sum() / 2, leaves)
    return [o.detach(), state.detach(), *grads]


def _fla(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor | None, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """flash-linear-attention's chunks. torch.compile leaves them out: they are kernels of their own."""
    # called here: as a decorator it would import the compiler, which takes a second
    run = torch.compiler.disable(_sequences) if torch.compiler.is_compiling() else _sequences
    with no_autocast(v):
        o, after = run(q, k, v, beta, g, state, document_starts)
    return o, after


def _sequences(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor | None, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows as they are; with documents, all rows in one, and each document a sequence of it."""
    rule = _library(g.shape[-1])
    if document_starts is None:
        return rule(q, k, v, beta, g, state, None)
    if state is None:
        state = v.new_zeros(len(v), v.shape[2], k.shape[-1], v.shape[-1], dtype=torch.float32)
    return by_documents(rule, (q, k, v, beta, g), state, document_starts)


def _library(decays: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """fla's rule for one decay a head, or one a channel, as a function of tensors, states and `cu_seqlens`."""
    if decays == 1:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule as chunks
    else:
        from fla.ops.kda import chunk_kda as chunks

    def run(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor | None, lengths: object) -> object:
        return chunks(
            q=q.to(v.dtype).contiguous(),
            k=k.to(v.dtype).contiguous(),
            v=v.contiguous(),
            g=(g[..., 0] if decays == 1 else g).contiguous(),
            beta=beta.contiguous(),
            initial_state=state,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
            cu_seqlens=lengths,
        )

    return run  # type: ignore[return-value]


RULES: dict[str, DeltaFunction] = {"own": chunkwise_delta, "fla": _fla}
