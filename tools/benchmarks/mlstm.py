"""The mLSTM cell alone, forward and backward: hybridkit and mlstm_kernels, and their share of the ceiling.

    python tools/benchmarks/mlstm.py [--tokens 4096] [--heads 4] [--key 64] [--value 128] [--batch 1] [--threads 2]

The forms take turns and their medians are compared, so that other load affects all alike. The share of the ceiling is
3 x the forward FLOPs of the recurrent form, the fewest of any form, per second, over the speed of matrix products
measured in the same run. `native_custbw` omits the normalizer's gradient, which is correct only before a norm per head.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from mlstm_kernels.torch import get_mlstm_kernel
from torch import Tensor

from hybridkit.system.timing import medians
from hybridkit.training.ceiling import matrix_ceiling
from hybridkit_blocks.ops.mlstm_chunkwise import chunkwise_mlstm

Run = Callable[..., Tensor]


def implementations(device: str) -> dict[str, Run]:
    """Every form of the cell that runs on the device: h (B, H, T, V) from q, k, v, i, f."""
    names = [("native_custbw", 128), ("native_custbw", 64), ("native_autograd", 128)]
    if device == "cuda":
        names.append(("triton_xl_chunk", 128))
    library = {f"{name}, chunk {chunk}": partial(_library, f"chunkwise--{name}", chunk) for name, chunk in names}
    return {"ours": lambda *inputs: chunkwise_mlstm(*inputs)[0], **library}


def _library(name: str, chunk: int, *inputs: Tensor) -> Tensor:
    h: Tensor = get_mlstm_kernel(name)(*(t.contiguous() for t in inputs), chunk_size=chunk)
    return h


def inputs(batch: int, heads: int, tokens: int, key: int, value: int, device: str) -> list[Tensor]:
    """q, k, v (B, H, T, .), laid out in memory as (B, T, H, .) by projections, and gates as at initialization."""
    torch.manual_seed(0)
    rows = [torch.randn(batch, tokens, heads, width, device=device).transpose(1, 2) for width in (key, key, value)]
    i, f = torch.randn(2, batch, heads, tokens, device=device)
    return [t.requires_grad_() for t in (*rows, i - 2, f + 4.5)]


def main() -> None:
    """Measure all forms and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 1, "heads": 4, "tokens": 4096, "key": 64, "value": 128}
    for name, default in {**sizes, "threads": 2, "repeats": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    leaves = inputs(given.batch, given.heads, given.tokens, given.key, given.value, given.device)
    slope = torch.randn_like(leaves[2])
    forms = implementations(given.device)
    calls = {name: partial(train, run, leaves, slope) for name, run in forms.items()}
    device = torch.device(given.device)
    ceiling = matrix_ceiling(device, "fp32", (), 1)
    times = medians(calls, device, given.repeats, between=ceiling.measure)
    flops = 3 * 4 * given.batch * given.heads * given.tokens * given.key * given.value
    for name, seconds in times.items():
        ceiling.observe(flops / seconds, name)
    print(f"ceiling {ceiling.best / 1e9:.0f} GFLOP/s in fp32, {given.threads} threads, {given.device}")
    for name, seconds in times.items():
        share = flops / seconds / ceiling.best
        print(f"{name:<28} {seconds * 1e3:8.1f} ms  {seconds / times['ours']:5.2f} x ours  {share:6.1%} of the ceiling")


def train(run: Run, leaves: list[Tensor], slope: Tensor) -> None:
    """Forward and backward; `slope` is the gradient of the output."""
    torch.autograd.grad(run(*leaves), leaves, slope)


if __name__ == "__main__":
    main()
