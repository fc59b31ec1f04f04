"""Memory of single mixers: training on one long row, and reading a long text in chunks.

    python tools/benchmarks/mixer_memory.py [--width 256] [--only gdn,kda] [--part train|read] [--threads 1]

`train`: by how much a forward and a backward of the mixer alone raise the peak of resident memory, batch of one, fp32;
where KiB a token are the same at all lengths, memory grows with the length. `read`: the peak while a model of one such
mixer reads its prompt in chunks of 1,024 tokens, with the bytes of its state; where they are the same, memory is
constant. Every figure is of a process of its own. Both also print the seconds that it took.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

NAMES = ["mlstm", "gdn", "kda", "mamba2", "rglru", "conv", "swa:128"]


def train(name: str, width: int, tokens: int) -> str:
    """One row of the first table."""
    import torch
    from measure import peak_growth

    from hybridkit.block import Dims
    from hybridkit.model.config import ModelConfig
    from hybridkit.model.plan import compile_pattern

    block = compile_pattern(name, ModelConfig(width=width, heads=4, vocab=257, ffn=None)).entries[0].block
    layer = block.build(Dims(width, 4, 257))

    def run(length: int) -> None:
        x, slope = torch.randn(2, 1, length, width).unbind()
        torch.autograd.grad(layer(x.requires_grad_())[0], [x, *layer.parameters()], slope)

    run(64)  # loads what is loaded once
    held = peak_growth(lambda: run(tokens))
    return f"{held / 2**20:12.1f} MiB{held / 1024 / tokens:10.1f} KiB a token"


def read(name: str, width: int, tokens: int) -> str:
    """One row of the second table."""
    import numpy as np
    from measure import CPU

    import hybridkit
    from hybridkit.system.timing import Peak

    model, draw, context = hybridkit.build(name, width=width), np.random.default_rng(0), None
    with Peak(CPU) as peak:
        for _ in range(0, tokens, 1024):
            context = model.prefill(draw.integers(0, 256, 1024, np.uint8), context, chunk=1024)
    assert context is not None
    return f"{peak.bytes / 2**20:12.1f} MiB{context.bytes / 1024:10.1f} KiB of state"


PARTS: dict[str, tuple[Callable[[str, int, int], str], tuple[int, ...]]] = {
    "train": (train, (4096, 16384, 65536)),
    "read": (read, (4096, 131072)),
}


def main() -> None:
    """Print both tables, or what a child process measures."""
    if sys.argv[1:2] == ["--child"]:
        part, name, *numbers = sys.argv[2:]
        print(PARTS[part][0](name, *map(int, numbers)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", type=partial(str.split, sep=","), default=NAMES)
    parser.add_argument("--part", choices=PARTS)
    given = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    for part in [given.part] if given.part else PARTS:
        print(f"{part}, width {given.width}")
        for name in given.only:
            for tokens in PARTS[part][1]:
                command = [sys.executable, __file__, "--child", part, name, f"{given.width}", f"{tokens}"]
                begin = time.time()
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8")
                print(f"{name:<10}{tokens:>10,}{done.stdout.rstrip()}{time.time() - begin:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
