"""What a long context costs: prefill 1k to 1M tokens in chunks, then decode, each length in a process of its own.

    python tools/long_context.py --plot long_context.png

Prints time a token, peak memory of the process and bytes of the states. Weights and tokens are random: cost does not
depend on them. Tokens are drawn as they are read, so that no text is held. Times are medians over chunks, after one
that warms up; a short length is read again until 64 chunks were timed. Processor time is what counts on a busy
machine. Peak memory is the kernel's count of the process (ru_maxrss): nothing allocated anywhere is missed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CHUNKS = 64  # timed at least
LENGTHS = (2**10, 2**14, 2**17, 2**20)
COLUMNS = {
    "tokens": "tokens",
    "prefill_us": "prefill us/token",
    "processor_us": "processor us/token",
    "decode_ms": "decode ms/token",
    "peak_bytes": "peak MiB",
    "state_bytes": "state KiB",
}
UNITS = {"peak_bytes": 2**20, "state_bytes": 2**10}


def measure(pattern: str, width: int, tokens: int, chunk: int) -> dict[str, Any]:
    """Read `tokens` random ids, a chunk at a time, then decode 100, in this process."""
    import torch

    import hybridkit

    torch.manual_seed(0)
    model, draw = hybridkit.build(pattern, width=width), np.random.default_rng(0)
    chunk = min(chunk, tokens)
    model.prefill(draw.integers(0, 256, chunk, np.uint8), chunk=chunk)  # whatever happens once
    taken: list[tuple[float, float]] = []
    while len(taken) < CHUNKS:
        context = None
        for begin in range(0, tokens, chunk):
            ids = draw.integers(0, 256, min(chunk, tokens - begin), np.uint8)
            start = time.perf_counter(), time.process_time()
            context = model.prefill(ids, context, chunk=chunk)
            taken.append(((time.perf_counter() - start[0]) / len(ids), (time.process_time() - start[1]) / len(ids)))
    assert context is not None
    prefill, processor = (median(column) for column in zip(*taken, strict=True))
    marks = [time.perf_counter() for _ in islice(model.generate(context), 101)]
    return {
        "tokens": tokens,
        "prefill_us": prefill * 1e6,
        "processor_us": processor * 1e6,
        "decode_ms": median(np.diff(marks)) * 1e3,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "state_bytes": context.bytes,
    }


def measure_apart(arguments: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """`measure` in a fresh process, whose peak is of nothing else."""
    given = [arguments.pattern, str(arguments.width), str(tokens), str(arguments.chunk)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(
        [sys.executable, __file__, "--child", *given], env=environment, check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def draw(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """A panel a figure over the length, each from zero."""
    from matplotlib.figure import Figure

    names = [name for name in COLUMNS if name not in ("tokens", "processor_us")]
    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, 2, sharex=True).flatten()
    for axes, name in zip(panels, names, strict=True):
        figures = [row[name] / UNITS.get(name, 1) for row in rows]
        axes.plot([row["tokens"] for row in rows], figures, "o-")
        axes.set(xscale="log", ylim=(0, 1.2 * max(figures)), title=COLUMNS[name])
        axes.set_xticks([row["tokens"] for row in rows], [f"{row['tokens']:,}" for row in rows])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in panels[2:]:
        axes.set_xlabel("tokens read")
    figure.savefig(file)


def main() -> None:
    """Read the command line, measure each length, print the table."""
    if sys.argv[1:2] == ["--child"]:
        pattern, *sizes = sys.argv[2:]
        print(json.dumps(measure(pattern, *map(int, sizes))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", default="[swa:128, mlstm]*2")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    print(f"{arguments.pattern}, width {arguments.width}, chunks of {arguments.chunk}, {arguments.threads} threads")
    print("".join(f"{title:>20}" for title in COLUMNS.values()))
    rows = []
    for tokens in arguments.lengths:
        rows.append(measure_apart(arguments, tokens))
        figures = {name: rows[-1][name] / UNITS.get(name, 1) for name in COLUMNS}
        print("".join(f"{figure:20,.{0 if name == 'tokens' else 2}f}" for name, figure in figures.items()), flush=True)
    if arguments.plot:
        draw(rows, f"{arguments.pattern}, width {arguments.width}", arguments.plot)


if __name__ == "__main__":
    main()
