"""How many patterns per second are compiled and costed, as an architecture search does for each candidate.

    python tools/benchmarks/cost.py [--patterns 1000]

All patterns differ. Each has 24 to 48 layers, FFNs included, with random blocks and windows.
"""

import argparse
import random
import time
from collections.abc import Iterator

from hybridkit.cost.flops import Case, cost
from hybridkit.model.plan import compile_pattern

WINDOWS = (64, 128, 256, 512, 1024, 2048)


def patterns(seed: int) -> Iterator[str]:
    """Random patterns, no two alike, without end."""
    draw, said = random.Random(seed), set[str]()
    while True:
        mixers = draw.randint(12, 24)
        pattern = f"[{', '.join(_mixer(draw) for _ in range(mixers))}]"
        if pattern not in said:
            said.add(pattern)
            yield pattern


def _mixer(draw: random.Random) -> str:
    short, long = sorted(draw.sample(WINDOWS, 2))
    kinds = (
        "mlstm(heads=8)",
        "sa",
        f"sa(kv_heads={draw.choice((1, 2, 4))})",
        f"swa:{short}",
        f"swa:stoch({short},{long})",
    )
    return draw.choice(kinds)


def main() -> None:
    """Print patterns a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patterns", type=int, default=1000)
    number = parser.parse_args().patterns
    candidates = [pattern for pattern, _ in zip(patterns(0), range(number), strict=False)]
    begin = time.perf_counter()
    for pattern in candidates:
        found = cost(compile_pattern(pattern, width=2048, heads=16, vocab=131072), Case(16384))
        assert found.training > 0 and found.parameters.total > 0 and found.state > 0
    seconds = time.perf_counter() - begin
    print(f"{number} patterns in {seconds:.2f} s: {number / seconds:.0f} a second")


if __name__ == "__main__":
    main()
