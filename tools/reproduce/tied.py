"""Bits per byte of a tied and an untied model on one recipe, for each seed.

    python tools/reproduce/tied.py quickstart --seeds 0,1 --folder /tmp/tied
    python tools/reproduce/tied.py quickstart --seeds 0 --folder /tmp/small model.width=64 data.sequence=256

Runs that the folder already holds are not trained again. Exit code 1 if the means differ by more than .02 bits/byte.
"""

import argparse
import statistics
import sys
from pathlib import Path

from hybridkit.runs.run import Run, load_recipe
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

LIMIT = 0.02  # bits per byte


def trained(recipe: str, folder: Path, tie: bool, seed: int, overrides: list[str]) -> list[dict[str, float]]:
    """The metrics of a run, trained now if it is not finished yet."""
    changes = [*overrides, f"model.tie={str(tie).lower()}", f"train.seed={seed}"]
    run = Run(folder / f"{'tied' if tie else 'untied'}-{seed}")
    run_training(load_recipe(recipe, changes), run.path, resume=True, reporter=Silent())
    return run.metrics().lines


def main() -> int:
    """Train both models for each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key=value, for both")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_intermixed_args()
    last: dict[bool, list[float]] = {False: [], True: []}
    print("| seed | | first loss, nats | bits per byte |\n|---|---|---|---|")
    for seed in map(int, given.seeds.split(",")):
        for tie in (False, True):
            lines = trained(given.recipe, given.folder, tie, seed, given.overrides)
            last[tie].append(next(line["val_bits_per_byte"] for line in reversed(lines) if "val_loss" in line))
            print(
                f"| {seed} | {'tied' if tie else 'untied'} | {lines[0]['loss']:.3f} | {last[tie][-1]:.4f} |", flush=True
            )
    difference = statistics.mean(last[True]) - statistics.mean(last[False])
    print(f"tied less untied: {difference:+.4f} bits per byte; should be at most {LIMIT} in size")
    return int(abs(difference) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
