"""The speed of matrix products on this machine: of ones and of random numbers, in three layouts, over time.

    OMP_NUM_THREADS=2 python tools/benchmarks/ceiling.py --seconds 30
    python tools/benchmarks/ceiling.py --device cuda --precision bf16

Each round measures every product once; best and median are over all rounds. A ceiling should be the best speed of the
products that layers compute, x @ W^T of random numbers, over some time.
"""

import argparse
import time
from statistics import median

import torch

from hybridkit.system.machine import DTYPES
from hybridkit.system.timing import seconds

SIDE = {"cpu": 1024, "cuda": 8192}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    device, side = torch.device(given.device), SIDE[given.device]
    kinds = {"ones": torch.ones, "random": torch.randn}
    made = {
        kind: [make(side, side, device=device).to(DTYPES[given.precision]) for _ in range(2)]
        for kind, make in kinds.items()
    }
    calls = {f"{kind}, x @ W": (lambda x=x, w=w: x @ w) for kind, (x, w) in made.items()}
    calls |= {f"{kind}, x @ W^T": (lambda x=x, w=w: x @ w.T) for kind, (x, w) in made.items()}
    calls |= {f"{kind}, x^T @ W": (lambda x=x, w=w: x.T @ w) for kind, (x, w) in made.items()}
    rates: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + given.seconds
    while time.monotonic() < end:
        for name, call in calls.items():
            rates[name].append(2 * side**3 / seconds(call, device))
    print(
        f"{side} x {side}, {given.precision} on {device}, {torch.get_num_threads()} threads, {len(rates[name])} rounds"
    )
    print(f"{'product':<20}{'best GFLOP/s':>14}{'median':>10}{'best / median':>15}")
    for name, found in rates.items():
        best, middle = max(found) / 1e9, median(found) / 1e9
        print(f"{name:<20}{best:>14,.1f}{middle:>10,.1f}{best / middle:>15.2f}")


if __name__ == "__main__":
    main()
