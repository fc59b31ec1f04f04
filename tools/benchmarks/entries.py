"""A decoding step of stacks whose entries are more than x + layer(norm(x)): norms, factors, branches side by side.

    OMP_NUM_THREADS=1 python tools/benchmarks/entries.py [--rounds 9] [--tokens 40] [--widths 256 512]

Milliseconds a token of `step` and of the layers' decoders, whose weights are laid out, medians over the rounds in which
both take turns, and how many times faster the second is. The head is laid out for both.
"""

import argparse
from collections.abc import Callable

import torch
from measure import medians, ratios, take_turns
from torch import Tensor

import hybridkit
from hybridkit.block import clone_state
from hybridkit.inference.language_model import LanguageModel

STACKS = {  # options of the model, and patterns like those of published families
    "plain": ({}, "[swa:128, mlstm]*3"),
    "norm=post": ({"norm": "post"}, "[swa:128, gdn]*3"),
    "norm=both": ({"norm": "both"}, "[swa:128, sa]*3"),
    "residual_scale": ({"residual_scale": 0.22}, "[sa, mamba2]*3"),
    "side by side": ({}, "[swa:128 | mamba2]*4"),
    "mean_norm": ({"branches": "mean_norm"}, "[swa:128 | mamba2]*4"),
}
PROMPT = 16


def steps(model: LanguageModel, ids: Tensor, tokens: int, laid_out: bool) -> Callable[[], None]:
    """A call that runs so many tokens after the prompt."""
    rows = len(ids)
    run = [layer.decoder(rows) if laid_out else layer.step for layer in model.layers]
    states, head = model.prefill(ids).states, model.head.decoder(rows)

    def call() -> None:
        held = model.reserve([clone_state(state) for state in states], PROMPT + tokens)
        for _ in range(tokens):
            _, held = model.run_steps(run, ids[:, 0], held, head=head)

    return call


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, fp32\nentries        width rows    step  laid out  times")
    for name, (options, pattern) in STACKS.items():
        for width in given.widths:
            model = hybridkit.build(pattern, width=width, heads=4, vocab=512, **options)  # type: ignore[arg-type]
            for rows in (1, 8):
                ids = torch.randint(512, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
                ways = {laid: steps(model, ids, given.tokens, laid) for laid in (False, True)}
                taken = take_turns(ways, given.rounds)
                plain, laid = (1e3 * medians(times).wall / given.tokens for times in taken.values())
                faster = ratios(taken[False], taken[True]).wall
                print(f"{name:14} {width:5} {rows:4} {plain:7.2f} {laid:9.2f} {faster:6.2f}", flush=True)


if __name__ == "__main__":
    main()
