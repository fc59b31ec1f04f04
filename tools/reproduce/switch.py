"""How much the training loss jumps where a window grows at once, and where it grows along a ramp.

    python tools/reproduce/switch.py quickstart --seeds 0,1,2 --folder /tmp/switch
    python tools/reproduce/switch.py quickstart --seeds 0 --folder /tmp/small model.width=64 train.steps=200

All arms have the same batches at every step. A jump is the highest mean of 5 steps in the tenth of the run after the
switch begins, less the mean of the 20 steps before it; `paired`: of the losses less those of the arm without a switch,
so that batches that are harder than others do not count. Runs that the folder already holds are not trained again.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from hybridkit.runs.run import Run, load_recipe
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

ARMS = {"none": "fixed(128)", "hard": "schedule(0=16,.5=128)", "ramp": "ramp(16,128,.5,.9)"}
BEFORE, AFTER = 20, 5  # steps of a mean


def losses(recipe: str, folder: Path, arm: str, seed: int, overrides: Sequence[str]) -> list[float]:
    """The training losses of a run, trained now if it is not finished yet."""
    changes = [*overrides, f"pattern=[swa:{ARMS[arm]}, mlstm]*2", f"train.seed={seed}", "train.probes=[]"]
    run = Run(folder / f"{arm}-{seed}")
    run_training(load_recipe(recipe, changes), run.path, resume=True, reporter=Silent())
    return [line["loss"] for line in run.metrics().lines if "loss" in line]


def jump(found: Sequence[float]) -> float:
    """Nats."""
    half = len(found) // 2
    after = [statistics.mean(found[at : at + AFTER]) for at in range(half, half + len(found) // 10)]
    return max(after) - statistics.mean(found[half - BEFORE : half])


def main() -> None:
    """Train every arm for each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key=value, for all")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_intermixed_args()
    print("| seed | arm | jump, nats | paired | last 20 steps, nats |\n|---|---|---|---|---|")
    for seed in map(int, given.seeds.split(",")):
        base: list[float] = []
        for arm in ARMS:
            found = losses(given.recipe, given.folder, arm, seed, given.overrides)
            base = base or found
            paired = jump([own - other for own, other in zip(found, base, strict=True)])
            last = statistics.mean(found[-BEFORE:])
            print(f"| {seed} | {arm} | {jump(found):+.4f} | {paired:+.4f} | {last:.4f} |", flush=True)


if __name__ == "__main__":
    main()
