"""Training speed at several sequence lengths, the time of a window switch, and the memory of a large loss.

    python tools/benchmarks/training.py [lengths] [switch] [loss] [--pattern '[swa:128, mlstm]*2'] [--width 128]

lengths: tokens per second of training steps of 65,536 tokens, in the trainer's micro-batches; the lengths take turns,
and wall-clock and processor time are both shown. switch: the time of a step whose window is that of the step before,
and of one whose window differs. loss: peak memory of loss and gradient with a vocabulary of 131,072, 16,384 tokens and
width 256, in a fresh process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from statistics import median

import torch
from models import our_engine, our_step, some_tokens

from hybridkit.model.loss import linear_cross_entropy
from hybridkit.system.timing import Peak
from hybridkit.training.micro_batches import CPU_TOKENS

BATCH = 65536  # tokens of an optimizer step
LENGTHS = [1024 << n for n in range(7)]
SWITCHED = (128, 2048)
LOSS = {"tokens": 16384, "vocab": 131072, "width": 256}


def both_clocks(call: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a call."""
    begin = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def lengths(pattern: str, width: int, repeat: int) -> None:
    """Print a line for each length, with its speed relative to the shortest one."""
    engine = our_engine(pattern, width, "cpu")
    steps = {}
    for length in LENGTHS:
        ids = some_tokens(BATCH // length, length, "cpu")
        steps[length] = our_step(engine, list(ids.split(max(1, CPU_TOKENS // length))))
    taken: dict[int, list[tuple[float, float]]] = {length: [] for length in steps}
    for _ in range(repeat + 1):
        for length, step in steps.items():
            taken[length].append(both_clocks(step))
    print(f"{pattern}, width {width}, {BATCH:,} tokens a step, {torch.get_num_threads()} threads, medians of {repeat}")
    print(f"{'tokens of a row':>16} {'tokens/s':>10} {'a processor second':>20} {'of the first':>13}")
    first = median(processor for _, processor in taken[LENGTHS[0]][1:])
    for length, times in taken.items():
        wall, processor = (median(both[i] for both in times[1:]) for i in range(2))
        print(f"{length:16,} {BATCH / wall:10,.0f} {BATCH / processor:20,.0f} {first / processor:13.2f}")


def switch(width: int, repeat: int) -> None:
    """Print the milliseconds of a step that keeps the window, and of one that switches to it."""
    engine = our_engine(f"[swa:stoch({SWITCHED[0]},{SWITCHED[1]},p=.5), mlstm]*2", width, "cpu")
    ids = some_tokens(1, 8192, "cpu")
    steps = {window: our_step(engine, [ids], window) for window in SWITCHED}
    taken: dict[tuple[int, bool], list[float]] = {(window, new): [] for window in SWITCHED for new in (True, False)}
    for _ in range(repeat + 1):
        for (window, _), times in taken.items():  # switch to 128, stay, switch to 2048, stay, ...
            times.append(both_clocks(steps[window])[1])
    print(f"\n8,192 tokens a step, width {width}, processor ms, medians of {repeat}")
    for window in SWITCHED:
        switched, kept = (1e3 * median(taken[window, new][1:]) for new in (True, False))
        print(f"window {window}: kept {kept:.1f}, switched to {switched:.1f}: {switched / kept - 1:+.1%}")


def loss() -> None:
    """Print the peak memory of the loss and its gradient."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        held, peak, meaning = pool.apply(loss_memory)
    print(f"\nloss and gradient, {LOSS}: inputs {held / 2**30:.2f} GiB, {peak / 2**30:.2f} GiB above them ({meaning})")


def loss_memory() -> tuple[int, int, str]:
    """Bytes of the inputs, the growth of the peak in bytes, and what the peak measures."""
    tokens, vocab, width = LOSS.values()
    x, weight = torch.randn(tokens, width, requires_grad=True), torch.randn(vocab, width, requires_grad=True)
    targets, small, peak = torch.randint(vocab, (tokens,)), torch.randn(8, width), Peak(torch.device("cpu"))
    linear_cross_entropy(small, weight[:64].detach(), targets[:8] % 64)  # loads libraries before the measurement
    with peak:
        pass
    before = peak.bytes
    with peak:
        linear_cross_entropy(x, weight, targets).backward()
    return x.nbytes + weight.nbytes, peak.bytes - before, peak.meaning


def main() -> None:
    """Run the measurements asked for; by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["lengths", "switch", "loss"])
    parser.add_argument("--pattern", default="[swa:128, mlstm]*2")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    if "lengths" in given.what:
        lengths(given.pattern, given.width, given.repeat)
    if "switch" in given.what:
        switch(given.width, given.repeat)
    if "loss" in given.what:
        loss()


if __name__ == "__main__":
    main()
