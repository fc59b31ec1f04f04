"""Every block on a GPU that is not there: tensors without values on device "cuda", under a CUDA build of torch.

    python tools/stress/simulated_gpu.py [PATTERN...]

Runs what a training step computes forward (fp32, bf16 autocast, documents), prefill, and a decoding step in both
layouts, in fp32 and bf16. It finds tensors made on the CPU, types that do not fit, and whatever waits for the device.
It counts the operations of a decoding step: of those that a card runs as one kernel, a norm for example, it may count
the parts. Backward needs a driver, and is not tried; kernels are taken as their fake implementations say; FlexAttention
gives empty tensors. Experts in fp32 are known to wait, since each takes a product of its own there.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import hybridkit
from hybridkit.model import loss
from hybridkit_blocks.ops import (
    attention_step,
    convolution_step,
    delta_kernels,
    delta_step,
    mlstm_kernels,
    mlstm_step,
    ssd_kernels,
    ssd_step,
)
from hybridkit_blocks.ops.cuda import flex

PATTERNS = [
    "[sa]*2", "[swa:stoch(8,16)]*2", "[swa(sinks=true,gate=true):64]", "[swa(softcap=30):64, mlstm]", "[mlstm]",
    "[gdn]", "[kda]", "[mamba2]", "[rglru]", "[conv]", "[mla]", "[swa:8 | mlstm]",
    "[sa, moe(experts=4,active=2,width=32)]",
    "[sa(rope=.5,qk_norm=head)]", "[sa:stoch(8,all)]", "[sa(bias=true,qk_norm=projection,kv_heads=1), ffn(width=61)]",
]  # fmt: skip
EMPTY = ("empty", "new_empty", "_unsafe_view", "squeeze_", "unsqueeze_")  # beginnings of names: no kernel runs
DEVICE = torch.device("cuda")


def attention(q: Tensor, k: Tensor, v: Tensor, block_mask: Any, return_aux: Any = None, **_: Any) -> Any:
    """In place of FlexAttention: outputs of its shape and type, for inputs that it takes."""
    assert q.dtype == k.dtype == v.dtype and block_mask.kv_indices.device == q.device
    y = q.new_empty(*q.shape[:3], v.shape[-1])
    return (y, SimpleNamespace(lse=y.new_empty(q.shape[:3], dtype=torch.float32))) if return_aux else y


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    """Of what is made within."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class Kernels(TorchDispatchMode):
    """Counts operations that compute: views and empty tensors do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if func.namespace != "prim" and not func.is_view and not name.startswith(EMPTY):  # prim asks for a device
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def training(model: Any, ids: Tensor, documents: bool, half: bool) -> str:
    """Forward with its loss; there is nothing to count."""
    starts = torch.zeros_like(ids, dtype=torch.bool) if documents else None
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        loss, _ = model(ids, document_starts=starts, targets=ids)
    assert loss.device.type == "cuda" and loss.dtype == torch.float32
    return ""


@torch.no_grad()
def decoding(model: Any, ids: Tensor, packed: bool) -> str:
    """Prefill and a step; how many operations that takes."""
    _, states = model(ids)
    steps = [layer.decoder(len(ids)) if packed else layer.step for layer in model.layers]
    with Kernels() as kernels:
        logits, _ = model.run_steps(steps, ids[:, 0], states)
    assert logits.device.type == "cuda" and logits.dtype == model.head.weight.dtype
    return f"{kernels.count.total()} operations"


def prepare() -> None:
    """Kernels of libraries off, the project's own on, and autocast as on a card."""
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    flex._compiled = lambda: attention
    for module in (attention_step, convolution_step, delta_step, mlstm_step, ssd_step):
        module.agrees = lambda *_: True
        module.step_kernels = lambda device: True
    mlstm_kernels.agrees = lambda *_: True
    loss._add_product = lambda total, a, b: total.add_(a @ b)  # a form for which torch 2.11 has no simulated one
    for library in (delta_kernels, ssd_kernels):
        library.choose_kernel = lambda device: ("own", "")


def cases() -> dict[str, tuple[torch.dtype, Callable[[Any, Tensor], str]]]:
    """What is run, and in which type."""
    made: dict[str, tuple[torch.dtype, Callable[[Any, Tensor], str]]] = {}
    for documents, half in itertools.product((False, True), repeat=2):
        name = f"training{', documents' * documents}{', bf16' * half}"
        made[name] = torch.float32, lambda model, ids, d=documents, h=half: training(model, ids, d, h)
    for packed, dtype in itertools.product((False, True), (torch.float32, torch.bfloat16)):
        made[f"decoding{', packed' * packed}, {dtype}"] = dtype, lambda model, ids, p=packed: decoding(model, ids, p)
    return made


def main() -> int:
    """The exit code: how many failed, at most 100."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=PATTERNS, metavar="PATTERN")
    given, failed = parser.parse_args(), 0
    if torch.version.cuda is None:
        sys.exit("this torch is built without CUDA: install one that is; it needs no card")
    prepare()
    for pattern, (name, (dtype, run)) in itertools.product(given.patterns, cases().items()):
        try:
            with FakeTensorMode(), default_type(dtype):
                with DEVICE:
                    model = hybridkit.build(pattern, width=64, heads=2)
                said = run(model, torch.zeros(2, 100, dtype=torch.int64, device=DEVICE))
        except Exception as error:
            failed += 1
            ours = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            said = f"FAILED at {' '.join(ours[-4:])}: {type(error).__name__}: {str(error)[:150]}"
        print(f"{pattern:45} {name:35} {said}", flush=True)
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
