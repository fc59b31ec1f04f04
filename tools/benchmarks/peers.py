"""hybridkit and other libraries: the same shapes, on the same machine, in one process.

    python tools/benchmarks/peers.py [--only xlstm mistral-8k ...] [--repeat 5] [--device cpu]
        [--precision bf16] [--width 256] [--layers 8] [--shorter 1] [--json]

Each round runs every library once; times are medians over the rounds after one that warms up. The ratio is the median
over the rounds of their time over ours. Where other programs use the machine, compare processor times.

With --precision bf16, all compute in bf16: ours as `hybridkit train` and `hybridkit generate --precision bf16` do;
transformers' models under autocast and with weights in bf16, each in a row of its own, of which the faster counts. On
a CPU without instructions for bf16 these times mean nothing. --shorter N divides the tokens by N, for a try.

xlstm, mistral-2k, -8k, -16k: one training step, width 256, 8 layers, one row (tools/benchmarks/models.py).
prefill-xlstm (at widths from 128 on), prefill-mistral: 2,048 tokens read into a state. decode-1, decode-8: 64 greedy
tokens for each of 1 or 8 rows. attention-128, -1024: attention alone, 8,192 tokens, forward and backward. cell: the
mLSTM cell alone, 4,096 tokens, and mlstm_kernels. flash, fla: on a GPU, where they are installed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import attention as attention_benchmark
import decode as decode_benchmark
import mlstm as mlstm_benchmark
import torch
import transformers
from measure import medians, ratios, take_turns
from models import (
    choose,
    in_both_ways,
    mistral_pair,
    our_prefill,
    our_step,
    precision,
    some_tokens,
    their_prefills,
    their_steps,
    xlstm_pair,
)
from torch.nn import functional as F

from hybridkit.system.machine import DTYPES
from hybridkit.training.ceiling import peak_flops
from hybridkit_blocks.ops.attend import attend

WINDOW, OURS = 128, "ours"
CHUNK = 128  # tokens, of which the mLSTM cells of other libraries take whole chunks
Runs = Mapping[str, Callable[[], object]]  # by name; one of them is OURS


class Sizes(NamedTuple):
    """Of the models and texts that are compared."""

    width: int
    layers: int
    shorter: int  # all numbers of tokens are divided by it

    def tokens(self, usual: int) -> int:
        """The tokens in place of the usual ones: whole chunks of `CHUNK`."""
        return max(1, usual // self.shorter // CHUNK) * CHUNK


def xlstm(device: str, sizes: Sizes) -> Runs:
    """A training step of xLSTM."""
    ids = some_tokens(1, sizes.tokens(2048), device)
    ours, theirs = xlstm_pair(sizes.width, sizes.layers, device)
    return {OURS: our_step(ours, [ids]), **their_steps("transformers' xLSTM", theirs, ids)}


def mistral(usual: int, device: str, sizes: Sizes) -> Runs:
    """A training step with sliding windows."""
    tokens = sizes.tokens(usual)
    ids = some_tokens(1, tokens, device)
    ours, theirs = mistral_pair(sizes.width, sizes.layers, WINDOW, tokens, device)
    return {OURS: our_step(ours, [ids]), **their_steps(_mistral_name(theirs), theirs, ids)}


def prefill_xlstm(device: str, sizes: Sizes) -> Runs:
    """Reading a prompt by xLSTM; transformers' in its mode for inference."""
    ids = some_tokens(1, sizes.tokens(2048), device)
    ours, theirs = xlstm_pair(sizes.width, sizes.layers, device, mode="inference")
    return {OURS: our_prefill(ours, ids), **their_prefills("transformers' xLSTM", theirs, ids)}


def prefill_mistral(device: str, sizes: Sizes) -> Runs:
    """Reading a prompt with sliding windows."""
    tokens = sizes.tokens(2048)
    ids = some_tokens(1, tokens, device)
    ours, theirs = mistral_pair(sizes.width, sizes.layers, WINDOW, tokens, device)
    return {OURS: our_prefill(ours, ids), **their_prefills(_mistral_name(theirs), theirs, ids)}


def _mistral_name(model: Any) -> str:
    return f"transformers' Mistral ({model.config._attn_implementation})"


def decode(batch: int, device: str, sizes: Sizes) -> Runs:
    """64 greedy tokens of xLSTM after a prompt of 16."""
    ours, theirs = decode_benchmark.pair(sizes.width, sizes.layers, device)
    ids, tokens = some_tokens(batch, decode_benchmark.PROMPT, device), max(1, 64 // sizes.shorter)
    runs = {OURS: partial(decode_benchmark.generate_ours, ours, ids, tokens)}
    for name, each in in_both_ways("transformers' xLSTM", theirs).items():
        runs[name] = partial(decode_benchmark.generate_theirs, each, ids, tokens)
    return runs


def attention(window: int, device: str, sizes: Sizes) -> Runs:
    """Attention alone, forward and backward."""
    tokens, kind = sizes.tokens(8192), DTYPES[precision(device)]
    with torch.device(device):
        leaves, runs = attention_benchmark.inputs(tokens), attention_benchmark.implementations(tokens, [window])
    leaves = [leaf.detach().to(kind).requires_grad_(leaf.requires_grad) for leaf in leaves]
    return {
        name.replace(f"ours {window}", OURS): partial(mlstm_benchmark.train, run, leaves[:3], leaves[3])
        for name, run in runs.items()
    }


def cell(device: str, sizes: Sizes) -> Runs:
    """The mLSTM cell alone, forward and backward; in fp32, in which it computes in any precision."""
    leaves = mlstm_benchmark.inputs(1, 4, sizes.tokens(4096), 64, 128, device)
    slope = torch.randn_like(leaves[2])
    return {
        name: partial(mlstm_benchmark.train, run, leaves, slope)
        for name, run in mlstm_benchmark.implementations(device).items()
    }


def flash(device: str, sizes: Sizes) -> Runs:
    """Attention alone in bf16, ours and flash-attn's with the same window."""
    from flash_attn import flash_attn_func

    leaves = [torch.randn(1, 8192, 8, 64, device=device, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    runs = {
        OURS: lambda q, k, v: attend(q, k, v, WINDOW, None),
        "flash-attn": lambda q, k, v: flash_attn_func(q, k, v, causal=True, window_size=(WINDOW - 1, 0)),
    }
    slope = torch.randn_like(leaves[0])
    return {name: partial(mlstm_benchmark.train, run, leaves, slope) for name, run in runs.items()}


def fla(device: str, sizes: Sizes) -> Runs:
    """The mLSTM cell and FLA's simple gated linear attention, which has no input gate and no normalizer."""
    from fla.ops.simple_gla import chunk_simple_gla

    leaves = mlstm_benchmark.inputs(1, 4, 4096, 64, 128, device)
    slope = torch.randn_like(leaves[2])

    def theirs(*x: torch.Tensor) -> torch.Tensor:
        q, k, v, f = (t.transpose(1, 2) for t in (*x[:3], x[4]))  # (B, T, H, .)
        return chunk_simple_gla(q, k, v, g=F.logsigmoid(f))[0].transpose(1, 2)

    runs = {OURS: mlstm_benchmark.implementations(device)[OURS], "FLA simple_gla": theirs}
    return {name: partial(mlstm_benchmark.train, run, leaves, slope) for name, run in runs.items()}


COMPARISONS: dict[str, Callable[[str, Sizes], Runs]] = {
    "xlstm": xlstm,
    "mistral-2k": partial(mistral, 2048),
    "mistral-8k": partial(mistral, 8192),
    "mistral-16k": partial(mistral, 16384),
    "prefill-xlstm": prefill_xlstm,
    "prefill-mistral": prefill_mistral,
    "decode-1": partial(decode, 1),
    "decode-8": partial(decode, 8),
    "attention-128": partial(attention, 128),
    "attention-1024": partial(attention, 1024),
    "cell": cell,
    "flash": flash,
    "fla": fla,
}
NEEDS = {"flash": "flash_attn", "fla": "fla"}


def missing(name: str, device: str) -> str | None:
    """Why a comparison cannot run here; None where it can."""
    package = NEEDS.get(name)
    if package is None or (device == "cuda" and find_spec(package)):
        return None
    return f"{package} is not installed" if device == "cuda" else "needs a GPU"


def run_comparison(runs: Runs, device: str, repeat: int) -> dict[str, dict[str, float]]:
    """By name: wall-clock and processor seconds, and their ratios to ours."""
    taken, found = take_turns(runs, repeat, torch.device(device)), {}
    for name, times in taken.items():
        middle, ratio = medians(times), ratios(times, taken[OURS])
        found[name] = {"seconds": middle.wall, "processor_seconds": middle.processor}
        found[name] |= {"ratio": ratio.wall, "processor_ratio": ratio.processor}
    return found


def show(name: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the rows of a comparison."""
    for who, figures in found.items():
        seconds, processor = figures["seconds"], figures["processor_seconds"]
        ratios = f"{figures['ratio']:9.2f} {figures['processor_ratio']:10.2f}"
        print(f"{name:15} {who:40} {1e3 * seconds:11.1f} {1e3 * processor:13.1f} {ratios}", flush=True)


def main() -> None:
    """Run the comparisons asked for, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="NAME")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of all libraries")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--shorter", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    choose(given.precision)
    sizes = Sizes(given.width, given.layers, given.shorter)
    transformers.logging.set_verbosity_error()
    device, threads = torch.device(given.device), torch.get_num_threads()
    ceiling = peak_flops(device, precision(given.device))  # type: ignore[arg-type]
    report: dict[str, Any] = {"device": given.device, "precision": precision(given.device), "threads": threads}
    report |= {"ceiling": ceiling, "comparisons": {}}
    if not given.json:
        print(f"{given.device}, {threads} threads, ceiling {ceiling / 1e9:.0f} GFLOP/s, medians of {given.repeat}\n")
        print(f"{'':56} {'ms':>11} {'processor ms':>13} {'x ours':>9} {'processor':>10}")
    for name in given.only:
        if reason := missing(name, given.device):
            report["comparisons"][name] = {"skipped": reason}
            if not given.json:
                print(f"{name:15} skipped: {reason}")
            continue
        torch.manual_seed(0)
        report["comparisons"][name] = run_comparison(COMPARISONS[name](given.device, sizes), given.device, given.repeat)
        if not given.json:
            show(name, report["comparisons"][name])
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
