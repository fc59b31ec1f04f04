"""Speed and memory of the loss by position over long rows: 8k to 128k tokens, read in chunks.

    python tools/benchmarks/long_eval.py

Prints tokens per second and the peak memory of the process as the kernel counts it; each length is measured in a new
process. Weights and tokens are random, since time and memory do not depend on them.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

LENGTHS = (2**13, 2**15, 2**17)


def measure(pattern: str, width: int, tokens: int) -> dict[str, Any]:
    """Predict one row of `tokens` random ids in this process."""
    import torch
    from measure import CPU, both_clocks

    import hybridkit
    from hybridkit.data.batches import Batch
    from hybridkit.evaluation.perplexity import by_position
    from hybridkit.evaluation.scoring import ReadOptions
    from hybridkit.system.timing import Peak

    torch.manual_seed(0)
    model = hybridkit.build(pattern, width=width)
    ids = torch.randint(257, (1, tokens + 1))
    batch = Batch(ids[:, :-1], ids[:, 1:], None, tokens)
    with Peak(CPU) as peak:
        taken = both_clocks(lambda: by_position(model, [batch], ReadOptions()))
    return {"tokens": tokens, "tokens_per_second": tokens / taken.wall, "peak_mib": peak.bytes / 2**20}


def main() -> None:
    """Measure every length, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", default="[swa:128, mlstm]*2")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--tokens", type=int, help="measure this length alone, in this process, as JSON")
    given = parser.parse_args()
    if given.tokens:
        print(json.dumps(measure(given.pattern, given.width, given.tokens)))
        return
    print(f"{'tokens':>8} {'tokens/s':>9} {'peak MiB':>9}")
    for tokens in LENGTHS:
        words = ["--pattern", given.pattern, "--width", str(given.width), "--tokens", str(tokens)]
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, encoding="utf-8", check=True)
        found = json.loads(done.stdout)
        print(f"{found['tokens']:>8,} {found['tokens_per_second']:>9,.0f} {found['peak_mib']:>9,.0f}")


if __name__ == "__main__":
    main()
