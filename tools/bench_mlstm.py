"""The mLSTM cell alone, forward and backward: ours beside mlstm_kernels' forms, interleaved, against the ceiling.

    python tools/bench_mlstm.py [--tokens 4096] [--heads 4] [--key 64] [--value 128] [--batch 1] [--threads 2]

Medians of interleaved repetitions, so that a busy machine is busy for all alike. The share of the ceiling counts 3 x
the recurrent form's forward FLOPs, the least that any form needs, over the matrix product rate measured in the same
run. `native_custbw` leaves the normalizer out of its gradient: it is right only behind a norm of each head.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from mlstm_kernels.torch import get_mlstm_kernel
from torch import Tensor

from hybridkit.training.ceiling import matrix_ceiling
from hybridkit_blocks.ops.mlstm_chunkwise import chunkwise

Run = Callable[..., Tensor]


def contestants(device: str) -> dict[str, Run]:
    """Every form of the cell that runs on the device: h (B, H, T, V) from q, k, v, i, f."""
    names = [("native_custbw", 128), ("native_custbw", 64), ("native_autograd", 128)]
    if device == "cuda":
        names.append(("triton_xl_chunk", 128))
    library = {f"{name}, chunk {chunk}": partial(_library, f"chunkwise--{name}", chunk) for name, chunk in names}
    return {"ours": lambda *inputs: chunkwise(*inputs)[0], **library}


def _library(name: str, chunk: int, *inputs: Tensor) -> Tensor:
    h: Tensor = get_mlstm_kernel(name)(*(t.contiguous() for t in inputs), chunk_size=chunk)
    return h


def inputs(batch: int, heads: int, tokens: int, key: int, value: int, device: str) -> list[Tensor]:
    """q, k, v as projections give them, (B, H, T, .) over memory laid out (B, T, H, .), and gates as at the start."""
    torch.manual_seed(0)
    rows = [torch.randn(batch, tokens, heads, width, device=device).transpose(1, 2) for width in (key, key, value)]
    i, f = torch.randn(2, batch, heads, tokens, device=device)
    return [t.requires_grad_() for t in (*rows, i - 2, f + 4.5)]


def seconds(call: Callable[[], object], device: str) -> float:
    """One call's time."""
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print a line a form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 1, "heads": 4, "tokens": 4096, "key": 64, "value": 128}
    for name, default in {**sizes, "threads": 2, "repeats": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    leaves = inputs(given.batch, given.heads, given.tokens, given.key, given.value, given.device)
    slope = torch.randn_like(leaves[2])
    forms = contestants(given.device)
    calls = {name: partial(train, run, leaves, slope) for name, run in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in forms}
    ceiling = matrix_ceiling(torch.device(given.device), "fp32", (), 1)
    for repeat in range(given.repeats + 1):
        ceiling.measure()
        for name, call in calls.items():
            spent = seconds(call, given.device)
            if repeat:  # the first warms up
                times[name].append(spent)
    ours = median(times["ours"])
    flops = 3 * 4 * given.batch * given.heads * given.tokens * given.key * given.value
    for name, all_times in times.items():
        ceiling.observe(flops / median(all_times), name)
    peak = ceiling.best
    print(f"ceiling {peak / 1e9:.0f} GFLOP/s in fp32, {given.threads} threads, {given.device}")
    for name, all_times in times.items():
        middle = median(all_times)
        share = flops / middle / peak
        print(f"{name:<28} {middle * 1e3:8.1f} ms  {middle / ours:5.2f} x ours  {share:6.1%} of the ceiling")


def train(run: Run, leaves: list[Tensor], slope: Tensor) -> None:
    """Forward and backward, from a gradient of the output."""
    torch.autograd.grad(run(*leaves), leaves, slope)


if __name__ == "__main__":
    main()
