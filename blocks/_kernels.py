"""Which implementation of the mLSTM cell runs where, and the gate that a compiled one has to pass first.

`own` is the chunkwise form of _mlstm_chunkwise.py. It runs wherever nothing else is named below: it alone is exact in
float64 for documents and carried states, and it is the fastest on a CPU. Forward and backward for B1 H4 T4096, keys of
64 and values of 128, fp32, one core of an EPYC with AVX-512, CPU time, medians of 15 in turn: 103 ms, against 268 of
mlstm_kernels' `native_autograd` (chunk 128) and 169 and 205 of its `native_custbw` (64 and 128), whose gradient leaves
the normalizer out. tools/benchmarks/mlstm.py measures them anew.

`native` is mlstm_kernels' chunkwise form in plain torch, to compare with and to fall back on.

`triton` is mlstm_kernels' compiled form, the default on CUDA below float64, in chunks of 128: with larger ones its
gradients are wrong (mlstm_kernels#10). It runs only after its outputs and gradients have agreed with `own` on this
device, type and shape (#16: a card on which they are wrong and finite). Gradients do not pass through the memory that
it returns, so training over a carried memory takes `own`.

The library's forms know no documents. Before a document's first token their forget gate is closed to exp(-100), which
moves outputs by about eps = 1e-6: far below the rounding of fp32 products in TF32 or of bf16.

HYBRIDKIT_MLSTM=own|native|triton in the environment overrides the choice.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ._mlstm_chunkwise import Memory, chunkwise, no_autocast, wide

Cell = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Memory | None, Tensor | None], tuple[Tensor, Memory]]

SHUT = 100.0  # a gate's pre-activation that is as good as infinite, and adds to sums without ruining them


def cell(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: Memory | None = None,
    document_starts: Tensor | None = None,
) -> tuple[Tensor, Memory]:
    """h (B, H, T, V) and the memory after q, k (B, H, T, K), v (B, H, T, V), i, f (B, H, T), starts (B, T).

    torch.compile leaves it out: its products are as fast as they get, and its loop over chunks would be unrolled.
    """
    if torch.compiler.is_compiling():
        run: Cell = torch.compiler.disable(_chosen)  # here rather than as a decorator, which takes a second to import
        return run(q, k, v, i, f, state, document_starts)
    return _chosen(q, k, v, i, f, state, document_starts)


def _chosen(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: Memory | None, document_starts: Tensor | None
) -> tuple[Tensor, Memory]:
    name = choice(q.device.type)[0]
    carried = state is not None and torch.is_grad_enabled()
    heads = k.shape[-1], v.shape[-1]
    if name == "triton" and (carried or q.dtype == torch.float64 or not trusted(name, q.device, q.dtype, *heads)):
        name = "own"
    return CELLS[name](q, k, v, i, f, state, document_starts)


def choice(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why. Raises ValueError where HYBRIDKIT_MLSTM asks for what is not there."""
    forced = os.environ.get("HYBRIDKIT_MLSTM")
    if forced:
        if forced not in CELLS:
            raise ValueError(f"HYBRIDKIT_MLSTM={forced}: it may be {', '.join(CELLS)}")
        if forced == "triton" and not _has_triton():
            raise ValueError("HYBRIDKIT_MLSTM=triton: triton is not installed; run: pip install 'hybridkit[triton]'")
        return forced, f"HYBRIDKIT_MLSTM={forced} asks for it"
    if torch.device(device).type != "cuda":
        return "own", "the fastest chunkwise form on a CPU, exact for documents and carried states"
    if not _has_triton():
        return "own", "triton is not installed, without which mlstm_kernels has no compiled form"
    return "triton", "mlstm_kernels' chunks of 128, once they agree with the own form on this device, type and shape"


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@functools.cache
def trusted(name: str, device: torch.device, dtype: torch.dtype, key: int, value: int) -> bool:
    """Whether kernel `name` agrees with `own` on this device for heads of `key` x `value`; if not, a warning says so.

    Asked once a process; what passed is remembered on disk, by the versions of all that it depends on.
    """
    versions = [f"{package} {metadata.version(package)}" for package in ("torch", "triton", "mlstm_kernels")]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    case = f"{name} on {card}, {dtype}, heads of {key} x {value}, {', '.join(versions)}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hybridkit" / "kernels"
    passed = cache / hashlib.sha256(case.encode()).hexdigest()
    if passed.exists():
        return True
    try:
        fault = _fault(name, device, dtype, key, value)
    except Exception as error:  # whatever a compiler throws: the own form works
        fault = f"it fails with {type(error).__name__}: {error}"
    if fault:
        warnings.warn(f"the mLSTM runs in plain torch, slower, since {case}: {fault}", RuntimeWarning, stacklevel=2)
        return False
    with suppress(OSError):  # a home that cannot be written costs one more check
        if not cache.is_absolute():  # there is no home
            return True
        cache.mkdir(parents=True, exist_ok=True)
        passed.write_text(case, encoding="utf-8")
    return True


def _fault(name: str, device: torch.device, dtype: torch.dtype, key: int, value: int) -> str:
    """How a kernel's outputs and gradients differ from the own form's by more than rounding; empty if they do not.

    Compared behind a norm of each head, as in the block: the library's gradients are right only there. The tolerance
    is 8 roundings of the type, of TF32 (2^-10) at least; wrong gradients differ by about as much as they measure.
    """
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, 2, 300, width) for width in (key, key, value)] + [(1, 2, 300)] * 2
    inputs = [torch.randn(shape, generator=draw).to(device) for shape in shapes]
    inputs = [t.to(dtype) for t in inputs[:3]] + [inputs[3] - 1, inputs[4] + 3]
    slope = torch.randn(shapes[2], generator=draw).to(device)
    document_starts = torch.zeros(1, 300, dtype=torch.bool, device=device)
    document_starts[:, 170] = True
    got = _outputs_and_gradients(CELLS[name], inputs, slope, document_starts)
    right = _outputs_and_gradients(chunkwise, [t.float() for t in inputs], slope, document_starts)
    tolerance = 8 * max(torch.finfo(dtype).eps, 2.0**-10)
    for label, a, b in zip(("h", "dq", "dk", "dv", "di", "df"), got, right, strict=True):
        error = float((a.float() - b).norm() / b.norm())
        if not error <= tolerance:
            return f"{label} is off by {error:.2g}, more than {tolerance:.2g}"
    return ""


def _outputs_and_gradients(run: Cell, inputs: list[Tensor], slope: Tensor, document_starts: Tensor) -> list[Tensor]:
    with torch.enable_grad(), torch.inference_mode(False):
        q, k, v, i, f = leaves = [t.clone().requires_grad_() for t in inputs]
        h = F.layer_norm(run(q, k, v, i, f, None, document_starts)[0].float(), slope.shape[-1:])
        return [h.detach(), *torch.autograd.grad(h, leaves, slope)]


def _library(
    name: str,
    chunk: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: Memory | None,
    document_starts: Tensor | None,
) -> tuple[Tensor, Memory]:
    """mlstm_kernels' chunkwise form `name`, for any length, with documents."""
    from mlstm_kernels.torch import get_mlstm_kernel

    tokens = q.shape[2]
    if document_starts is not None:
        f = f.masked_fill(document_starts[:, None], -SHUT)
    if spare := -tokens % chunk:  # what fills up the last chunk writes nothing and forgets nothing
        q, k, v = (F.pad(t, (0, 0, 0, spare)) for t in (q, k, v))
        i, f = F.pad(i, (0, spare), value=-SHUT), F.pad(f, (0, spare), value=SHUT)
    inputs = [t.contiguous() for t in (q, k, v, i, f)]
    with no_autocast(q):
        h, (C, n, m) = get_mlstm_kernel(name)(
            *inputs, *(state or (None, None, None)), return_last_states=True, chunk_size=chunk
        )
    return h[:, :, :tokens], Memory(C, n, m.reshape(*q.shape[:2], 1))


def _native(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: Memory | None, document_starts: Tensor | None
) -> tuple[Tensor, Memory]:
    """The library's plain torch form, which wants one type throughout."""
    kind = wide(q.dtype)
    h, after = _library(
        "chunkwise--native_autograd", 64, q.to(kind), k.to(kind), v.to(kind), i, f, state, document_starts
    )
    return h.to(q.dtype), after


CELLS: dict[str, Cell] = {
    "own": chunkwise,
    "native": _native,
    "triton": functools.partial(_library, "chunkwise--triton_xl_chunk", 128),
}
