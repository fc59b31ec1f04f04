"""Decoding speed of hybridkit and of transformers' xLSTM: same shape, same batch, in one process.

    OMP_NUM_THREADS=1 python tools/benchmarks/decode.py [--precision bf16] [--widths 128 256 512] [--tokens 128]

Each round generates the same number of greedy tokens with both, reading the prompt included; the table shows medians.
In bf16 ours has weights in bf16; theirs is run under autocast and with weights in bf16, and the faster counts. At width
128 a second table shows the milliseconds per token of a bounded stack after 1k, 16k and 128k tokens.
"""

import argparse
import time
from functools import partial
from itertools import islice, pairwise
from statistics import median

import torch
import transformers
from measure import medians, ratios, take_turns
from models import HEADS, VOCAB, autocast, check_sizes, choose, in_both_ways, precision, their_xlstm
from torch import Tensor

import hybridkit
from hybridkit.inference.language_model import LanguageModel
from hybridkit.system.machine import DTYPES

PROMPT = 16
SHAPES = ((128, 4, 1), (128, 4, 8), (256, 6, 1), (256, 6, 8), (512, 6, 1), (512, 6, 8))  # width, blocks, batch
POSITIONS = (2**10, 2**14, 2**17)
BOUNDED = "[swa:128, mlstm]*2"


def pair(width: int, blocks: int, device: str) -> tuple[LanguageModel, transformers.PreTrainedModel]:
    """xLSTM of one shape: ours with weights in the precision chosen, and theirs with weights in fp32."""
    theirs, pattern = their_xlstm(width, blocks, device, "inference")
    cap = theirs.config.output_logit_soft_cap
    ours = hybridkit.build(pattern, width=width, heads=HEADS, vocab=VOCAB, logit_cap=cap)
    check_sizes(ours, theirs)
    return ours.to(device, DTYPES[precision(device)]), theirs.eval()


def generate_ours(model: LanguageModel, ids: Tensor, tokens: int) -> None:
    """Greedy tokens, by hybridkit."""
    for _ in model.generate(model.prefill(ids), max_tokens=tokens, temperature=0):
        pass


@torch.inference_mode()
def generate_theirs(model: transformers.PreTrainedModel, ids: Tensor, tokens: int) -> None:
    """Greedy tokens, by transformers; under autocast where `autocast` says so."""
    ends = {"eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    with autocast(model):
        model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **ends)  # type: ignore[operator]


def compare(width: int, blocks: int, batch: int, tokens: int, rounds: int) -> None:
    """Print one row: medians over the rounds after one that warms up."""
    ours, theirs = pair(width, blocks, "cpu")
    ids = torch.randint(256, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    calls = {"ours": partial(generate_ours, ours, ids, tokens)}
    for way, model in in_both_ways("theirs", theirs).items():
        calls[way] = partial(generate_theirs, model, ids, tokens)
    mine, *others = take_turns(calls, rounds).values()
    best = [min(ways) for ways in zip(*others, strict=True)]  # of each round
    rates = [batch * tokens / medians(times).wall for times in (mine, best)]
    faster = ratios(best, mine)
    figures = f"{rates[0]:9,.0f} {rates[1]:9,.0f} {faster.wall:7.2f} {faster.processor:10.2f}"
    print(f"{width:6} {blocks:7} {batch:6} {figures}", flush=True)


def by_position(width: int) -> None:
    """Print the milliseconds per token of a bounded stack after 1k to 128k tokens."""
    model = hybridkit.build(BOUNDED, width=width).to(DTYPES[precision("cpu")])
    print(f"\n{BOUNDED}, width {width}\n  tokens read  ms/token")
    ids = torch.randint(256, (1, POSITIONS[-1]), generator=torch.Generator().manual_seed(0))
    context = None
    for begin, end in zip((0, *POSITIONS), POSITIONS, strict=False):
        context = model.prefill(ids[:, begin:end], context)
        marks = [time.perf_counter() for _ in islice(model.generate(context, temperature=0), 300)]
        print(f"{end:13,} {median(b - a for a, b in pairwise(marks)) * 1e3:9.3f}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--widths", type=int, nargs="+", default=sorted({width for width, _, _ in SHAPES}))
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    choose(arguments.precision)
    threads, tokens = torch.get_num_threads(), arguments.tokens
    print(f"xLSTM, {precision('cpu')}, {threads} threads, prompt {PROMPT}, {tokens} greedy tokens a row")
    print("                        tokens a second    speed-up of ours")
    print(" width  blocks  batch      ours    theirs    wall  processor")
    for shape in SHAPES:
        if shape[0] in arguments.widths:
            compare(*shape, arguments.tokens, arguments.rounds)
    if 128 in arguments.widths:
        by_position(width=128)


if __name__ == "__main__":
    main()
