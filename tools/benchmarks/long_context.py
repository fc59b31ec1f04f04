"""Time and memory of long contexts: prefill of 1k to 1M tokens in chunks, then decoding.

    python tools/benchmarks/long_context.py --plot long_context.png

Prints the time per token, the peak memory of the process and the bytes of the states; each length is measured in a new
process. Weights and tokens are random, since time and memory do not depend on them; tokens are drawn chunk by chunk.
Times are medians over at least 64 chunks, after one that warms up. On a busy machine, compare processor times. Peak
memory is the kernel's count for the whole process.
"""

import argparse
import json
import os
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
    from measure import CPU

    import hybridkit
    from hybridkit.system.timing import Peak

    torch.manual_seed(0)
    model, draw = hybridkit.build(pattern, width=width), np.random.default_rng(0)
    chunk = min(chunk, tokens)
    model.prefill(draw.integers(0, 256, chunk, np.uint8), chunk=chunk)  # warms up
    taken: list[tuple[float, float]] = []
    with Peak(CPU) as peak:
        while len(taken) < CHUNKS:
            context = None
            for begin in range(0, tokens, chunk):
                ids = draw.integers(0, 256, min(chunk, tokens - begin), np.uint8)
                start = time.perf_counter(), time.process_time()
                context = model.prefill(ids, context, chunk=chunk)
                taken.append(((time.perf_counter() - start[0]) / len(ids), (time.process_time() - start[1]) / len(ids)))
        assert context is not None
        marks = [time.perf_counter() for _ in islice(model.generate(context), 101)]
    prefill, processor = (median(column) for column in zip(*taken, strict=True))
    return {
        "tokens": tokens,
        "prefill_us": prefill * 1e6,
        "processor_us": processor * 1e6,
        "decode_ms": median(np.diff(marks)) * 1e3,
        "peak_bytes": peak.bytes,
        "state_bytes": context.bytes,
    }


def measure_apart(arguments: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """`measure` in a new process, so that the peak is that of this length alone."""
    given = [arguments.pattern, str(arguments.width), str(tokens), str(arguments.chunk)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(
        [sys.executable, __file__, "--child", *given], env=environment, check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def draw(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """One panel for each measured value over the length, its axis from zero."""
    from matplotlib.figure import Figure

    names = [name for name in COLUMNS if name not in ("tokens", "processor_us")]
    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, 2, sharex=True).flatten()
    for axes, name in zip(panels, names, strict=True):
        values = [row[name] / UNITS.get(name, 1) for row in rows]
        axes.plot([row["tokens"] for row in rows], values, "o-")
        axes.set(xscale="log", ylim=(0, 1.2 * max(values)), title=COLUMNS[name])
        axes.set_xticks([row["tokens"] for row in rows], [f"{row['tokens']:,}" for row in rows])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in panels[2:]:
        axes.set_xlabel("tokens read")
    figure.savefig(file)


def main() -> None:
    """Measure each length and print the table."""
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
        values = {name: rows[-1][name] / UNITS.get(name, 1) for name in COLUMNS}
        print("".join(f"{value:20,.{0 if name == 'tokens' else 2}f}" for name, value in values.items()), flush=True)
    if arguments.plot:
        draw(rows, f"{arguments.pattern}, width {arguments.width}", arguments.plot)


if __name__ == "__main__":
    main()
