"""Attention alone on a CPU: hybridkit, SDPA with the window as a mask, and full causal SDPA.

    python tools/benchmarks/attention.py --tokens 8192 --repeat 5
    python tools/benchmarks/attention.py --memory 8192 32768 131072

Batch 1, 8 heads of 64, fp32, forward and backward. The implementations take turns and their medians are compared, so
that other load on the machine affects all of them alike. Memory is the growth of a fresh process's peak.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measure import CPU, peak_growth
from torch import Tensor
from torch.nn import functional as F

from hybridkit.system.timing import medians
from hybridkit_blocks.ops.attend import attend

HEADS, HEAD = 8, 64


def main() -> None:
    """Print milliseconds and ratios for every window, or peak memory for every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--windows", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="+", metavar="TOKENS", help="measure peak memory instead")
    options = parser.parse_args()
    if options.memory:
        memory(options.memory, options.windows)
    else:
        speed(options.tokens, options.windows, options.repeat)


def inputs(tokens: int) -> list[Tensor]:
    """q, k, v and the gradient of the output, (1, T, H, E), each head contiguous: the fastest layout for all."""
    return [torch.randn(1, HEADS, tokens, HEAD).transpose(1, 2).requires_grad_(index < 3) for index in range(4)]


def implementations(tokens: int, windows: list[int]) -> dict[str, Callable[..., Tensor]]:
    """By name, attention of q, k, v (1, T, H, E): torch's with and without a mask for each window, and ours."""
    age = torch.arange(tokens)[:, None] - torch.arange(tokens)
    runs: dict[str, Callable[..., Tensor]] = {"causal SDPA": lambda *x: sdpa(*x, is_causal=True)}
    for window in windows:
        seen = (age >= 0) & (age < window)
        runs[f"masked SDPA {window}"] = lambda *x, seen=seen: sdpa(*x, attn_mask=seen)
        runs[f"ours {window}"] = lambda *x, window=window: attend(*x, window, None)
    return runs


def speed(tokens: int, windows: list[int], repeat: int) -> None:
    """Medians of interleaved repetitions of forward and backward."""
    leaves = inputs(tokens)
    runs = {name: partial(train, run, leaves) for name, run in implementations(tokens, windows).items()}
    times = medians(runs, CPU, repeat)
    print(f"{tokens} tokens, {HEADS} heads of {HEAD}, {torch.get_num_threads()} threads, ms forward+backward")
    for name, seconds in times.items():
        print(f"{name:18s} {1e3 * seconds:9.1f}")
    for window in windows:
        ours = times[f"ours {window}"]
        masked, causal = times[f"masked SDPA {window}"] / ours, times["causal SDPA"] / ours
        print(f"window {window}: {masked:.1f} x masked SDPA, {causal:.1f} x causal SDPA")


def sdpa(q: Tensor, k: Tensor, v: Tensor, **mask: object) -> Tensor:
    """torch's own attention on (B, T, H, E)."""
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads_first, **mask).transpose(1, 2)  # type: ignore[arg-type]


def train(run: Callable[..., Tensor], leaves: Sequence[Tensor]) -> None:
    """Forward and backward of `inputs`."""
    torch.autograd.grad(run(*leaves[:3]), leaves[:3], leaves[3])


def memory(lengths: list[int], windows: list[int]) -> None:
    """Print the peak memory of forward and backward, each measured in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for window in windows:
            for tokens in lengths:
                held, peak = pool.apply(peak_bytes, (tokens, window))
                megabytes = f"inputs {held / 2**20:.1f} M, peak {peak / 2**20:.1f} M above them"
                print(f"window {window}, {tokens} tokens: {megabytes}, {peak / tokens:.0f} bytes a token")


def peak_bytes(tokens: int, window: int) -> tuple[int, int]:
    """Bytes of the inputs, and by how many bytes one forward and backward raise the peak."""
    leaves = inputs(tokens)
    train(lambda *x: attend(*x, 16, None), inputs(64))  # the first call loads libraries, and is not timed
    grown = peak_growth(lambda: train(lambda *x: attend(*x, window, None), leaves))
    return sum(x.nbytes for x in leaves), grown


if __name__ == "__main__":
    main()
