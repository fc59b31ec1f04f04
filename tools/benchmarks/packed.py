"""Products of few rows with weights laid out for decoding, as hybridkit.block.packed chooses, and in other layouts.

    python tools/benchmarks/packed.py [--rounds 15] [--rows 1 8]

GB/s at which a weight is read, the median over the rounds, in which all layouts take turns: nn.Linear's product;
without panels (inputs by outputs or oneDNN's, as the number of rows asks); panels of 16 and of 32 outputs. 32 MiB of
weights of a shape are multiplied in a row, so that each is read from beyond the cache of a core.
"""

import argparse
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from measure import medians, take_turns
from torch import Tensor
from torch.nn import functional as F

from hybridkit.block import packed

SHAPES = ((512, 1536), (1408, 512), (256, 768), (704, 256), (2816, 1024), (512, 32000))  # inputs, outputs
LAYOUTS = {"no panels": 0, "panels of 16": 16, "panels of 32": 32}
BYTES = 32 * 2**20  # of weights


def speeds(weights: list[Tensor], rows: int, rounds: int) -> list[float]:
    """GB/s of every way to multiply."""
    x, ways = torch.randn(rows, weights[0].shape[1]), [[partial(F.linear, weight=weight) for weight in weights]]
    for width in LAYOUTS.values():
        with patch.object(packed, "panel_width", return_value=width):
            ways.append([packed.product(weight, rows) for weight in weights])
    taken = take_turns({place: partial(multiply, x, way) for place, way in enumerate(ways)}, rounds)
    return [sum(weight.nbytes for weight in weights) / medians(times).wall / 1e9 for times in taken.values()]


def multiply(x: Tensor, products: list[Callable[[Tensor], Tensor]]) -> None:
    """One after another."""
    for product in products:
        product(x)


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, fp32, GB/s")
    print("inputs outputs rows" + "".join(f"{name:>14}" for name in ("nn.Linear", *LAYOUTS)))
    for inputs, outputs in SHAPES:
        weights = [torch.randn(outputs, inputs) for _ in range(max(1, BYTES // (4 * inputs * outputs)))]
        for rows in given.rows:
            found = "".join(f"{speed:14.1f}" for speed in speeds(weights, rows, given.rounds))
            print(f"{inputs:6} {outputs:7} {rows:4}{found}", flush=True)


if __name__ == "__main__":
    main()
