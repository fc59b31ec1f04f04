"""Training speed at several sequence lengths, the time of a window switch, and the memory of a large loss.

    python tools/benchmarks/training.py [lengths] [switch] [loss] [--pattern '[swa:128, mlstm]*2'] [--width 128]
        [--precision bf16]
    python tools/benchmarks/training.py precision --pattern '[swa:128, mlstm]*4' --width 256 [--tokens 2048]

lengths: tokens per second of training steps of 65,536 tokens, in the trainer's micro-batches; the lengths take turns,
and wall-clock and processor time are both shown. switch: the time of a step whose window is that of the step before,
and of one whose window differs. loss: peak memory of loss and gradient with a vocabulary of 131,072, 16,384 tokens and
width 256, in a fresh process.

precision: a training step and a prefill of one row, in fp32 and in bf16, which take turns; with their exact FLOPs a
second, the share of the fastest product measured in that precision in the same run, and the speed over that of fp32.
It means something only on a CPU with instructions for bf16.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable

import torch
from measure import CPU, medians, peak_growth, ratios, take_turns
from models import choose, our_engine, our_prefill, our_step, precision, some_tokens

from hybridkit.cost.flops import TRAINING, forward_flops, head_flops
from hybridkit.model.loss import linear_cross_entropy
from hybridkit.system.timing import Peak
from hybridkit.training.ceiling import peak_flops
from hybridkit.training.micro_batches import CPU_TOKENS

BATCH = 65536  # tokens of an optimizer step
LENGTHS = [1024 << n for n in range(7)]
SWITCHED = (128, 2048)
PARTS = ("lengths", "switch", "loss", "precision")
LOSS = {"tokens": 16384, "vocab": 131072, "width": 256}


def lengths(pattern: str, width: int, repeat: int) -> None:
    """Print a line for each length, with its speed relative to the shortest one."""
    engine = our_engine(pattern, width, "cpu")
    steps = {}
    for length in LENGTHS:
        ids = some_tokens(BATCH // length, length, "cpu")
        steps[length] = our_step(engine, list(ids.split(max(1, CPU_TOKENS // length))))
    taken = {length: medians(times) for length, times in take_turns(steps, repeat).items()}
    print(f"{pattern}, width {width}, {BATCH:,} tokens a step, {precision('cpu')}, {torch.get_num_threads()} threads")
    print(f"{'tokens of a row':>16} {'tokens/s':>10} {'a processor second':>20} {'of the first':>13}")
    first = taken[LENGTHS[0]].processor
    for length, (wall, processor) in taken.items():
        print(f"{length:16,} {BATCH / wall:10,.0f} {BATCH / processor:20,.0f} {first / processor:13.2f}")


def switch(width: int, repeat: int) -> None:
    """Print the milliseconds of a step that keeps the window, and of one that switches to it."""
    engine = our_engine(f"[swa:stoch({SWITCHED[0]},{SWITCHED[1]},p=.5), mlstm]*2", width, "cpu")
    ids = some_tokens(1, 8192, "cpu")
    steps = {window: our_step(engine, [ids], window) for window in SWITCHED}
    calls = {(window, new): steps[window] for window in SWITCHED for new in (True, False)}
    taken = take_turns(calls, repeat)  # switch to 128, stay, switch to 2048, stay, ...
    print(f"\n8,192 tokens a step, width {width}, processor ms, medians of {repeat}")
    for window in SWITCHED:
        switched, kept = (1e3 * medians(taken[window, new]).processor for new in (True, False))
        print(f"window {window}: kept {kept:.1f}, switched to {switched:.1f}: {switched / kept - 1:+.1%}")


def precisions(pattern: str, width: int, tokens: int, repeat: int) -> None:
    """Print a line for each precision, of a training step and of a prefill."""
    runs, ids = dict[tuple[str, str], Callable[[], object]](), some_tokens(1, tokens, "cpu")
    for kind in ("fp32", "bf16"):
        choose(kind)
        engine = our_engine(pattern, width, "cpu")
        runs["train", kind], runs["prefill", kind] = our_step(engine, [ids]), our_prefill(engine, ids)
    taken, plan = take_turns(runs, repeat), engine.model.plan
    forward = forward_flops(plan, tokens)
    flops = {"train": TRAINING * forward, "prefill": forward - tokens * head_flops(plan)}
    ceilings = {kind: peak_flops(CPU, kind) for kind in ("fp32", "bf16")}
    print(f"\n{pattern}, width {width}, {tokens:,} tokens, {torch.get_num_threads()} threads, medians of {repeat}")
    print(
        f"{'':13} {'ms':>9} {'processor':>9} {'GFLOP/s':>9} {'ceiling':>9} {'share':>7} {'x fp32':>7} {'processor':>9}"
    )
    for (what, kind), times in taken.items():
        (wall, processor), faster = medians(times), ratios(taken[what, "fp32"], times)
        rate = flops[what] / wall
        figures = f"{1e3 * wall:9.1f} {1e3 * processor:9.1f} {rate / 1e9:9.1f} {ceilings[kind] / 1e9:9.1f}"
        print(f"{what:8}{kind:5} {figures} {rate / ceilings[kind]:7.1%} {faster.wall:7.2f} {faster.processor:9.2f}")


def loss() -> None:
    """Print the peak memory of the loss and its gradient."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        held, peak, meaning = pool.apply(loss_memory)
    print(f"\nloss and gradient, {LOSS}: inputs {held / 2**30:.2f} GiB, {peak / 2**30:.2f} GiB above them ({meaning})")


def loss_memory() -> tuple[int, int, str]:
    """Bytes of the inputs, the growth of the peak in bytes, and what the peak measures."""
    tokens, vocab, width = LOSS.values()
    x, weight = torch.randn(tokens, width, requires_grad=True), torch.randn(vocab, width, requires_grad=True)
    targets, small = torch.randint(vocab, (tokens,)), torch.randn(8, width)
    linear_cross_entropy(small, weight[:64].detach(), targets[:8] % 64)  # loads libraries before the measurement
    grown = peak_growth(lambda: linear_cross_entropy(x, weight, targets).backward())
    return x.nbytes + weight.nbytes, grown, Peak(CPU).meaning


def main() -> None:
    """Run the measurements asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = f"of {', '.join(PARTS)}; without: all but precision"
    parser.add_argument("what", nargs="*", choices=[*PARTS, []], metavar="PART", help=about)
    parser.add_argument("--pattern", default="[swa:128, mlstm]*2")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2048, help="of `precision`")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of `lengths` and `switch`")
    given = parser.parse_args()
    choose(given.precision)
    what = given.what or PARTS[:3]
    if "lengths" in what:
        lengths(given.pattern, given.width, given.repeat)
    if "switch" in what:
        switch(given.width, given.repeat)
    if "loss" in what:
        loss()
    if "precision" in what:
        precisions(given.pattern, given.width, given.tokens, given.repeat)


if __name__ == "__main__":
    main()
